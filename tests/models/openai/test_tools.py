"""Tool calls by JSON schema, including truncated ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonschema
import openai
import orjson
import pytest

from drw.models.serving.openai.tools import ANSWER_SCHEMA, _parse_call
from models.cluster import Web
from models.openai.test_openai_api import tool

ADDRESS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
NESTED = {
    "type": "object",
    "properties": {"home": {"$ref": "#/$defs/Address"}, "work": {"anyOf": [{"$ref": "#/$defs/Address"}]}},
    "required": ["home", "work"],
    "additionalProperties": False,
    "$defs": {"Address": ADDRESS | {"additionalProperties": False}},
}
ASK = [{"role": "user", "content": "Where is Ann?"}]


@pytest.fixture
async def web(start: Callable[..., Any], engine: Path) -> AsyncIterator[Web]:
    async with start(small=engine) as found:
        yield found


async def asked(web, **more):
    return await web.client.chat.completions.create(**{"model": "small", "messages": ASK, "max_tokens": 120, **more})


async def test_a_tool_schema_with_references_is_supported(web: Web) -> None:
    person = {"type": "function", "function": {"name": "person", "parameters": NESTED}}
    for tools in ([person], [tool("other", a={"const": 1}), person]):
        named = {"type": "function", "function": {"name": "person"}}
        (choice,) = (await asked(web, tools=tools, tool_choice=named)).choices
        (call,) = choice.message.tool_calls
        jsonschema.validate(orjson.loads(call.function.arguments), NESTED)


async def test_a_tool_can_have_the_internal_function_name(web: Web) -> None:
    mine = tool("final_answer", answer={"enum": [41, 42]})
    (choice,) = (await asked(web, tools=[mine], tool_choice="required")).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "final_answer" and orjson.loads(call.function.arguments)["answer"] in (41, 42)
    (choice,) = (await asked(web, tools=[mine])).choices
    if choice.message.tool_calls:
        assert "answer" in orjson.loads(choice.message.tool_calls[0].function.arguments)
    else:
        assert choice.message.content is not None


@pytest.mark.parametrize("most", [1, 5, 12, 20])
@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_with_tools_truncated_by_max_tokens_shows_no_json(
    web: Web, most: int, choice: str, stream: bool
) -> None:
    long = tool("write", text={"type": "string", "minLength": 500})
    story = [{"role": "user", "content": "Tell me the whole story of the city of Rome, from its beginning."}]
    more = {"messages": story, "tools": [long], "tool_choice": choice, "max_tokens": most, "temperature": 0}
    more["stream"] = stream
    if stream:
        parts = [part async for chunk in await asked(web, **more) for part in chunk.choices]
        reason, said = parts[-1].finish_reason, "".join(part.delta.content or "" for part in parts)
        calls = [call for part in parts for call in part.delta.tool_calls or ()]
    else:
        answer = await asked(web, **more)
        assert answer.usage.completion_tokens == most
        reason, message = answer.choices[0].finish_reason, answer.choices[0].message
        said, calls = message.content or "", list(message.tool_calls or ())
    assert reason == "length"
    assert "arguments" not in said and "final_answer" not in said
    assert all(call.function.name == "write" for call in calls)


UNHELD = {"type": "object", "properties": {"a": {"type": "string", "format": "no such one"}}}
STRICT: dict[str, Any] = {"type": "function", "function": {"name": "strict", "parameters": UNHELD, "strict": True}}


@pytest.mark.parametrize("others", [[], [tool("other", a={"const": 1})]])
@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_strict_function_is_enforced_beside_others(web: Web, others: Any, choice: str) -> None:
    with pytest.raises(openai.BadRequestError, match="Unknown format: no such one"):
        await asked(web, tools=[STRICT, *others], tool_choice=choice)
    lenient = {"type": "function", "function": STRICT["function"] | {"strict": False}}
    assert (await asked(web, tools=[lenient, *others], tool_choice=choice, max_tokens=1)).usage


@pytest.mark.parametrize("stop", ['"', ["{", "}"]])
async def test_a_stop_sequence_does_not_break_a_call(web: Web, stop: Any) -> None:
    (choice,) = (await asked(web, tools=[tool("f", a={"const": "x"})], tool_choice="required", stop=stop)).choices
    (call,) = choice.message.tool_calls
    assert orjson.loads(call.function.arguments) == {"a": "x"}


TOOLS: dict[str, dict[str, Any]] = {
    "final_answer": {"parameters": ANSWER_SCHEMA},
    "f": {"parameters": {"type": "object"}},
}


def test_a_truncated_text_answer_is_a_prefix() -> None:
    whole = '{"name": "final_answer", "arguments": {\n "text": "a\\\\b \\n \\ud83c\\udf89 \\u00e9 \\"q\\""}}'
    said = [_parse_call(whole[:cut], "length", TOOLS)[0].get("content", "") for cut in range(len(whole) + 1)]
    assert said[-1] == 'a\\b \n 🎉 é "q"'
    assert all(said[-1].startswith(text) for text in said)
    assert len(set(said)) == len(said[-1]) + 1


@pytest.mark.parametrize(
    ("stops", "said", "reason"),
    [
        ([], "one. two.", "length"),
        ([" two", "."], "one", "stop"),
        (["x"], "one. two.", "length"),
        (["one"], "", "stop"),
    ],
)
def test_stop_sequences_apply_to_a_text_answer_with_tools(stops: Any, said: str, reason: str) -> None:
    whole = '{"name": "final_answer", "arguments": {"text": "one. two."}}'
    assert _parse_call(whole, "length", TOOLS, stops) == ({"content": said}, reason)


def test_a_truncated_call_has_a_prefix_of_its_arguments() -> None:
    whole = '{"name": "f", "arguments": {"a": "b\\"}", "c": [1,2]}}'
    for cut in range(len(whole)):
        delta, reason = _parse_call(whole[:cut], "length", TOOLS)
        assert reason == "length" and "content" not in delta
        for call in delta.get("tool_calls", ()):
            assert '{"a": "b\\"}", "c": [1,2]}'.startswith(call["function"]["arguments"])
    assert _parse_call(whole, "stop", TOOLS)[1] == "tool_calls"
