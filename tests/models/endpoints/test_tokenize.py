"""`POST /v1/tokenize` and `/v1/detokenize` with the bundled engine, and with upstreams that have no tokenizer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json


@pytest.fixture
async def small(start: StartCluster, engine: Path) -> AsyncIterator[ModelsCluster]:
    async with start(small=engine) as cluster:
        yield cluster


async def post(cluster: ModelsCluster, path: str, **body: Json) -> Json:
    return await cluster.http.post(path, json={"model": "small", **body})


async def test_text_becomes_tokens_and_text_again(small: ModelsCluster) -> None:
    answer = (await post(small, "/v1/tokenize", prompt="Rates rose — today.", return_token_strs=True)).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) > 3
    assert answer["max_model_len"] == 1024
    assert (await post(small, "/v1/detokenize", tokens=answer["tokens"])).json() == {"prompt": "Rates rose — today."}
    plain = (await post(small, "/v1/tokenize", prompt="Rates rose — today.")).json()
    assert plain["tokens"] == answer["tokens"] and plain["token_strs"] is None
    record = small.records()[-1]
    assert record["action"] == "model.tokenize" and record["outcome"] == "ok" and "Rates" not in str(record)


async def test_a_chat_has_the_tokens_that_its_answer_reports(small: ModelsCluster) -> None:
    messages: Json = [{"role": "user", "content": "Say hello."}]
    counted = (await post(small, "/v1/tokenize", messages=messages)).json()
    answer = await small.client.chat.completions.create(model="small", messages=messages, max_tokens=1)
    assert answer.usage is not None and counted["count"] == answer.usage.prompt_tokens


async def test_what_is_not_supported_is_named(small: ModelsCluster) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    for path, body, param in (
        ("/v1/tokenize", {}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "messages": messages}, "prompt"),
        ("/v1/tokenize", {"messages": messages, "return_token_strs": True}, "return_token_strs"),
        ("/v1/tokenize", {"messages": messages, "add_special_tokens": True}, "add_special_tokens"),
        ("/v1/tokenize", {"messages": messages, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/v1/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        ("/v1/tokenize", {"prompt": "a", "model": "vectors"}, "model"),
        ("/v1/tokenize", {"prompt": "a", "model": "double"}, "model"),  # its upstream has no tokenizer
        ("/v1/detokenize", {"tokens": [1], "model": "double"}, "model"),
        ("/v1/detokenize", {"tokens": []}, "tokens"),
        ("/v1/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/v1/detokenize", {"tokens": [10_000_000]}, "prompt"),
    ):
        answer = await post(small, path, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), (path, body, answer.text)
    assert (await post(small, "/v1/tokenize", prompt="x" * 200_000)).json()["error"][
        "code"
    ] == "context_length_exceeded"
