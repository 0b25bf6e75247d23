"""Anthropic's Messages API through Anthropic's client: against the double of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import httpx
import pytest

from drw.agent.xds.http_filters.local_replies import ANTHROPIC_FORMS
from drw.models.serving.anthropic.errors import BILLING, FORMS
from models.anthropic.clients import anthropic_client
from models.cluster import KEY, ModelsCluster
from support.gateway.kills import kill

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: dict[str, Any] = {"name": "price", "description": "the price", "input_schema": {"type": "object"}}
IMAGE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}


@pytest.fixture
async def client(cluster: ModelsCluster) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic_client(cluster) as client:
        yield client


async def create(client: anthropic.AsyncAnthropic, messages: Any = HELLO, **more: Any) -> Any:
    return await client.messages.create(**{"model": "double", "max_tokens": 16, "messages": messages, **more})


async def test_a_message_has_text_usage_and_a_record(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    message = await create(client)
    assert (message.type, message.role, message.model) == ("message", "assistant", "double")
    assert [block.text for block in message.content] == ["Rates rose."]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 3)
    assert message.id.startswith("msg_")
    (record,) = cluster.records()
    assert (record["action"], record["outcome"]) == ("model.messages", "ok")
    assert record["details"]["completion_tokens"] == 3


async def test_a_stream_has_the_events_of_the_client(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    events = [event async for event in await create(client, stream=True)]
    kinds = [event.type for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[-2].usage.output_tokens == 3
    async with client.messages.stream(model="double", max_tokens=16, messages=HELLO) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["Rates", " rose", "."]
    assert (message.content[0].to_dict(), message.stop_reason) == ({"text": "Rates rose.", "type": "text"}, "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 3)
    assert [record["action"] for record in cluster.records()] == ["model.messages"] * 2


async def test_the_raw_stream_has_a_ping(cluster: ModelsCluster) -> None:
    body = {"model": "double", "max_tokens": 9, "messages": HELLO, "stream": True}
    answer = await cluster.http.post("/v1/messages?beta=true", json=body, headers={"x-request-id": "r1"})
    assert b'event: ping\ndata: {"type":"ping"}\n\n' in answer.content
    assert answer.headers["request-id"] == "r1"
    assert answer.headers["x-drw-model"] == "double"


async def test_the_conversation_reaches_the_engine_as_a_chat(
    cluster: ModelsCluster, client: anthropic.AsyncAnthropic
) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one", **cached}, {"type": "image", "source": IMAGE}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "price", "input": {"of": "AAPL"}},
                {"type": "tool_use", "id": "call_2", "name": "price", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "190"}],
                    **cached,
                },
                {"type": "tool_result", "tool_use_id": "call_2", "content": "no such", "is_error": True},
                {"type": "text", "text": "and now?"},
            ],
        },
        {"role": "user", "content": "please"},
        {"role": "system", "content": "be brief"},
    ]
    system = [{"type": "text", "text": "You are", **cached}, {"type": "text", "text": "a desk."}]
    await create(client, messages, system=system, tools=[{**TOOL, **cached}], cache_control={"type": "ephemeral"})
    (body,) = cluster.double.bodies
    call = {"type": "function", "function": {"name": "price", "arguments": '{"of":"AAPL"}'}, "id": "call_1"}
    empty = {"type": "function", "function": {"name": "price", "arguments": "{}"}, "id": "call_2"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    assert body["messages"] == [
        {"role": "system", "content": "You are\n\na desk."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, image]},
        {"role": "assistant", "content": "I look.", "tool_calls": [call, empty]},
        {"role": "tool", "tool_call_id": "call_1", "content": "190"},
        {"role": "tool", "tool_call_id": "call_2", "content": "Error: no such"},
        {"role": "user", "content": "and now?\n\nplease"},
        {"role": "system", "content": "be brief"},
    ]
    function = {"name": "price", "description": "the price", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]


SENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
    ({"stop_sequences": []}, {"stop": None}),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
    ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "price", "disable_parallel_tool_use": True}},
        {"tool_choice": {"type": "function", "function": {"name": "price"}}, "parallel_tool_calls": False},
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tool_choice": "auto", "parallel_tool_calls": None}),
    ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
            }
        },
    ),
    ({"metadata": {"user_id": "u1"}, "service_tier": "auto"}, {"user": None, "metadata": None, "service_tier": None}),
    ({"speed": "standard", "container": None}, {"speed": None}),
    ({"max_tokens": 7}, {"max_tokens": 7}),
]


async def test_parameters_reach_the_engine(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    for parameters, expected in SENT:
        await create(client, extra_body=parameters)
        body = cluster.double.bodies[-1]
        assert {name: body.get(name) for name in expected} == expected, parameters


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 5}, "'top_k' is not a parameter here; there are: cache_control, max_tokens"),
    ({"container": "c"}, "'container' is not supported here"),
    ({"speed": "fast"}, "'speed' is not supported here"),
    ({"context_management": {}}, "'context_management' is not a parameter here"),
    ({"max_tokens": 0}, "max_tokens: "),
    ({"temperature": 1.5}, "temperature: "),
    ({"stop_sequences": ["a"] * 5}, "stop_sequences: "),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, r"tools\[0\].type: "),
    ({"tools": [{**TOOL, "input_examples": [{}]}]}, r"tools\[0\].input_examples is not supported"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, r"tools\[0\].defer_loading: "),
    ({"tool_choice": {"type": "any"}}, "tool_choice of the type 'any' needs tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice: name goes with the type 'tool'"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type: "),
    ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "the last message is of the assistant"),
    (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        r"messages\[0\].content\[0\].type is 'document'; supported are: 'text', 'image'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]},
        r"messages\[0\]: a message of the role 'user' cannot have a block of the type 'tool_use'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
        r"messages\[0\].content\[0\].source.type: ",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "url": "u"}}]}]},
        r"messages\[0\].content\[0\].source: the type 'url' goes with url",
    ),
    (
        {"tools": [{**TOOL, "input_schema": {"$ref": "http://x"}}]},
        r"tools\[0\].input_schema: the JSON schema is rejected at #/\$ref",
    ),
]


async def test_what_is_not_supported_is_named(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    for parameters, message in REFUSED:
        with pytest.raises(anthropic.BadRequestError, match=message) as refused:
            await create(client, extra_body=parameters)
        body: Any = refused.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert not cluster.double.bodies


async def test_a_required_parameter_is_named(cluster: ModelsCluster) -> None:
    for raw, message in ((b"{", "the body is not JSON"), (b'{"model":"double"}', "messages: Field required")):
        answer = await cluster.http.post("/v1/messages", content=raw)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


async def test_models_with_the_parameter_receive_top_k(start: Callable[..., Any]) -> None:
    async with start(double={"parameters": ["top_k"]}) as cluster, anthropic_client(cluster) as client:
        await create(client, extra_body={"top_k": 5})
        assert cluster.double.bodies[-1]["top_k"] == 5


ERRORS = [
    ("no_money", anthropic.APIStatusError, 402, "billing_error"),
    ("status_500", anthropic.APIStatusError, 529, "overloaded_error"),
    ("status_401", anthropic.InternalServerError, 500, "api_error"),
    ("no_model", anthropic.NotFoundError, 404, "not_found_error"),
    ("status_400", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("status_429", anthropic.RateLimitError, 429, "rate_limit_error"),
]


async def test_errors_have_the_statuses_of_anthropic(start: Callable[..., Any]) -> None:
    circuits = {"consecutive_failures": 1000, "window": 1000}
    for stream in (False, True):
        async with (
            start(retries={"max_attempts": 1}, circuits=circuits) as cluster,
            anthropic_client(cluster) as client,
        ):
            for behaviour, error, status, kind in ERRORS:
                question = [{"role": "user", "content": behaviour}]
                with pytest.raises(error) as raised:
                    await create(client, question, stream=stream, extra_headers={"x-request-id": "r1"})
                body: Any = raised.value.body
                assert (raised.value.status_code, body["error"]["type"]) == (status, kind)
                assert (body["type"], body["request_id"], raised.value.request_id) == ("error", "r1", "r1")
                assert "sk-secret" not in str(body)


async def test_an_engine_that_fails_in_mid_stream_ends_it_with_an_error_event(
    cluster: ModelsCluster, client: anthropic.AsyncAnthropic
) -> None:
    for behaviour in ("cut", "error_event", "no_finish"):
        events = []
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            async for event in await create(client, [{"role": "user", "content": behaviour}], stream=True):
                assert event.type != "message_stop"
                events.append(event)
        assert events
    records = [(record["action"], record["outcome"]) for record in cluster.records()]
    assert records == [("model.messages", "failed")] * 3


async def test_the_caller_needs_the_scope(cluster: ModelsCluster) -> None:
    poor = {**KEY, "x-drw-scopes": "models:read"}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = await cluster.http.post(path, json={"model": "double", "messages": HELLO}, headers=poor)
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=cluster.socket), base_url="http://drw"
    ) as anonymous:
        answer = await anonymous.post("/v1/messages", json={})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_another_version_of_the_api_is_refused(cluster: ModelsCluster) -> None:
    answer = await cluster.http.post("/v1/messages", json={}, headers={"anthropic-version": "2023-01-01"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (
        "anthropic-version is '2023-01-01'; supported are: 2023-06-01, 2026-10-21" in answer.json()["error"]["message"]
    )


async def test_a_body_that_is_too_large_is_a_413(start: Callable[..., Any]) -> None:
    async with start(max_body_bytes=1024) as cluster:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = await cluster.http.post(path, content=b"x" * 2000)
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


async def test_a_client_that_disconnects_stops_the_engine(
    cluster: ModelsCluster, client: anthropic.AsyncAnthropic
) -> None:
    stream = await create(client, [{"role": "user", "content": "stall"}], stream=True)
    async for event in stream:
        if event.type == "content_block_delta":
            break
    await stream.close()
    await cluster.until(lambda: cluster.double.under_way == 0, "the engine has stopped")


async def test_reasoning_is_shown_if_the_request_asks_for_it(
    cluster: ModelsCluster, client: anthropic.AsyncAnthropic
) -> None:
    thinking: list[Any] = [{"role": "user", "content": "thinking"}]
    silent = await create(client, thinking)
    assert [block.type for block in silent.content] == ["text"]
    for how, text in (("summarized", "Rates rose."), ("omitted", "")):
        config: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": how}}
        message = await create(client, thinking, **config)
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.content[0].thinking, message.content[0].signature) == (text, "unsigned")
        async with client.messages.stream(model="double", max_tokens=16, messages=thinking, **config) as stream:
            final = await stream.get_final_message()
        assert [block.to_dict() for block in final.content] == [block.to_dict() for block in message.content]
        again = await create(client, [*thinking, {"role": "assistant", "content": message.content}, *HELLO])
        assert again.content[0].text == "Rates rose."


async def test_a_kill_ends_a_stream(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    stream = await create(client, [{"role": "user", "content": "stall"}], stream=True)
    with pytest.raises(anthropic.APIStatusError, match="permission_error"):
        async for event in stream:
            if event.type == "content_block_delta":
                await cluster.kills.kill(kill("MODEL", "double"))
    assert cluster.records()[-1]["outcome"] == "killed"


async def test_models_are_listed_for_both_clients(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    listed = await client.models.list()
    assert [(model.id, model.type, model.lifecycle) for model in listed.data] == [
        ("double", "model", "active"),
        ("vectors", "model", "active"),
    ]
    assert (listed.has_more, listed.first_id, listed.last_id) == (False, "double", "vectors")
    assert [model.id async for model in client.models.list(limit=1)] == ["double", "vectors"]
    page = await client.models.list(limit=1, before_id="vectors")
    assert ([model.id for model in page.data], page.has_more) == (["double"], False)
    assert (await client.models.retrieve("double")).display_name == "double"
    assert [model.object for model in (await cluster.client.models.list()).data] == ["model", "model"]
    with pytest.raises(anthropic.NotFoundError, match="'gone' does not exist"):
        await client.models.retrieve("gone")
    for query, message in (
        ({"limit": 0}, "limit must be a number"),
        ({"after_id": "gone"}, "after_id is 'gone'"),
        ({"after_id": "double", "before_id": "vectors"}, "not both"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=message):
            await client.models.list(**query)


async def test_parallel_tool_calls_are_blocks(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    ask: dict[str, Any] = {"model": "double", "max_tokens": 9, "messages": [{"role": "user", "content": "calls"}]}
    complete = await client.messages.create(**ask)
    async with client.messages.stream(**ask) as stream:
        streamed = await stream.get_final_message()
    calls = [("call_0", "price", {"a": 1}), ("call_1", "other", {})]
    for message, kinds in (
        (complete, ["text", "tool_use", "tool_use"]),
        (streamed, ["tool_use", "text", "tool_use"]),
    ):
        content: list[Any] = list(message.content)
        assert [block.type for block in content] == kinds
        assert [(b.id, b.name, b.input) for b in content if b.type == "tool_use"] == calls
        assert [block.text for block in content if block.type == "text"] == ["Late."]
        assert message.stop_reason == "tool_use"


async def test_broken_arguments_of_a_tool_are_an_error(
    cluster: ModelsCluster, client: anthropic.AsyncAnthropic
) -> None:
    ask = [{"role": "user", "content": "broken_call"}]
    with pytest.raises(anthropic.APIStatusError, match="not a JSON object") as raised:
        await create(client, ask)
    assert raised.value.status_code == 529
    with pytest.raises(anthropic.APIStatusError, match="not a JSON object"):
        async for event in await create(client, ask, stream=True):
            assert event.type != "message_stop"


async def test_stop_reasons(cluster: ModelsCluster, client: anthropic.AsyncAnthropic) -> None:
    for behaviour, reason, text in (("too_long", "max_tokens", "Rates"), ("filtered", "refusal", "No.")):
        message = await create(client, [{"role": "user", "content": behaviour}])
        assert (message.stop_reason, message.content[0].text) == (reason, text)


async def test_a_wrong_method_has_the_format_of_anthropic(cluster: ModelsCluster) -> None:
    answer = await cluster.http.get("/v1/messages")
    assert (answer.status_code, answer.json()["type"], answer.headers["allow"]) == (405, "error", "POST")


def test_the_gateway_and_the_service_have_the_same_errors() -> None:
    forms = {form.status: (form.status, form.type) for form in (*FORMS.values(), BILLING)}
    expected = {503 if status == 529 else status: form for status, form in forms.items()}
    assert {status: form for status, form in expected.items() if form[1] != "invalid_request_error"} == {
        **ANTHROPIC_FORMS,
        409: (409, "conflict_error"),  # of services only
    }
