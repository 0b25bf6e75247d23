"""Tool calls by JSON schema, including truncated ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import openai
import orjson
import pytest

from drw.models.serving.openai.tools import JSON_ANSWER, TEXT_ANSWER, _parse_call
from models.cluster import ModelsCluster, StartCluster
from models.openai.test_openai_api import tool
from support.json_types import Json, JsonObject

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
async def cluster(start: StartCluster, engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


async def complete_chat(cluster: ModelsCluster, **more: Json) -> Json:
    return await cluster.client.chat.completions.create(
        **{"model": "small", "messages": ASK, "max_tokens": 120, **more}
    )


async def test_a_tool_schema_with_references_is_supported(cluster: ModelsCluster) -> None:
    person = {"type": "function", "function": {"name": "person", "parameters": NESTED}}
    for tools in ([person], [tool("other", a={"const": 1}), person]):
        named = {"type": "function", "function": {"name": "person"}}
        (choice,) = (await complete_chat(cluster, tools=tools, tool_choice=named)).choices
        (call,) = choice.message.tool_calls
        jsonschema.validate(orjson.loads(call.function.arguments), NESTED)


async def test_a_tool_can_have_the_internal_function_name(cluster: ModelsCluster) -> None:
    tool_of_caller = tool("final_answer", answer={"enum": [41, 42]})
    (choice,) = (await complete_chat(cluster, tools=[tool_of_caller], tool_choice="required")).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "final_answer" and orjson.loads(call.function.arguments)["answer"] in (41, 42)
    (choice,) = (await complete_chat(cluster, tools=[tool_of_caller])).choices
    if choice.message.tool_calls:
        assert "answer" in orjson.loads(choice.message.tool_calls[0].function.arguments)
    else:
        assert choice.message.content is not None


@pytest.mark.parametrize("max_tokens", [1, 5, 12, 20])
@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_with_tools_truncated_by_max_tokens_shows_no_json(
    cluster: ModelsCluster, max_tokens: int, choice: str, stream: bool
) -> None:
    long = tool("write", text={"type": "string", "minLength": 500})
    story = [{"role": "user", "content": "Tell me the whole story of the city of Rome, from its beginning."}]
    more = {"messages": story, "tools": [long], "tool_choice": choice, "max_tokens": max_tokens, "temperature": 0}
    more["stream"] = stream
    if stream:
        parts = [part async for chunk in await complete_chat(cluster, **more) for part in chunk.choices]
        reason, expected = parts[-1].finish_reason, "".join(part.delta.content or "" for part in parts)
        calls = [call for part in parts for call in part.delta.tool_calls or ()]
    else:
        answer = await complete_chat(cluster, **more)
        assert answer.usage.completion_tokens == max_tokens
        reason, message = answer.choices[0].finish_reason, answer.choices[0].message
        expected, calls = message.content or "", list(message.tool_calls or ())
    assert reason == "length"
    assert "arguments" not in expected and "final_answer" not in expected
    assert all(call.function.name == "write" for call in calls)


UNHELD = {"type": "object", "properties": {"a": {"type": "string", "format": "no such one"}}}
STRICT: JsonObject = {"type": "function", "function": {"name": "strict", "parameters": UNHELD, "strict": True}}


@pytest.mark.parametrize("others", [[], [tool("other", a={"const": 1})]])
@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_strict_function_is_enforced_beside_others(
    cluster: ModelsCluster, others: list[JsonObject], choice: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="Unknown format: no such one"):
        await complete_chat(cluster, tools=[STRICT, *others], tool_choice=choice)
    lenient = {"type": "function", "function": STRICT["function"] | {"strict": False}}
    assert (await complete_chat(cluster, tools=[lenient, *others], tool_choice=choice, max_tokens=1)).usage


TRADE = {
    "type": "object",
    "properties": {"side": {"$ref": "#/$defs/Side"}},
    "required": ["side"],
    "additionalProperties": False,
    "$defs": {"Side": {"enum": ["buy", "sell"]}},
}


def json_format(schema: JsonObject, *, strict: bool) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "trade", "strict": strict, "schema": schema}}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_beside_tools_has_the_response_format(
    cluster: ModelsCluster, strict: bool, stream: bool
) -> None:
    unlikely = tool("zx7_qv", a={"const": 1})
    unlikely["function"]["strict"] = strict
    more = {"tools": [unlikely], "response_format": json_format(TRADE, strict=strict), "temperature": 0}
    if stream:
        parts = [part async for chunk in await complete_chat(cluster, stream=True, **more) for part in chunk.choices]
        content, reason = "".join(part.delta.content or "" for part in parts), parts[-1].finish_reason
    else:
        (choice,) = (await complete_chat(cluster, **more)).choices
        content, reason = choice.message.content, choice.finish_reason
    assert reason == "stop"
    jsonschema.validate(orjson.loads(content), TRADE)
    required = await complete_chat(cluster, tool_choice="required", **more)
    assert orjson.loads(required.choices[0].message.tool_calls[0].function.arguments) == {"a": 1}


@pytest.mark.parametrize("strict", [False, True])
async def test_an_invalid_response_format_beside_tools_is_named(cluster: ModelsCluster, strict: bool) -> None:
    broken = json_format({"type": "bogus"}, strict=strict)
    with pytest.raises(openai.BadRequestError, match="bogus") as caught:
        await complete_chat(cluster, tools=[tool("f", a={"const": 1})], response_format=broken)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize("stop", ['"', ["{", "}"]])
async def test_a_stop_sequence_does_not_break_a_call(cluster: ModelsCluster, stop: list[str] | str) -> None:
    (choice,) = (
        await complete_chat(cluster, tools=[tool("f", a={"const": "x"})], tool_choice="required", stop=stop)
    ).choices
    (call,) = choice.message.tool_calls
    assert orjson.loads(call.function.arguments) == {"a": "x"}


TOOLS: dict[str, JsonObject] = {
    "final_answer": TEXT_ANSWER,
    "json": JSON_ANSWER,
    "f": {"parameters": {"type": "object"}},
}


def test_a_truncated_text_answer_is_a_prefix() -> None:
    complete = '{"name": "final_answer", "arguments": {\n "text": "a\\\\b \\n \\ud83c\\udf89 \\u00e9 \\"q\\""}}'
    expected = [
        _parse_call(complete[:cut], "length", TOOLS)["delta"].get("content", "") for cut in range(len(complete) + 1)
    ]
    assert expected[-1] == 'a\\b \n 🎉 é "q"'
    assert all(expected[-1].startswith(text) for text in expected)
    assert len(set(expected)) == len(expected[-1]) + 1


@pytest.mark.parametrize(
    ("stops", "expected", "end"),
    [
        ([], "one. two.", {"finish_reason": "length"}),
        ([" two", "."], "one", {"finish_reason": "stop", "stop_reason": "."}),
        (["x"], "one. two.", {"finish_reason": "length"}),
        (["one"], "", {"finish_reason": "stop", "stop_reason": "one"}),
    ],
)
def test_stop_sequences_apply_to_a_text_answer_with_tools(stops: list[str], expected: str, end: dict[str, str]) -> None:
    complete = '{"name": "final_answer", "arguments": {"text": "one. two."}}'
    assert _parse_call(complete, "length", TOOLS, stops) == {"delta": {"content": expected}, **end}


def test_a_truncated_call_has_a_prefix_of_its_arguments() -> None:
    complete = '{"name": "f", "arguments": {"a": "b\\"}", "c": [1,2]}}'
    for cut in range(len(complete)):
        choice = _parse_call(complete[:cut], "length", TOOLS)
        assert choice["finish_reason"] == "length" and "content" not in choice["delta"]
        for call in choice["delta"].get("tool_calls", ()):
            assert '{"a": "b\\"}", "c": [1,2]}'.startswith(call["function"]["arguments"])
    assert _parse_call(complete, "stop", TOOLS)["finish_reason"] == "tool_calls"


def test_an_answer_in_json_beside_tools_is_its_arguments() -> None:
    complete = '{"name": "json", "arguments": {"a": "b. c"}}'
    assert _parse_call(complete, "stop", TOOLS) == {"delta": {"content": '{"a":"b. c"}'}, "finish_reason": "stop"}
    for cut in range(len(complete)):
        choice = _parse_call(complete[:cut], "length", TOOLS)
        assert choice["finish_reason"] == "length" and "tool_calls" not in choice["delta"]
        assert '{"a": "b. c"}}'.startswith(choice["delta"].get("content", ""))
    assert _parse_call(complete, "stop", TOOLS, ["."])["delta"] == {"content": '{"a":"b'}
