"""Converts Anthropic's requests to OpenAI's chat completions."""

from __future__ import annotations

from typing import Any, ClassVar

import orjson

from drw.models.serving.anthropic.content import (
    ClientTool,
    ImageBlock,
    System,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from drw.models.serving.anthropic.requests import CreateMessage, Prompt
from drw.models.serving.openai.requests import ChatCompletion, parse_request, supported_parameters

ChatMessage = dict[str, Any]

PARAGRAPH = "\n\n"
ERROR_PREFIX = "Error: "
"""Precedes the result of a tool call that failed: OpenAI's API has no field for it."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""OpenAI's tool choices by Anthropic's."""


class MessagesChat(ChatCompletion):
    """A chat that was converted from Anthropic's API: errors list the parameters of that API."""

    PARAMETERS: ClassVar[tuple[str, ...]] = tuple(supported_parameters(CreateMessage))


def to_chat(request: Prompt) -> MessagesChat:
    """Return the request as a chat.

    Raises:
        InvalidRequest: a value is invalid for a chat.
    """
    fields = _prompt_fields(request)
    if isinstance(request, CreateMessage):
        fields |= {"max_tokens": request.max_tokens, "stream": bool(request.stream)}
        for name in ("temperature", "top_p", "top_k"):
            fields[name] = getattr(request, name)
        fields["stop"] = request.stop_sequences or None
        fields["safety_identifier"] = request.session or None  # the user in experiments; it is not passed on
    return parse_request(MessagesChat, orjson.dumps({n: value for n, value in fields.items() if value is not None}))


def _prompt_fields(request: Prompt) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": request.model, "messages": _messages(request)}
    if request.tools:
        fields["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := request.tool_choice) and request.tools:
        named = {"type": "function", "function": {"name": choice.name}}
        fields["tool_choice"] = CHOICES.get(choice.type, named)
        if choice.disable_parallel_tool_use is not None:
            fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if config := request.output_config:
        fields["reasoning_effort"] = config.effort
        if config.format:
            schema = {"name": "answer", "strict": True, "schema": config.format.schema_}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _messages(request: Prompt) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    if request.system:
        messages.append({"role": "system", "content": _system_text(request.system)})
    for message in request.messages:
        for converted in _assistant(message) if message.role == "assistant" else _turn(message):
            if messages and _can_merge(messages[-1], converted):
                messages[-1]["content"] = _parts(messages[-1]["content"]) + _parts(converted["content"])
            else:
                messages.append(converted)
    return [message | {"content": _simplified(message["content"])} for message in messages]


def _system_text(system: System) -> str:
    return system if isinstance(system, str) else PARAGRAPH.join(block.text for block in system)


def _turn(message: Turn) -> list[ChatMessage]:
    """Return a turn of the user as chat messages: one for each tool result, and the rest in between, in order."""
    converted: list[ChatMessage] = []
    for block in message.blocks:
        if isinstance(block, ToolResultBlock):
            converted.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)})
        elif converted and converted[-1]["role"] == message.role:
            converted[-1]["content"].append(_part(block))
        else:
            converted.append({"role": message.role, "content": [_part(block)]})
    return converted or [{"role": message.role, "content": ""}]


def _assistant(message: Turn) -> list[ChatMessage]:
    """Return a turn of the assistant as one chat message."""
    blocks = message.blocks
    text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    reasoning = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    converted: ChatMessage = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        converted["tool_calls"] = calls
    if reasoning:
        converted["reasoning_content"] = reasoning
    return [converted]


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ToolResultBlock) -> str | list[dict[str, Any]]:
    prefix = ERROR_PREFIX if block.is_error else ""
    if block.content is None or isinstance(block.content, str):
        return prefix + (block.content or "")
    parts = [_part(part) for part in block.content]
    if all(part["type"] == "text" for part in parts):
        return prefix + PARAGRAPH.join(part["text"] for part in parts)
    return [{"type": "text", "text": prefix}, *parts] if prefix else parts


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    return {"type": "image_url", "image_url": {"url": block.source.data_url}}


def _can_merge(previous: ChatMessage, message: ChatMessage) -> bool:
    """Return whether consecutive turns of the user are one turn, as in Anthropic's API."""
    return bool(previous["role"] == message["role"] == "user")


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _simplified(content: Any) -> Any:
    """Return content that is text only as a string, which every engine reads."""
    if not isinstance(content, list) or any(part["type"] != "text" for part in content):
        return content
    return PARAGRAPH.join(part["text"] for part in content)


def _tool(tool: ClientTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function | {"strict": tool.strict}}
