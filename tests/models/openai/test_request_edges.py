"""Unusual requests: several prompts, token ids, extra parameters, repeated keys, compression."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import orjson
import pytest
from openai.types import Completion

from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json

HELLO: Json = [{"role": "user", "content": "hi"}]
VLLM = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}}
PROMPTS = ["The capital of France is", "1, 2, 3, 4,", "Once upon a time"]


@pytest.fixture
async def cluster(start: StartCluster, engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


async def complete(cluster: ModelsCluster, prompt: Json, model: str = "small", **more: Json) -> Completion:
    return await cluster.client.completions.create(model=model, prompt=prompt, **{"temperature": 0, "seed": 1, **more})


def prompt_tokens(answer: Completion) -> int:
    assert answer.usage
    return answer.usage.prompt_tokens


async def test_each_prompt_of_a_list_has_choices_and_is_counted(cluster: ModelsCluster) -> None:
    alone = [await complete(cluster, prompt, max_tokens=4) for prompt in PROMPTS]
    together = await complete(cluster, PROMPTS, max_tokens=4, n=2)
    assert [choice.index for choice in together.choices] == list(range(6))
    assert [choice.text for choice in together.choices[::2]] == [one.choices[0].text for one in alone]
    assert prompt_tokens(together) == sum(prompt_tokens(one) for one in alone)
    assert together.usage
    assert together.usage.completion_tokens == 6 * 4
    assert cluster.records()[-1]["details"]["completion_tokens"] == 6 * 4
    stream = await cluster.client.completions.create(
        model="small",
        prompt=PROMPTS,
        max_tokens=4,
        n=2,
        temperature=0,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    streamed_texts, usage = [""] * 6, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed_texts[choice.index] += choice.text
    assert (streamed_texts, usage) == ([choice.text for choice in together.choices], together.usage)
    (choice,) = (await complete(cluster, [PROMPTS[0]], max_tokens=4)).choices
    assert choice.text == alone[0].choices[0].text


async def test_a_prompt_of_token_ids_equals_its_text(cluster: ModelsCluster, engine: Path) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(engine)), base_url="http://e") as raw:
        tokenized = [(await raw.post("/tokenize", json={"content": p, "add_special": True})).json() for p in PROMPTS]
    ids = [one["tokens"] for one in tokenized]
    text = await complete(cluster, PROMPTS, max_tokens=4)
    for prompt, choices in ((ids, text.choices), (ids[0], text.choices[:1])):
        answer = await complete(cluster, prompt, max_tokens=4)
        assert [choice.text for choice in answer.choices] == [choice.text for choice in choices]
    assert prompt_tokens(answer) == len(ids[0])
    with pytest.raises(openai.BadRequestError, match=r"token id 999999; the tokenizer of 'small' has 0 to 49151"):
        await complete(cluster, [[1], [999_999]])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (["x", ""], "prompt is empty"),
        ([[1], [999_999]], "token id 999999"),
        (["x", "word " * 1500], "1501 tokens; this model takes at most 1023"),
        ([[1], [1] * 1024], "1024 tokens"),
        ("", "prompt is empty"),
        ("word " * 1500, "1501 tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_invalid_prompt_is_rejected_before_any_answer(
    cluster: ModelsCluster, wrong: Json, why: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=why) as no:
        await complete(cluster, wrong, max_tokens=4, stream=stream)
    assert no.value.param == "prompt"
    assert "completion_tokens" not in cluster.records()[-1]["details"]


async def test_token_ids_go_only_to_the_named_model(start: StartCluster) -> None:
    aliases = {"mixed": {"targets": {"double": 1, "other": 1}}}
    async with start(fallback={}, more=(), discovery={"aliases": aliases}) as cluster:
        with pytest.raises(openai.BadRequestError, match="name one model, or send text"):
            await complete(cluster, [1, 2], model="mixed")
        answer = await complete(cluster, [[1, 2], [3]], model="double")
        assert [choice.text for choice in answer.choices] == ["Rates rose."] * 2
        assert cluster.double.bodies[-1]["prompt"] == [[1, 2], [3]]


async def test_a_completion_without_max_tokens_has_16_tokens(cluster: ModelsCluster) -> None:
    for bound in ({}, {"max_tokens": None}):
        answer = await complete(cluster, "1, 2, 3, 4,", extra_body=bound)
        assert answer.usage
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")
    await complete(cluster, "hello", model="double")
    assert cluster.double.bodies[-1]["max_tokens"] == 16


async def test_unsupported_parameters_without_effect_are_accepted(cluster: ModelsCluster) -> None:
    await complete(cluster, "hello", model="double", best_of=1, echo=False, suffix="")
    assert not {"best_of", "echo", "suffix"} & cluster.double.bodies[-1].keys()


async def test_extra_parameters_go_to_models_that_support_them(start: StartCluster) -> None:
    async with start(double={"parameters": [*VLLM]}, fallback={"parameters": ["top_k"]}) as cluster:
        await cluster.client.chat.completions.create(model="double", messages=HELLO, extra_body=VLLM)
        assert VLLM.items() <= cluster.double.bodies[-1].items()
        await complete(cluster, "hello", model="double", extra_body={"top_k": 7})
        assert cluster.double.bodies[-1]["top_k"] == 7
        with pytest.raises(openai.BadRequestError, match="'min_p' is not a parameter here; .*, top_k") as no:
            await cluster.client.chat.completions.create(model="other", messages=HELLO, extra_body={"min_p": 0.1})
        assert no.value.param == "min_p"
        # A fallback that does not take them does not answer.
        failing: Json = [{"role": "user", "content": "status_500"}]
        with pytest.raises(openai.APIStatusError):
            await cluster.client.chat.completions.create(model="double", messages=failing, extra_body=VLLM)
        assert {body["model"] for body in cluster.double.bodies if "min_p" in body} == {"up-1"}


async def test_errors_do_not_list_unsupported_parameters(cluster: ModelsCluster) -> None:
    for path, body, unsupported in (
        ("chat/completions", {"messages": HELLO}, ("functions", "function_call", "audio", "web_search_options")),
        ("completions", {"prompt": "x"}, ("best_of", "echo", "suffix")),
        ("embeddings", {"input": "x"}, ()),
    ):
        answer = await cluster.http.post(f"/v1/{path}", json={"model": "double", **body, "top_k": 5})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "top_k")
        known = answer.json()["error"]["message"].partition("there are: ")[2].split(", ")
        assert "model" in known
        assert not set(unsupported) & set(known)


async def test_settings_cannot_forward_reserved_parameters(start: StartCluster) -> None:
    for settings, fault in (
        ({"parameters": ["stream"]}, "'stream', which the platform itself sets"),
        ({"parameters": ["top_k"], "engine": "llama_cpp"}, "'openai' and 'vertex'"),
        ({"parameters": ["Top K"]}, "parameters"),
    ):
        with pytest.raises(Exception, match=fault):
            async with start(double=settings):
                pass


REPEATED = {
    "chat/completions": b'{"model": "double", "model": "small", "messages": [{"role": "user", "content": "hi"}]}',
    "completions": b'{"model": "small", "prompt": "x", "logit_bias": {"5": 1, "5": -1}}',
    "embeddings": b'{"model": "vectors", "input": "x", "input": "y"}',
}


@pytest.mark.parametrize("path", REPEATED)
async def test_a_repeated_json_key_is_rejected(cluster: ModelsCluster, path: str) -> None:
    answer = await cluster.http.post(f"/v1/{path}", content=REPEATED[path])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "duplicate key" in answer.json()["error"]["message"]
    assert cluster.double.bodies == []


async def test_a_compressed_body_is_decompressed_within_the_limit(start: StartCluster) -> None:
    async with start(max_body_bytes=4096) as cluster:
        body = orjson.dumps({"model": "double", "messages": HELLO})
        for encoding, data in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("identity", body)):
            head = {"content-encoding": encoding}
            assert (await cluster.http.post("/v1/chat/completions", content=data, headers=head)).status_code == 200
        bomb = gzip.compress(b" " * (1 << 26))
        for data, status, code in (
            (bomb, 413, "request_too_large"),
            (body, 400, "invalid_request"),
            (gzip.compress(body)[:-9], 400, "invalid_request"),
            (gzip.compress(body) + b"more", 400, "invalid_request"),
        ):
            answer = await cluster.http.post("/v1/chat/completions", content=data, headers={"content-encoding": "gzip"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        for encoding in ("br", "zstd", "gzip, gzip"):
            head = {"content-encoding": encoding}
            answer = await cluster.http.post("/v1/chat/completions", content=body, headers=head)
            assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
            assert answer.headers["accept-encoding"] == "gzip, deflate"


async def test_upstream_quota_and_model_errors_keep_their_code(start: StartCluster) -> None:
    async with start() as cluster:
        for behaviour, status, code in (("no_money", 429, "insufficient_quota"), ("no_model", 404, "model_not_found")):
            for _ in range(8):  # nor does it become another after a while
                body = {"model": "double", "messages": [{"role": "user", "content": behaviour}]}
                answer = await cluster.http.post("/v1/chat/completions", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
                assert "retry-after" not in answer.headers
                assert "unix:" not in answer.text


async def test_model_ids_with_slashes_and_escapes_are_found(start: StartCluster) -> None:
    slashed = {"meta-llama/Llama-3": {"engine": "openai", "base_url": "http://127.0.0.1:9/v1", "created": 1713398400}}
    async with start(discovery={"models": slashed}) as cluster:
        for path in (
            "v1/models/meta-llama%2FLlama-3",
            "v1/models/meta-llama/Llama-3",
            "api/v1/models/meta-llama/Llama-3",
        ):
            answer = await cluster.http.get(f"/{path}")
            assert (answer.status_code, answer.json()["id"]) == (200, "meta-llama/Llama-3")
            assert int(answer.json()["created"]) == 1713398400
        for path in ("/v1/models", "/v1/models/", "/v1/models//"):
            assert (await cluster.http.get(path)).json()["object"] == "list"
        assert (await cluster.http.get("/api/v1/models/")).json()["models"]
        missing = await cluster.http.get("/v1/models/meta-llama%2Fgone")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        first = (await cluster.client.models.retrieve("double")).created
    async with start(discovery={"models": slashed}) as cluster:
        assert first == (await cluster.client.models.retrieve("double")).created > 1_700_000_000


async def test_another_method_is_405_with_the_allowed_methods(cluster: ModelsCluster) -> None:
    answer = await cluster.http.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
