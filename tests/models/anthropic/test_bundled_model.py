"""Anthropic's Messages API through Anthropic's client with the bundled model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import orjson
import pytest

from models.anthropic.clients import anthropic_client
from models.cluster import ModelsCluster

COUNT: list[Any] = [{"role": "user", "content": "Count from 1 to 9, separated by commas."}]
GREEDY = {"temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"ticker": {"enum": ["AAPL", "MSFT"]}},
    "required": ["ticker"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"name": "get_price", "description": "get the price", "input_schema": SCHEMA, "strict": True}


@pytest.fixture
async def cluster(start: Callable[..., Any], engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: ModelsCluster) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic_client(cluster) as client:
        yield client


async def create(client: anthropic.AsyncAnthropic, messages: Any = COUNT, **more: Any) -> Any:
    return await client.messages.create(**{"model": "small", "max_tokens": 30, "messages": messages, **more})


def prompt_tokens(message: Any) -> int:
    return message.usage.input_tokens + message.usage.cache_read_input_tokens


async def test_a_stop_sequence_is_named(client: anthropic.AsyncAnthropic) -> None:
    text = (await create(client, extra_body=GREEDY)).content[0].text
    stops = ["never", text[5]]
    for tools in ({}, {"tools": [TOOL], "tool_choice": {"type": "none"}}):
        stopped = await create(client, stop_sequences=stops, extra_body=GREEDY, **tools)
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", text[5])
        assert stopped.content[0].text == text[: text.index(text[5])]
    unstopped = await create(client, stop_sequences=["never"], max_tokens=5, extra_body=GREEDY)
    assert (unstopped.stop_reason, unstopped.stop_sequence) == ("max_tokens", None)


async def test_top_k_has_its_effect(client: anthropic.AsyncAnthropic) -> None:
    greedy = (await create(client, extra_body=GREEDY)).content[0].text
    for _ in range(3):
        assert (await create(client, extra_body={"temperature": 1, "top_k": 1})).content[0].text == greedy


async def test_a_tool_is_called_with_input_of_its_schema(client: anthropic.AsyncAnthropic) -> None:
    ask = [{"role": "user", "content": "What is the price of AAPL?"}]
    with_tool: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 60}
    complete = await create(client, ask, **with_tool)
    async with client.messages.stream(model="small", messages=ask, **with_tool) as stream:  # type: ignore[arg-type]
        kinds = {event.type for event in [event async for event in stream]}
        streamed = await stream.get_final_message()
    assert "input_json" in kinds
    messages: tuple[Any, ...] = (complete, streamed)
    for message in messages:
        (call,) = message.content
        assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "get_price")
        jsonschema.validate(call.input, SCHEMA)
        assert prompt_tokens(message) > 10 and message.usage.output_tokens > 1
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "190.5"}
    again = [*ask, {"role": "assistant", "content": complete.content}, {"role": "user", "content": [result]}]
    answer = await create(client, again, tools=[TOOL], tool_choice={"type": "none"})
    assert answer.content[0].text


async def test_the_answer_conforms_to_its_schema(client: anthropic.AsyncAnthropic) -> None:
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = await create(client, output_config=config, max_tokens=60)
    jsonschema.validate(orjson.loads(message.content[0].text), SCHEMA)


async def test_counted_tokens_equal_the_usage(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    parameters: dict[str, Any] = {"messages": COUNT, "system": "Be brief.", "tools": [TOOL]}
    counted = await client.messages.count_tokens(model="small", **parameters)
    message = await client.messages.create(model="small", max_tokens=1, **parameters)
    assert counted.input_tokens == prompt_tokens(message) > 20
    assert [record["action"] for record in cluster.records()] == ["model.messages"]


async def test_an_engine_that_cannot_count_is_named(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="the engine of 'double' cannot count tokens"):
        await client.messages.count_tokens(model="double", messages=COUNT)
    with pytest.raises(anthropic.NotFoundError, match="'gone' does not exist"):
        await client.messages.count_tokens(model="gone", messages=COUNT)
    with pytest.raises(anthropic.BadRequestError, match="'max_tokens' is not a parameter here"):
        await client.messages.count_tokens(model="small", messages=COUNT, extra_body={"max_tokens": 5})
    with pytest.raises(anthropic.BadRequestError, match="the prompt has .* bytes"):
        await client.messages.count_tokens(model="small", messages=[{"role": "user", "content": "a" * 200_000}])
