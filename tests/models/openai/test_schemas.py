"""Limits of JSON schemas and patterns, and their enforcement by the engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import jsonschema
import openai
import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.models.serving.adapters.llama_cpp import server_request
from drw.models.serving.engines import schema_compiler
from drw.models.serving.engines.schema_compiler import SchemaCompilers
from drw.models.serving.errors import EngineBusy, EngineMisconfigured
from drw.models.serving.openai.regex_limits import PatternError, check_pattern
from drw.models.serving.openai.schema_limits import SchemaError, check_schema
from drw.models.serving.openai.tools import allowed_tools, with_tool_schema
from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json, JsonObject

TEXT = {"type": "string"}


def nested(depth: int, key: str = "items") -> JsonObject:
    schema: JsonObject = TEXT
    for _ in range(depth):
        schema = {key: schema}
    return schema


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("^a{3,1}$", "reversed: write {1,3}"),
        ("^a{1,100000}$", "repeats more than 1000"),
        ("^a{100000}$", "repeats more than 1000"),
        ("a{99999999999999999999}", "repeats more than 1000"),
        ("^((a{1,99}){1,99}){1,99}$", "repeats to"),
        ("^(a|b{1,500}){100}$", "repeats to"),
        ("^(" + "(a*)*" * 60 + ")+$", "more than one way"),
        ("(a+)+", "more than one way"),
        ("(a|b*)*", "more than one way"),
        ("(?:a?){2,9}", "more than one way"),
        (r"^(\w+\s?)*$", "more than one way"),
        ("^(?P<x>(a*b?)+)$", "more than one way"),
        ("(" * 33 + "a" + ")" * 33, "nested deeper"),
        ("|".join("ab" for _ in range(300)), "alternatives"),
        ("a" * 2000, "at most 1024 bytes"),
        ("^(?=a)b$", "no look-around"),
        (r"(a)\1", "back reference"),
        ("*a", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("(a", "not closed"),
        ("a)", "closes no group"),
        ("[a", "not closed"),
        ("a\\", "backslash"),
    ],
)
def test_an_expensive_or_malformed_pattern_is_rejected_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(PatternError) as caught:
        check_pattern(pattern)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"^\d{3}-\d{4}$",
        r"^(\w+\s)*\w+$",
        "^[A-Z]{2}[0-9]{9}[0-9]$",
        "^(-?(?:[1-9][0-9]*)?[0-9]{4})-(1[0-2]|0[1-9])$",
        "^[a-z0-9]+(-[a-z0-9]+)*$",
        "^([^,]*,){3}[^,]*$",
        r"^\p{Lu}[\]\\a-z]{1,1000}?$",
        "^(?:USD|EUR|GBP) [0-9]{1,3}(,[0-9]{3})*(\\.[0-9]+)?$",
        "{x}",
    ],
)
def test_an_ordinary_pattern_is_accepted(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a/b": {"pattern": "^a{3,1}$"}}}, "#/properties/a~1b/pattern: the pattern '^a{3,1}$'"),
        ({"patternProperties": {"(a*)*": TEXT}}, "#/patternProperties: the pattern '(a*)*'"),
        ({"properties": {"pattern": {"anyOf": [{"pattern": "(a*)*"}]}}}, "#/properties/pattern/anyOf/0/pattern"),
        ({"items": TEXT, "maxItems": 10**6}, "#/maxItems: 1000000 is not from 0 to 10000"),
        ({"items": TEXT, "minItems": 10**6}, "#/minItems"),
        ({"type": "string", "minLength": 10**6}, "#/minLength"),
        ({"type": "string", "maxLength": 1e9}, "#/maxLength"),
        ({"minProperties": -1}, "#/minProperties: -1 is not"),
        ({"enum": list(range(1001))}, "#: more than 1000 enum values"),
        ({"anyOf": [TEXT] * 300}, "#: more than 256 alternatives"),
        ({"allOf": [{"oneOf": [TEXT] * 150}, {"oneOf": [TEXT] * 150}]}, "more than 256 alternatives"),
        ({"properties": {f"p{n}": {"$ref": "#"} for n in range(1001)}}, "more than 1000 references"),
        ({"items": {"const": [0] * 10_001}}, "more than 10000 nodes"),
        (nested(65), "nested deeper than 64 levels"),
        ({"$ref": "http://127.0.0.1/x"}, "#/$ref: 'http://127.0.0.1/x' is outside of the schema"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "#/items/$ref"),
    ],
)
def test_a_schema_above_a_limit_is_rejected_with_its_pointer(schema: JsonObject, why: str) -> None:
    with pytest.raises(SchemaError) as caught:
        check_schema(schema)
    assert why in str(caught.value)


def test_data_that_looks_like_a_keyword_is_accepted() -> None:
    check_schema({"properties": {"pattern": TEXT, "maxItems": {"const": {"pattern": "(a*)*", "maxItems": 10**9}}}})
    check_schema({"enum": [{"pattern": "(a*)*"}], "default": {"$ref": "http://x"}})


@pytest.mark.parametrize("where", ["response_format", "tools[1].function"])
async def test_an_invalid_schema_is_a_400_for_every_engine(cluster: ModelsCluster, where: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a{3,1}$"}}}
    good, bad = ({"type": "function", "function": {"name": "f", "parameters": s}} for s in (TEXT, schema))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    more = {"response_format": form} if where == "response_format" else {"tools": [good, bad]}
    body = {"model": "double", "messages": [{"role": "user", "content": "plain"}], **more}
    answer = await cluster.http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, where)
    assert "#/properties/a/pattern" in error["message"] and "{3,1}" in error["message"]
    assert cluster.double.bodies == []


async def test_the_total_size_of_tool_schemas_is_limited(cluster: ModelsCluster) -> None:
    parameters = {"type": "object", "description": "x" * 30_000}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": parameters}} for n in range(5)]
    body = {"model": "double", "messages": [{"role": "user", "content": "plain"}], "tools": tools}
    answer = await cluster.http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
"""As pydantic 2.12 has it for `Decimal`."""


async def test_look_around_is_ignored_in_schemas_that_are_not_strict(start: StartCluster, engine: Path) -> None:
    price = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": DECIMAL}]}
    schema = {"type": "object", "properties": {"price": price}, "required": ["price"]}
    tool: Json = {"type": "function", "function": {"name": "order", "parameters": schema}}
    parameters: JsonObject = {
        "model": "small",
        "messages": [{"role": "user", "content": "Sell at 3."}],
        "max_tokens": 100,
    }
    async with start(small=engine) as cluster:
        create: Callable[..., Awaitable[ChatCompletion]] = cluster.client.chat.completions.create
        created = await create(**parameters, tools=[tool], tool_choice="required", temperature=0)
        (call,) = created.choices[0].message.tool_calls or []
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert "price" in orjson.loads(call.function.arguments)
        tool["function"]["strict"] = True
        with pytest.raises(openai.BadRequestError, match="no look-around"):
            await create(**parameters, tools=[tool])


@pytest.mark.parametrize("pattern", ["(?=(a*)*)b", "(?!a)*", "(?<!a", "(?=a{1,5000})b"])
def test_look_around_patterns_have_the_same_limits(pattern: str) -> None:
    with pytest.raises(PatternError):
        check_pattern(pattern, look_around=True)


@pytest.fixture
async def compilers() -> AsyncIterator[SchemaCompilers]:
    created = SchemaCompilers()
    yield created
    await created.close()


async def test_the_compiler_rejects_invalid_schemas(compilers: SchemaCompilers) -> None:
    await compilers.check({"type": "object", "properties": {"p": {"type": "number", "maximum": 1.5}}}, "x")
    for schema, why in (({"type": "bogus"}, "bogus"), ({"type": "integer", "minimum": 5, "maximum": 1}, "greater")):
        with pytest.raises(InvalidRequest, match=why):
            await compilers.check(schema, "response_format")


HELD = [
    {"type": "number", "minimum": 0.5, "maximum": 1.5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 5, "minimum": 7, "maximum": 12},
    {"type": "string", "minLength": 3, "maxLength": 4},
    {"type": "string", "pattern": "^[A-Z]{3}[0-9]$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "email", "maxLength": 40},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "minItems": 2, "maxItems": 2},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
]
REFUSED = [
    *(({"type": "string", "format": name}, name) for name in ("uri", "regex", "made-up")),
    ({"type": "string", "pattern": "^(?=.*a)b+$"}, "look-around"),
    ({"type": "string", "pattern": "(?<!a)b"}, "look-around"),
    ({"type": "string", "pattern": r"\bfoo\b"}, "lookarounds"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {"const": 1}}, "contains"),
    ({"not": {"type": "string"}}, "not"),
    ({"if": {"type": "string"}, "then": {"minLength": 2}}, "then"),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, "propertyNames"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
]


def strictly(schema: JsonObject) -> JsonObject:
    object_schema = {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": object_schema}}
    return {"model": "small", "messages": [{"role": "user", "content": "x?"}], "response_format": form}


@pytest.mark.parametrize("schema", HELD, ids=str)
async def test_strict_schemas_are_enforced(start: StartCluster, engine: Path, schema: JsonObject) -> None:
    body = strictly(schema) | {"max_tokens": 100, "temperature": 0}
    async with start(small=engine) as cluster:
        answer = (await cluster.client.chat.completions.create(**body)).choices[0]
    assert answer.finish_reason == "stop"
    formats = jsonschema.FormatChecker()
    jsonschema.validate(orjson.loads(answer.message.content or "")["x"], schema, format_checker=formats)


@pytest.mark.parametrize(("schema", "name"), REFUSED, ids=str)
async def test_unsupported_keywords_in_strict_schemas_are_rejected_by_name(
    start: StartCluster, engine: Path, schema: JsonObject, name: str
) -> None:
    async with start(small=engine) as cluster:
        with pytest.raises(openai.BadRequestError) as caught:
            await cluster.client.chat.completions.create(**strictly(schema))
    assert caught.value.param == "response_format" and name in caught.value.message


async def test_constrained_json_has_no_optional_white_space(start: StartCluster, engine: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [[], [3]]}}}
    named = {"name": "x", "strict": True, "schema": schema | {"required": ["a", "b"], "additionalProperties": False}}
    form: Json = {"type": "json_schema", "json_schema": named}
    messages: Json = [{"role": "user", "content": "Where is Ann?"}]
    async with start(small=engine) as cluster:
        for seed in range(5):
            answer = await cluster.client.chat.completions.create(
                model="small", messages=messages, response_format=form, max_tokens=120, seed=seed
            )
            content = answer.choices[0].message.content
            assert content == orjson.dumps(orjson.loads(content or "")).decode()


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_strict_function_rejects_unsupported_keywords(compilers: SchemaCompilers, choice: str) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for strict in (False, True):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": strict}}
        body = {"messages": [], "tools": [tool], "tool_choice": choice}
        answer_schema = server_request(with_tool_schema(body, allowed_tools(body)), "chat/completions")["json_schema"]
        if strict:
            with pytest.raises(InvalidRequest, match="uniqueItems"):
                await compilers.check(answer_schema, "tools")
        else:
            await compilers.check(answer_schema, "tools")


async def test_a_schema_above_the_compiler_limits_is_rejected_and_cached(
    compilers: SchemaCompilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        schema_compiler, "TIMEOUT_SECONDS", 120.0
    )  # a machine that is busy takes longer for its processor time
    await compilers.check(TEXT, "x")  # started
    huge = {"type": "array", "items": TEXT, "maxItems": 10**6}
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="make it simpler"):
            await compilers.check(huge, "x")
    compilers._command = ("/nonexistent",)  # what is remembered needs none
    with pytest.raises(InvalidRequest, match="make it simpler"):
        await compilers.check(huge, "x")


SLOW = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    if "slow" in line:
        sys.stdin.readline()
    print("null", flush=True)
"""


async def test_slow_schemas_of_one_tenant_do_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_compiler, "TIMEOUT_SECONDS", 600.0)
    compilers = SchemaCompilers((sys.executable, "-c", SLOW), processes=2)
    mine, other = (Principal(org, "d", "k") for org in ("slow", "quick"))
    with acting_for(mine):
        hanging = [asyncio.create_task(compilers.check({"const": f"slow {n}"}, "x")) for n in range(5)]
    try:
        with acting_for(other):
            for number in range(5):
                await compilers.check({"const": number}, "x")
        assert not any(task.done() for task in hanging)
        monkeypatch.setattr(schema_compiler, "TIMEOUT_SECONDS", 0.01)
        with acting_for(mine), pytest.raises(EngineBusy, match="try again"):
            await compilers.check({"const": "one more"}, "x")
    finally:
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await compilers.close()


async def test_a_cancelled_check_releases_the_compiler() -> None:
    compilers = SchemaCompilers((sys.executable, "-c", SLOW), processes=1)
    for number in range(3):
        leaving = asyncio.create_task(compilers.check({"const": f"slow {number}"}, "x"))
        await asyncio.sleep(0)  # its turn
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    await compilers.check(TEXT, "x")
    await compilers.close()


async def test_a_compiler_that_does_not_start_is_a_configuration_error() -> None:
    compilers = SchemaCompilers((sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(EngineMisconfigured, match="does not start"):
        await compilers.check(TEXT, "x")
    await compilers.close()
