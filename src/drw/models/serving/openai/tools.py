"""Tool calls for engines without them: the answer is constrained by a JSON schema and converted to a tool call."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson
from pydantic_core import from_json

from drw.models.serving.ports import Body, Chunk

ANSWER_FUNCTION = "final_answer"
"""Name of the internal function for an answer. Underscores are added if the caller uses the name."""
IS_ANSWER = "answer"
"""Field of the internal function: whether its arguments have the answer as `text`, or are the answer as `json`."""
TEXT_ANSWER: dict[str, Any] = {
    IS_ANSWER: "text",
    "description": "reply in text when no function fits",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    },
}
JSON_ANSWER: dict[str, Any] = {IS_ANSWER: "json", "description": "reply in JSON when no function fits"}

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
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        return {name: functions[name]}
    if choice == "required":
        return functions
    name = next(
        name for name in (ANSWER_FUNCTION + "_" * n for n in range(len(functions) + 1)) if name not in functions
    )
    return functions | {name: _answer_function(body.get("response_format") or {})}


def _answer_function(response_format: dict[str, Any]) -> dict[str, Any]:
    """Return the internal function whose arguments are an answer in the response format."""
    if response_format.get("type") == "json_object":
        return JSON_ANSWER | {"parameters": {"type": "object"}, "strict": True}
    if response_format.get("type") != "json_schema":
        return TEXT_ANSWER
    schema = response_format["json_schema"]
    answer = JSON_ANSWER | {"parameters": schema["schema"], "strict": schema.get("strict")}
    return answer | ({"description": schema["description"]} if schema.get("description") else {})


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
        "response_format": _json_schema(schema, _all_strict(tools)),
    }


def separate_formats(tools: Tools) -> list[tuple[str, dict[str, Any]]]:
    """Return the response formats that must compile on their own, with the parameter that an error names.

    These are the format of the answer, and the strict functions if others are not: the common schema is then lenient.
    """
    all_strict = _all_strict(tools)
    return [
        ("response_format" if IS_ANSWER in tool else "tools", _json_schema(tool["parameters"], tool.get("strict")))
        for tool in tools.values()
        if tool.get(IS_ANSWER) == "json" or (tool.get("strict") and "parameters" in tool and not all_strict)
        if tool is not TEXT_ANSWER
    ]


async def as_tool_calls(
    chunks: AsyncGenerator[Chunk, None], tools: Tools, stop: str | list[str] | None = None
) -> AsyncGenerator[Chunk, None]:
    """Buffer the text of each choice to its end, and convert it to a tool call.

    `stop` applies to answers only; in a tool call it would break the JSON.
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


def _json_schema(schema: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "call", "strict": bool(strict), "schema": schema}}


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
    if tools[name].get(IS_ANSWER) == "json":
        return _cut_at_stop(arguments, reason, stops)
    if tools[name].get(IS_ANSWER) == "text":
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
