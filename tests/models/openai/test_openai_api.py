"""OpenAI's API through OpenAI's client with a real model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import openai
import orjson
import pytest

from models.cluster import CONTEXT, KEY, SLOTS, ModelsCluster, StartCluster
from support.json_types import Json, JsonObject

HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
async def cluster(start: StartCluster, engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


async def chat(cluster: ModelsCluster, messages: Json = HELLO, **more: Json) -> Json:
    return await cluster.client.chat.completions.create(model="small", messages=messages, **{"max_tokens": 8, **more})


async def test_models_are_listed(cluster: ModelsCluster) -> None:
    listed = await cluster.client.models.list()
    assert {model.id for model in listed.data} == {"small", "double", "vectors"}
    assert (await cluster.client.models.retrieve("small")).owned_by == "llama_cpp"
    with pytest.raises(openai.NotFoundError):
        await cluster.client.models.retrieve("gone")


async def test_a_streamed_chat_equals_the_complete_one(cluster: ModelsCluster) -> None:
    complete = await chat(cluster, seed=7, temperature=1.0)
    stream = await chat(cluster, seed=7, temperature=1.0, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == complete.choices[0].message.content
    assert text
    (usage,) = (chunk.usage for chunk in chunks if chunk.usage)
    assert usage.completion_tokens == complete.usage.completion_tokens <= 8
    assert usage.prompt_tokens == complete.usage.prompt_tokens
    assert {r["details"]["completion_tokens"] for r in cluster.records()} == {usage.completion_tokens}


async def test_default_sampling_of_the_model_applies_without_parameters(start: StartCluster, engine: Path) -> None:
    parameters: JsonObject = {
        "temperature": 0,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": "Say a a a a a a a a"}],
    }
    texts = {}
    for name, sampling in {"free": {}, "own": {"repeat_penalty": 1.9}}.items():
        async with start(small=engine, sampling=sampling) as cluster:
            texts[name] = (await chat(cluster, **parameters)).choices[0].message.content
            texts[f"{name} with a penalty of the caller"] = (
                (await chat(cluster, **parameters, frequency_penalty=0)).choices[0].message.content
            )
    assert texts["own"] != texts["free"]
    assert texts["own with a penalty of the caller"] == texts["free with a penalty of the caller"] == texts["free"]


async def test_sampling_of_the_request_overrides_the_model_default(start: StartCluster) -> None:
    async with start(double={"sampling": {"temperature": 0.2, "top_p": 0.9}}) as cluster:
        hello: JsonObject = {"model": "double", "messages": HELLO}
        await cluster.client.chat.completions.create(**hello)
        await cluster.client.chat.completions.create(**hello, temperature=1.5)
        bodies = [{k: v for k, v in body.items() if k in ("temperature", "top_p")} for body in cluster.double.bodies]
    assert bodies == [{"temperature": 0.2, "top_p": 0.9}, {"temperature": 1.5, "top_p": 0.9}]


async def test_parameters_have_their_effect(cluster: ModelsCluster) -> None:
    (first, second) = (await chat(cluster, n=2, temperature=1.5, max_tokens=None, max_completion_tokens=4)).choices
    assert (first.index, second.index) == (0, 1)
    counting = [{"role": "user", "content": "Count from 1 to 9, separated by commas."}]
    complete = (await chat(cluster, counting, temperature=0, max_tokens=30)).choices[0].message.content
    stopped = await chat(cluster, counting, temperature=0, max_tokens=30, stop=[complete[5]])
    assert stopped.choices[0].message.content == complete[: complete.index(complete[5])]
    assert stopped.choices[0].finish_reason == "stop"
    with_logprobs = await chat(cluster, logprobs=True, top_logprobs=2, max_tokens=3, temperature=0)
    assert [len(token.top_logprobs) for token in with_logprobs.choices[0].logprobs.content] == [2, 2, 2]
    assert with_logprobs.choices[0].finish_reason == "length"


async def test_an_answer_conforms_to_its_schema(cluster: ModelsCluster) -> None:
    schema = {
        "type": "object",
        "properties": {"risk": {"enum": ["low", "high"]}, "limit": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["risk", "limit"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "risk", "schema": schema}}
    answer = await chat(cluster, response_format=form, max_tokens=200, temperature=0)
    jsonschema.validate(orjson.loads(answer.choices[0].message.content), schema)
    broken = {"type": "json_schema", "json_schema": {"name": "risk", "schema": {"type": "bogus"}}}
    with pytest.raises(openai.BadRequestError, match="bogus"):
        await chat(cluster, response_format=broken)


def tool(name: str, **properties: Json) -> JsonObject:
    parameters = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [tool("get_price", ticker={"enum": ["AAPL", "MSFT"]}), tool("cancel_order", number={"enum": [1, 2]})]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_tool_is_called(cluster: ModelsCluster, stream: bool) -> None:
    ask = [{"role": "user", "content": "What is the price of AAPL?"}]
    named = {"type": "function", "function": {"name": "get_price"}}
    for choice, names in (("required", {"get_price", "cancel_order"}), (named, {"get_price"})):
        more = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 60, "stream": stream}
        if stream:
            parts = [part async for chunk in await chat(cluster, ask, **more) for part in chunk.choices]
            (call,) = (call for part in parts for call in part.delta.tool_calls or ())
            reason = parts[-1].finish_reason
        else:
            (choice_made,) = (await chat(cluster, ask, **more)).choices
            (call,) = choice_made.message.tool_calls
            reason = choice_made.finish_reason
        assert reason == "tool_calls"
        assert call.function.name in names
        assert orjson.loads(call.function.arguments)
    again = [
        *ask,
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "type": "function", "function": call.function.model_dump()}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "190.5"},
    ]
    assert (await chat(cluster, again, tools=TOOLS, tool_choice="none")).choices[0].message.content


async def test_completions_are_returned_complete_and_streamed(cluster: ModelsCluster) -> None:
    complete = await cluster.client.completions.create(
        model="small", prompt="The capital of France is", max_tokens=4, seed=1
    )
    assert complete.choices[0].text
    assert complete.usage is not None and complete.usage.completion_tokens == 4
    stream = await cluster.client.completions.create(
        model="small", prompt="The capital of France is", max_tokens=4, seed=1, stream=True
    )
    assert "".join([choice.text async for chunk in stream for choice in chunk.choices]) == complete.choices[0].text
    assert [r["action"] for r in cluster.records()] == ["model.completion"] * 2


async def test_an_overlong_text_to_embed_is_rejected_or_truncated_on_request(cluster: ModelsCluster) -> None:
    texts = ["a"] * 300 + ["b" * 101]
    with pytest.raises(
        openai.BadRequestError, match="input 300 has 101 tokens; this model takes at most 100"
    ) as caught:
        await cluster.client.embeddings.create(model="vectors", input=texts)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    extra = {"truncate_prompt_tokens": -1}
    cut = await cluster.client.embeddings.create(
        model="vectors", input=texts, encoding_format="float", extra_body=extra
    )
    assert cut.data[300].embedding == [100.0, 0.5]
    with pytest.raises(openai.BadRequestError, match="truncate_prompt_tokens: it cannot be 0") as caught:
        await cluster.client.embeddings.create(model="vectors", input="a", extra_body={"truncate_prompt_tokens": 0})
    assert caught.value.param == "truncate_prompt_tokens"


async def test_an_embedding_of_a_blank_text_is_an_error_that_names_its_position(cluster: ModelsCluster) -> None:
    with pytest.raises(openai.BadRequestError, match="input 300 is not valid; it must be 1 to 32,768") as caught:
        await cluster.client.embeddings.create(model="vectors", input=["a"] * 300 + [" "])
    assert caught.value.param == "input"


async def test_an_overlong_text_is_rejected_or_truncated_at_a_character_by_bytes(
    start: StartCluster,
) -> None:
    text = "a" + 64 * "é"
    async with start(vectors={"context_length": 2}) as cluster:
        with pytest.raises(openai.BadRequestError, match="input 1 has 129 bytes; 'vectors' takes 2 tokens") as caught:
            await cluster.client.embeddings.create(model="vectors", input=["x", text])
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        extra = {"truncate_prompt_tokens": -1}
        cut = await cluster.client.embeddings.create(
            model="vectors", input=["x", text], encoding_format="float", extra_body=extra
        )
        assert [item.embedding[0] for item in cut.data] == [1.0, 64.0]


async def test_embeddings_are_returned_in_both_encodings(cluster: ModelsCluster) -> None:
    one = await cluster.client.embeddings.create(model="vectors", input="four")
    assert one.data[0].embedding == [4.0, 0.5]
    assert one.usage.total_tokens == 1
    many = await cluster.client.embeddings.create(model="vectors", input=["a"] * 300 + ["bb"], encoding_format="float")
    assert [d.index for d in many.data] == list(range(301))
    assert many.data[300].embedding == [2.0, 0.5]
    assert [(r["action"], r["details"]["prompt_tokens"]) for r in cluster.records()] == [
        ("model.embedding", 1),
        ("model.embedding", 301),
    ]


LONG = [{"role": "user", "content": "risk " * CONTEXT}]

HUGE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["risk"] * 9999}}}


@pytest.mark.parametrize(
    ("path", "change", "status", "param", "code"),
    [
        ("chat/completions", {"model": "gone"}, 404, "model", "model_not_found"),
        ("chat/completions", {"model": "vectors"}, 400, "model", "invalid_request"),
        ("chat/completions", {"max_tokens": -5}, 400, "max_tokens", "invalid_request"),
        ("chat/completions", {"max_tokens": "many"}, 400, "max_tokens", "invalid_request"),
        ("chat/completions", {"max_completion_tokens": 10**6}, 400, "max_completion_tokens", "invalid_value"),
        ("chat/completions", {"temperature": True}, 400, "temperature", "invalid_request"),
        ("chat/completions", {"n": 9}, 400, "n", "invalid_request"),
        ("chat/completions", {"stop": 3}, 400, "stop", "invalid_request"),
        ("chat/completions", {"messages": []}, 400, "messages", "invalid_request"),
        ("chat/completions", {"messages": [{"role": "boss", "content": "x"}]}, 400, "messages[0].role", None),
        ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages[0]", None),
        ("chat/completions", {"tempreature": 1}, 400, "tempreature", "invalid_request"),
        ("chat/completions", {"functions": []}, 400, "functions", "unsupported_parameter"),
        ("chat/completions", {"top_logprobs": 2}, 400, "top_logprobs", "invalid_request"),
        ("chat/completions", {"messages": LONG}, 400, "messages", "context_length_exceeded"),
        ("chat/completions", {"response_format": {"type": "json_schema"}}, 400, "response_format", None),
        ("chat/completions", {"response_format": HUGE}, 400, "response_format.json_schema.schema", None),
        ("completions", {"prompt": [1, "a"]}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": []}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": ["a", [1]]}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": [[1], []]}, 400, "prompt[1]", "invalid_request"),
        ("completions", {"prompt": [[1], [-1]]}, 400, "prompt[1]", "invalid_request"),
        ("completions", {"prompt": [1, 10**6]}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": ["x"] * 129}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": ["x"] * 65, "n": 2}, 400, "prompt", "invalid_request"),
        ("completions", {"prompt": "x", "best_of": 2}, 400, "best_of", "unsupported_parameter"),
        ("completions", {"prompt": "x", "echo": True}, 400, "echo", "unsupported_parameter"),
        ("embeddings", {"input": "x"}, 400, "model", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": [1.5]}, 400, "input", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": [[1], [True]]}, 400, "input[1]", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": []}, 400, "input", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": ["x", ""]}, 400, "input", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": ""}, 400, "input", "invalid_request"),
        ("embeddings", {"model": "vectors", "input": "x", "dimensions": 1}, 400, "dimensions", "unsupported_parameter"),
        ("embeddings", {"model": "vectors", "input": "x", "encoding_format": "hex"}, 400, "encoding_format", None),
    ],
)
async def test_an_invalid_request_names_the_parameter_and_writes_a_record(
    cluster: ModelsCluster, path: str, change: JsonObject, status: int, param: str, code: str | None
) -> None:
    body = {"model": "small", **({"messages": HELLO} if path == "chat/completions" else {}), **change}
    answer = await cluster.http.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error["code"] == (code or "invalid_request")
    assert error["message"]
    assert [r["outcome"] for r in cluster.records()] == ["refused"]


async def test_a_body_that_is_not_a_json_object_is_rejected(cluster: ModelsCluster) -> None:
    for raw in (b"{", b"[]", b'"x"', b"\xff"):
        answer = await cluster.http.post("/v1/chat/completions", content=raw)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    answer = await cluster.http.post("/v1/chat/completions", content=b" " * ((33 << 20) + 1))
    assert answer.status_code == 413


async def test_a_prompt_above_the_context_length_or_configured_limit_is_rejected(
    cluster: ModelsCluster, start: StartCluster, engine: Path
) -> None:
    with pytest.raises(openai.BadRequestError, match=rf"has \d+ tokens; this model takes at most {CONTEXT // SLOTS}"):
        await chat(cluster, LONG)
    limited = {"engine": "llama_cpp", "base_url": f"unix:{engine}", "max_prompt_tokens": 64}
    async with start(small=engine, double=limited) as limited_cluster:
        ask: JsonObject = {"model": "double", "max_tokens": 1}
        fits: Json = [{"role": "user", "content": "risk " * 20}]
        await limited_cluster.client.chat.completions.create(messages=fits, **ask)
        with pytest.raises(openai.BadRequestError, match="this model takes at most 64") as caught:
            await limited_cluster.client.chat.completions.create(
                messages=[{"role": "user", "content": "risk " * 99}], **ask
            )
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="this model takes at most 64"):
            await limited_cluster.client.completions.create(prompt="risk " * 99, **ask)


async def test_a_key_without_the_scope_is_rejected(cluster: ModelsCluster) -> None:
    body = {"model": "small", "messages": HELLO}
    nobody = {"x-drw-key": ""}
    assert (await cluster.http.post("/v1/chat/completions", json=body, headers=nobody)).status_code == 401
    reader = KEY | {"x-drw-scopes": "models:read"}
    assert (await cluster.http.post("/v1/chat/completions", json=body, headers=reader)).status_code == 403
    assert [r["outcome"] for r in cluster.records()] == ["refused"]


async def test_more_requests_than_slots_share_the_engine(cluster: ModelsCluster) -> None:
    many = 2 * SLOTS
    answers = await asyncio.gather(*(chat(cluster, seed=i, max_tokens=16) for i in range(many)))
    assert all(answer.choices[0].message.content for answer in answers)
    assert [r["outcome"] for r in cluster.records()] == ["ok"] * many


async def test_metrics_have_time_to_first_token_and_tokens_per_model(cluster: ModelsCluster) -> None:
    await chat(cluster)
    text = (await cluster.http.get("/metrics/test", headers=KEY | {"x-drw-scopes": "platform:read"})).text
    for name in ("time_to_first_token_seconds_count", "request_duration_seconds_count"):
        assert f"gen_ai_server_{name}{{" in text
    labels = (
        'gen_ai_operation_name="chat",gen_ai_provider_name="llama_cpp",gen_ai_request_model="small",'
        'gen_ai_response_model="small",gen_ai_token_type="output"'
    )
    assert f"gen_ai_client_token_usage_count{{{labels}}}" in text
