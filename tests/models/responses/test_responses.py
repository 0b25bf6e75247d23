"""OpenAI's Responses API through OpenAI's client: against the double of an engine."""

from __future__ import annotations

from typing import Any

import openai
import psycopg
import pytest

from models.cluster import ModelsCluster

ASK: dict[str, Any] = {"model": "double", "input": "hello"}
FUNCTION: dict[str, Any] = {"type": "function", "name": "price", "description": "the price", "parameters": {}}


async def create(cluster: ModelsCluster, **more: Any) -> Any:
    return await cluster.client.responses.create(**{**ASK, **more})


async def test_a_response_has_text_usage_and_a_record(cluster: ModelsCluster) -> None:
    response = await create(cluster, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert response.output_text == "Rates rose."
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (response.status, response.model, response.object) == ("completed", "double", "response")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (5, 3, 8)
    assert (response.instructions, response.metadata, response.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert (response.parallel_tool_calls, response.tool_choice, response.truncation) == (True, "auto", "disabled")
    (body,) = cluster.double.bodies
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    (record,) = cluster.records()
    assert (record["action"], record["outcome"]) == ("model.response", "ok")


async def test_a_stream_has_the_events_of_the_client(cluster: ModelsCluster) -> None:
    events = [event async for event in await create(cluster, stream=True)]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events[4:7]) == events[7].text == "Rates rose."
    completed = events[-1].response
    assert completed.output_text == "Rates rose."
    assert completed.output == [events[-2].item]
    assert {event.item_id for event in events[3:9]} == {completed.output[0].id}
    assert (await cluster.client.responses.retrieve(completed.id)).model_dump() == completed.model_dump()
    async with cluster.client.responses.stream(**ASK) as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Rates rose."


async def test_items_reach_the_engine_as_a_chat(cluster: ModelsCluster) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "one"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "two"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "three", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "price", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "price", "arguments": "{}"},
        {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed", "results": None},
        {"type": "function_call_output", "call_id": "c1", "output": "190"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "191"}]},
        {"role": "user", "content": "four"},
    ]
    await create(cluster, input=items, tools=[FUNCTION])
    (body,) = cluster.double.bodies
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    calls = [{"id": id_, "type": "function", "function": {"name": "price", "arguments": "{}"}} for id_ in ("c1", "c2")]
    assert body["messages"] == [
        {"role": "developer", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, image]},
        {"role": "assistant", "content": "three", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "190"},
        {"role": "tool", "tool_call_id": "c2", "content": "191"},
        {"role": "user", "content": "four"},
    ]


SCHEMA = {"type": "object"}
SENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7}, {"temperature": 0.5, "top_p": 0.9}),
    ({"max_output_tokens": 7}, {"max_completion_tokens": 7}),
    ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ({"text": {"verbosity": "low"}}, {"verbosity": "low", "response_format": None}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    ({"tools": [FUNCTION], "tool_choice": "required"}, {"tool_choice": "required"}),
    (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "price"}, "parallel_tool_calls": False},
        {"tool_choice": {"type": "function", "function": {"name": "price"}}, "parallel_tool_calls": False},
    ),
    ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": None, "tool_choice": None}),
    (
        {
            "tools": [FUNCTION, {**FUNCTION, "name": "other"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "other"}],
            },
        },
        {
            "tool_choice": "required",
            "tools": [
                {"type": "function", "function": {"name": "other", "description": "the price", "parameters": {}}}
            ],
        },
    ),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": None}),
    ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    (
        {"service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k", "user": "u", "max_tool_calls": 3},
        {"user": None, "service_tier": None, "prompt_cache_key": None, "max_tool_calls": None},
    ),
    ({"background": False, "truncation": "disabled", "conversation": None, "store": False}, {"store": None}),
]


async def test_parameters_reach_the_engine(cluster: ModelsCluster) -> None:
    for parameters, expected in SENT:
        await create(cluster, **parameters)
        body = cluster.double.bodies[-1]
        assert {name: body.get(name) for name in expected} == expected, parameters


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**FUNCTION, "defer_loading": True}]}, "tools[0].function.defer_loading"),
    ({"tools": [{**FUNCTION, "output_schema": {}}]}, "tools[0].function.output_schema"),
    ({"tools": [{**FUNCTION, "parameters": {"$ref": "http://x"}}]}, "tools[0].parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "gone"}}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"extra_body": {"stop": ["a"]}}, "stop"),
    ({"metadata": {"a": "b" * 513}}, "metadata.a"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0].image_url",
    ),
    ({"input": []}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
]


async def test_what_is_not_supported_is_named(cluster: ModelsCluster) -> None:
    for parameters, param in REFUSED:
        with pytest.raises(openai.BadRequestError) as refused:
            await create(cluster, **parameters)
        assert refused.value.param == param, parameters
    assert not cluster.double.bodies


async def test_reasoning_is_an_item(cluster: ModelsCluster) -> None:
    complete = await create(cluster, input="thinking")
    events = [event async for event in await create(cluster, input="thinking", stream=True)]
    streamed = events[-1].response
    for response in (complete, streamed):
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.output[0].content[0].text == "Rates rose."
        assert response.output_text == "So."
    kinds = [event.type for event in events]
    assert kinds.count("response.reasoning_text.delta") == 3
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 2
    assert [event.sequence_number for event in events] == list(range(len(events)))


ERRORS = [
    ("status_400", openai.BadRequestError, 400),
    ("status_500", openai.InternalServerError, 503),
    ("status_429", openai.RateLimitError, 429),
]


async def test_errors_before_the_answer_have_their_status(start: Any) -> None:
    circuits = {"consecutive_failures": 1000, "window": 1000}
    async with start(retries={"max_attempts": 1}, circuits=circuits) as cluster:
        for behaviour, error, status in ERRORS:
            for stream in (False, True):
                with pytest.raises(error) as raised:
                    await create(cluster, input=behaviour, stream=stream)
                assert raised.value.status_code == status
        assert stored(cluster) == []


def stored(cluster: ModelsCluster) -> list[tuple[str, str, str]]:
    """Return org, desk and status of all stored responses."""
    with psycopg.connect(cluster.database) as connection:
        return connection.execute("select org, desk, status from serving.response order by created_at").fetchall()


async def test_an_engine_that_fails_in_mid_stream_fails_the_response(cluster: ModelsCluster) -> None:
    for behaviour in ("cut", "error_event", "no_finish"):
        events = [event async for event in await create(cluster, input=behaviour, stream=True)]
        assert events[-1].type == "response.failed"
        assert events[-1].sequence_number == len(events) - 1
        failed = events[-1].response
        assert (failed.status, failed.error.code, failed.output) == ("failed", "server_error", [])
        assert (await cluster.client.responses.retrieve(failed.id)).status == "failed"
        with pytest.raises(openai.BadRequestError, match="is failed; only a complete one can be continued"):
            await create(cluster, previous_response_id=failed.id)
    records = [(r["action"], r["outcome"]) for r in cluster.records()]
    assert records == [("model.response", "failed"), ("model.response", "refused")] * 3


async def test_a_client_that_disconnects_cancels_the_response(cluster: ModelsCluster) -> None:
    stream = await create(cluster, input="stall", stream=True)
    created = await anext(stream)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    assert (await cluster.client.responses.retrieve(created.response.id)).status == "in_progress"
    await stream.close()
    await cluster.until(lambda: stored(cluster) == [("acme", "research", "cancelled")], "the end is stored")
    assert cluster.double.under_way == 0


async def test_tool_calls_are_items(cluster: ModelsCluster) -> None:
    tools: dict[str, Any] = {"input": "calls", "tools": [FUNCTION, {**FUNCTION, "name": "other"}]}
    complete = await create(cluster, **tools)
    events = [event async for event in await create(cluster, **tools, stream=True)]
    for response, kinds in (
        (complete, ["message", "function_call", "function_call"]),
        (events[-1].response, ["function_call", "function_call", "message"]),
    ):
        assert [item.type for item in response.output] == kinds
        calls = [item for item in response.output if item.type == "function_call"]
        assert [(c.call_id, c.name, c.arguments) for c in calls] == [
            ("call_0", "price", '{"a":1}'),
            ("call_1", "other", "{}"),
        ]
        assert response.output_text == "Late."
    deltas: dict[int, str] = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            deltas[event.output_index] = deltas.get(event.output_index, "") + event.delta
    assert deltas == {0: '{"a":1}', 1: "{}"}
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [(event.output_index, event.name, event.arguments) for event in done] == [
        (0, "price", '{"a":1}'),
        (1, "other", "{}"),
    ]


async def test_incomplete_answers_have_a_reason(cluster: ModelsCluster) -> None:
    for behaviour, reason, content in (
        ("too_long", "max_output_tokens", {"type": "output_text", "text": "Rates"}),
        ("filtered", "content_filter", {"type": "refusal", "refusal": "No."}),
    ):
        complete = await create(cluster, input=behaviour)
        events = [event async for event in await create(cluster, input=behaviour, stream=True)]
        assert events[-1].type == "response.incomplete"
        for response in (complete, events[-1].response):
            assert (response.status, response.incomplete_details.reason) == ("incomplete", reason)
            (message,) = response.output
            assert message.status == "incomplete"
            assert content.items() <= message.content[0].model_dump().items()
        again = await create(cluster, input="more", previous_response_id=complete.id)
        assert again.output_text == "Rates rose."
