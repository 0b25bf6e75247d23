"""Converts requests of the Responses API to chats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import orjson

from drw.models.serving.openai.requests import ChatCompletion, parse_request, supported_parameters
from drw.models.serving.responses_api.requests import CreateResponse
from drw.models.serving.responses_api.tools import FunctionTool, NamedChoice

ChatMessage = dict[str, Any]
Item = dict[str, Any]


class ResponseChat(ChatCompletion):
    """A chat that was converted from the Responses API: errors list the parameters of that API."""

    PARAMETERS: ClassVar[tuple[str, ...]] = tuple(supported_parameters(CreateResponse))


def to_chat(request: CreateResponse, items: Sequence[Item], sources: str) -> ResponseChat:
    """Return the request as a chat: instructions, sources of a file search, and the items of the conversation.

    Raises:
        InvalidRequest: a value is invalid for a chat.
    """
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request, items, sources),
        "stream": bool(request.stream),
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning_effort": request.reasoning and request.reasoning.effort,
        "verbosity": request.text and request.text.verbosity,
        "response_format": _response_format(request),
    }
    if request.with_logprobs:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if functions := request.functions:
        fields["tools"] = [_tool(tool) for tool in functions]
        fields["tool_choice"] = _tool_choice(request)
        fields["parallel_tool_calls"] = request.parallel_tool_calls
    return parse_request(ResponseChat, orjson.dumps({n: value for n, value in fields.items() if value is not None}))


def last_question(items: Sequence[Item]) -> str:
    """Return the text of the last message of the user; empty if there is none."""
    for item in reversed(items):
        if item.get("type") == "message" and item["role"] == "user":
            content = item["content"]
            parts = [{"text": content}] if isinstance(content, str) else content
            return "\n".join(text for part in parts if (text := part.get("text")))
    return ""


def _messages(request: CreateResponse, items: Sequence[Item], sources: str) -> list[ChatMessage]:
    heads = [text for text in (request.instructions, sources) if text]
    messages: list[ChatMessage] = [{"role": "system", "content": "\n\n".join(heads)}] if heads else []
    reasoning = ""
    for item in items:
        match item["type"]:
            case "message":
                messages.append(_message(item))
            case "function_call":
                _add_call(messages, item)
            case "function_call_output":
                output = {"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])}
                messages.append(output)
            case "reasoning":
                reasoning += "".join(part["text"] for part in item.get("content") or ())
        if reasoning and messages and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"], reasoning = reasoning, ""
    return messages


def _message(item: Item) -> ChatMessage:
    return {"role": item["role"], "content": _content(item["content"])}


def _add_call(messages: list[ChatMessage], item: Item) -> None:
    """Add a call of a function to the message of the assistant before it, or to a new one."""
    call = {"id": item["call_id"], "type": "function"}
    call["function"] = {"name": item["name"], "arguments": item["arguments"]}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _content(content: str | Iterable[dict[str, Any]]) -> Any:
    """Return content as a string if it is one text, which every engine reads, or as chat content parts."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_image":
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"]} | detail}
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    return {"type": "text", "text": part["text"]}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function | {"strict": tool.strict}}


def _tool_choice(request: CreateResponse) -> Any:
    """Return the choice among functions. A file search satisfies `required`."""
    choice = request.tool_choice
    if isinstance(choice, NamedChoice):
        if choice.type == "function":
            return {"type": "function", "function": {"name": choice.name}}
        choice = choice.mode or "auto"
    return "auto" if choice == "required" and request.file_search else choice


def _response_format(request: CreateResponse) -> dict[str, Any] | None:
    text_format = request.text and request.text.format
    if not text_format or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return {"type": "json_object"}
    schema = {"name": text_format.name or "answer", "description": text_format.description}
    return {
        "type": "json_schema",
        "json_schema": schema | {"schema": text_format.schema_, "strict": text_format.strict},
    }
