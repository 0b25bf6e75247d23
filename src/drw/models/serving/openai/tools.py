"""Tool calls for engines without them: the answer is constrained by a JSON schema and converted to a tool call."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson
from pydantic_core import from_json

from drw.kernel.errors import InvalidRequest
from drw.models.serving.errors import NotSupported
from drw.models.serving.ports import Body, Chunk

ANSWER_FUNCTION = "final_answer"
"""Name of the internal function for an answer in text. Underscores are added if the caller uses the name."""
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}

CALL_PATTERN = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"arguments"\s*:\s*(.*)', re.DOTALL)
"""Matches the start of an answer that calls a function."""

TEXT_PARAMETERS = ("logprobs", "top_logprobs", "stop")
"""Parameters that refer to the text of the answer. The engine writes JSON around it, so they are not sent."""

Tools = dict[str, dict[str, Any]]
"""Functions by name, each with the JSON schema of its parameters and its description."""


def allowed_tools(body: Body) -> Tools:
    """Return the functions that `tool_choice` allows; empty if none."""
    functions = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", ())}
    choice = body.get("tool_choice", "auto")
    if not functions or choice == "none":
        return {}
    if body.get("response_format", {}).get("type", "text") != "text":
        raise NotSupported("response_format", "this model supports either tools or a response_format")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        if name not in functions:
            raise InvalidRequest(f"tool_choice names {name!r}; tools has: {', '.join(functions)}", param="tool_choice")
        return {name: functions[name]}
    if choice == "required":
        return functions
    name = next(
        name for name in (ANSWER_FUNCTION + "_" * n for n in range(len(functions) + 1)) if name not in functions
    )
    answer = {"description": "reply in text when no function fits", "parameters": ANSWER_SCHEMA, "strict": True}
    return functions | {name: answer}


def with_tool_schema(body: Body, tools: Tools) -> Body:
    """Return the request with the functions in a system message and a response format that forces a call."""
    if not tools:
        return {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    lines = "\n".join(f"- {name}: {tool.get('description') or name}" for name, tool in tools.items())
    instructions = f"Choose exactly one function for the user's request and fill in its arguments. Functions:\n{lines}"
    schema = {"anyOf": [_call_schema(index, name, tool) for index, (name, tool) in enumerate(tools.items())]}
    remaining = {name: value for name, value in body.items() if name not in TEXT_PARAMETERS}
    return remaining | {
        "messages": [{"role": "system", "content": instructions}, *body["messages"]],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "call", "strict": _all_strict(tools), "schema": schema},
        },
    }


def separately_strict_tools(tools: Tools) -> Tools:
    """Return the strict functions if others are not strict: the common schema is then compiled leniently."""
    if _all_strict(tools):
        return {}
    return {
        name: tool
        for name, tool in tools.items()
        if tool.get("strict") and tool.get("parameters", ANSWER_SCHEMA) is not ANSWER_SCHEMA
    }


async def as_tool_calls(
    chunks: AsyncGenerator[Chunk, None], tools: Tools, stop: str | list[str] | None = None
) -> AsyncGenerator[Chunk, None]:
    """Buffer the text of each choice to its end, and convert it to a tool call.

    `stop` applies to answers in text only; in a tool call it would break the JSON.
    """
    stops = [stop] if isinstance(stop, str) else stop or []
    by_index: dict[int, str] = {}
    try:
        async for chunk in chunks:
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                index = choice.get("index", 0)
                by_index[index] = by_index.get(index, "") + (delta.pop("content", None) or "")
                if reason := choice.get("finish_reason"):
                    choice |= _parse_call(by_index[index], reason, tools, stops)
            yield chunk
    finally:
        await chunks.aclose()


def _all_strict(tools: Tools) -> bool:
    return all(tool.get("strict") for tool in tools.values() if "parameters" in tool)


def _call_schema(index: int, name: str, tool: dict[str, Any]) -> dict[str, Any]:
    parameters = _rebase_references(
        tool.get("parameters") or {"type": "object"}, f"#/anyOf/{index}/properties/arguments"
    )
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _rebase_references(schema: Any, prefix: str) -> Any:
    """Return a schema with its references adjusted to its position in another schema."""
    if isinstance(schema, list):
        return [_rebase_references(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: prefix + value[1:]
        if key == "$ref" and isinstance(value, str) and value[:1] == "#"
        else _rebase_references(value, prefix)
        for key, value in schema.items()
    }


def _parse_call(text: str, reason: str, tools: Tools, stops: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a choice that has this text."""
    if (match := CALL_PATTERN.match(text)) is None or match[1] not in tools:
        return {"delta": {}, "finish_reason": reason}  # truncated before the arguments
    name, arguments = match[1], match[2]
    try:
        arguments, complete = orjson.dumps(orjson.loads(text)["arguments"]).decode(), True
    except orjson.JSONDecodeError:  # truncated by max_tokens; the finish reason is `length`
        complete = False
    if tools[name].get("parameters") is ANSWER_SCHEMA:
        answer = from_json(arguments, allow_partial="trailing-strings") if arguments else {}
        return _cut_at_stop(answer.get("text", ""), reason, stops)
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
    return {"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls" if complete else reason}


def _cut_at_stop(text: str, reason: str, stops: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a choice: the text up to the first stop sequence, and its finish reason."""
    if not (matches := [(end, stop) for stop in stops if (end := text.find(stop)) >= 0]):
        return {"delta": {"content": text}, "finish_reason": reason}
    end, stop = min(matches)
    return {"delta": {"content": text[:end]}, "finish_reason": "stop", "stop_reason": stop}
