"""Tool calls from an engine that has none: a JSON schema that leaves the model no other way to answer."""

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

ANSWER = "final_answer"
"""What the model calls where no function fits, unless a function has this name; callers never see it."""
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}

CALL = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"arguments"\s*:\s*(.*)', re.DOTALL)
"""How an answer begins that calls a function."""

OF_TEXT = ("logprobs", "top_logprobs", "stop")
"""Parameters about the answer's text, which the engine does not write: it writes JSON around it."""

Tools = dict[str, dict[str, Any]]
"""The parameters' JSON schema and description of each function that may be called."""


def chosen_tools(body: Body) -> Tools:
    """Return the functions that `tool_choice` leaves to the model; none where it may call none."""
    offered = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", ())}
    choice = body.get("tool_choice", "auto")
    if not offered or choice == "none":
        return {}
    if body.get("response_format", {}).get("type", "text") != "text":
        raise NotSupported("response_format", "this model takes either tools or a response_format")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        if name not in offered:
            raise InvalidRequest(f"tool_choice names {name!r}; tools has: {', '.join(offered)}", param="tool_choice")
        return {name: offered[name]}
    if choice == "required":
        return offered
    name = next(name for name in (ANSWER + "_" * n for n in range(len(offered) + 1)) if name not in offered)
    answer = {"description": "reply in text when no function fits", "parameters": ANSWER_SCHEMA, "strict": True}
    return offered | {name: answer}


def constrained(body: Body, tools: Tools) -> Body:
    """Return the request with the functions told to the model and its answer held to calling one."""
    if not tools:
        return {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    lines = "\n".join(f"- {name}: {tool.get('description') or name}" for name, tool in tools.items())
    instructions = f"Choose exactly one function for the user's request and fill in its arguments. Functions:\n{lines}"
    schema = {"anyOf": [_call_schema(index, name, tool) for index, (name, tool) in enumerate(tools.items())]}
    spoken = {name: value for name, value in body.items() if name not in OF_TEXT}
    return spoken | {
        "messages": [{"role": "system", "content": instructions}, *body["messages"]],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "call", "strict": _all_strict(tools), "schema": schema},
        },
    }


def strict_among_others(tools: Tools) -> Tools:
    """Return the strict functions where others are not: one schema for all is read as that of the others is."""
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
    """Yield the chunks with each choice's text held back to its end, and given out as the call that it is.

    `stop` ends a text; in a call it would break the JSON.
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
                    delta, reason = _ended(by_index[index], reason, tools, stops)
                    choice |= {"delta": delta, "finish_reason": reason}
            yield chunk
    finally:
        await chunks.aclose()


def _all_strict(tools: Tools) -> bool:
    return all(tool.get("strict") for tool in tools.values() if "parameters" in tool)


def _call_schema(index: int, name: str, tool: dict[str, Any]) -> dict[str, Any]:
    parameters = _moved(tool.get("parameters") or {"type": "object"}, f"#/anyOf/{index}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """Return a schema with its references as they are where it has become a part of another."""
    if isinstance(schema, list):
        return [_moved(each, prefix) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: prefix + value[1:]
        if key == "$ref" and isinstance(value, str) and value[:1] == "#"
        else _moved(value, prefix)
        for key, value in schema.items()
    }


def _ended(text: str, reason: str, tools: Tools, stops: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    if (begun := CALL.match(text)) is None or begun[1] not in tools:
        return {}, reason  # cut before there is anything of the answer
    name, arguments = begun[1], begun[2]
    try:
        arguments, whole = orjson.dumps(orjson.loads(text)["arguments"]).decode(), True
    except orjson.JSONDecodeError:  # cut by max_tokens: `length` says so
        whole = False
    if tools[name].get("parameters") is ANSWER_SCHEMA:
        written = from_json(arguments, allow_partial="trailing-strings") if arguments else {}
        return _stopped(written.get("text", ""), reason, stops)
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
    return {"tool_calls": [call]}, "tool_calls" if whole else reason


def _stopped(text: str, reason: str, stops: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the text up to the first of the texts that stop it."""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return ({"content": text[: min(ends)]}, "stop") if ends else ({"content": text}, reason)
