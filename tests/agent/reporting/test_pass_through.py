"""Requests that Envoy sends straight to an OpenAI-compatible upstream: who may, what it sees, what is written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from agent.data_plane import Fed
from agent.upstream import WORDS, DoubleVllm
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Route
from drw.gateway.request_router.routes.validation import with_defaults
from support.parts import until

CHAT = "/v1/chat/completions"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def vllm() -> AsyncIterator[DoubleVllm]:
    """An upstream of others, running."""
    double = await DoubleVllm().start()
    yield double
    await double.stop()


def route(**other: Any) -> Route:
    made: dict[str, Any] = {
        "name": "llama",
        "path": CHAT,
        "upstream": "vllm",
        "models": ["llama"],
        "pass_through": True,
        "upstream_model": "meta/llama-70b",
    }
    return with_defaults(Route(**(made | other)))


def usage(fed: Fed) -> list[dict]:
    log = fed.plane.folder / "usage.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def metered(fed: Fed, request_id: str) -> dict:
    async def written() -> bool:
        return any(line["request_id"] == request_id for line in usage(fed))

    await until(written, f"the usage of {request_id}")
    return next(line for line in usage(fed) if line["request_id"] == request_id)


async def want(fed: Fed, vllm: DoubleVllm, *routes: Route, **other) -> None:
    secret = fed.plane.folder / "credentials" / "openai"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("sk-upstream-secret\n")
    made = Upstream(name="vllm", addresses=[vllm.where], credential="openai", **other)
    report = await fed.want(records=routes or (route(),), made=(made,))
    assert report.error == ""


async def test_a_model_of_a_pass_through_route_is_served_by_its_upstream(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm)
    secret = fed.sign("key_1", "models:invoke")
    async with fed.client(secret) as client:
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES}, headers={"cookie": "a=b"})
        assert (answer.status_code, answer.headers["x-upstream"]) == (200, "vllm")
        headers, body = vllm.got[0]
        assert body == {"model": "meta/llama-70b", "messages": MESSAGES}
        assert headers["authorization"] == "Bearer sk-upstream-secret"
        assert not {"cookie", "x-model"} & headers.keys()
        assert not [name for name in headers if name.startswith("x-drw")]
        assert secret not in str(headers)
        line = await metered(fed, answer.headers["x-request-id"])
        other = await client.post(CHAT, json={"model": "managed", "messages": MESSAGES})
        assert other.json()["path"] == CHAT and len(vllm.got) == 1
    assert {k: line[k] for k in ("org", "desk", "key", "model", "route", "upstream", "status")} == {
        "org": "local",
        "desk": "research",
        "key": "key_1",
        "model": "llama",
        "route": "llama",
        "upstream": "vllm",
        "status": 200,
    }
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)
    assert len(usage(fed)) == 1


async def test_a_stream_of_a_pass_through_route_is_counted_though_nobody_asked(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm)
    key = fed.sign("key_1", "models:invoke")
    async with openai.AsyncOpenAI(base_url=f"{fed.url}/v1", api_key=key, max_retries=0) as api:
        stream = await api.chat.completions.with_raw_response.create(model="llama", messages=MESSAGES, stream=True)
        said = [c.choices[0].delta.content async for c in stream.parse() if c.choices]
    assert "".join(word or "" for word in said) == "".join(WORDS)
    assert vllm.got[0][1]["stream_options"] == {"include_usage": True}
    assert vllm.got[0][1]["model"] == "meta/llama-70b"
    line = await metered(fed, stream.headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)


@pytest.mark.parametrize(("stream", "asked"), [(1, True), ("true", True), (False, False), (None, False)])
async def test_whatever_may_be_a_stream_is_asked_for_its_usage(
    fed: Fed, vllm: DoubleVllm, stream: bool | int | str | None, asked: bool
) -> None:
    await want(fed, vllm)
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        await client.post(CHAT, json={"model": "llama", "messages": MESSAGES, "stream": stream})
    assert ("stream_options" in vllm.got[0][1]) == asked


async def test_a_caller_that_leaves_before_the_answer_begins_is_written_down(fed: Fed, vllm: DoubleVllm) -> None:
    vllm.hang = True
    await want(fed, vllm)
    body = json.dumps({"model": "llama", "messages": MESSAGES, "stream": False}).encode()
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        asking = asyncio.create_task(client.post(CHAT, content=body))

        async def asked() -> bool:
            return bool(vllm.got)

        await until(asked, "the upstream")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def written() -> bool:
        return bool(usage(fed))

    await until(written, "the usage")
    (line,) = usage(fed)
    assert (line["status"], line["upstream"], line["bytes_in"]) == (0, "vllm", len(body))


async def test_embeddings_and_large_answers_are_counted_too(fed: Fed, vllm: DoubleVllm) -> None:
    vllm.padding = 6_000_000
    await want(fed, vllm, route(), route(name="vectors", path="/v1/embeddings", models=["bge"], upstream_model=""))
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post("/v1/embeddings", json={"model": "bge", "input": "hi"})
        line = await metered(fed, answer.headers["x-request-id"])
        assert (line["model"], line["prompt_tokens"], line["completion_tokens"]) == ("bge", 5, None)
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
        assert answer.status_code == 200 and len(answer.content) > 6_000_000
        assert (await metered(fed, answer.headers["x-request-id"]))["completion_tokens"] == 3


async def test_whose_body_names_no_model_of_the_routes_goes_where_it_went(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm)
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        for content in (
            b'{"model": "llama"',
            b"",
            b'{"model": 7}',
            b'["llama"]',
            b'{"messages": []}',
            b'{"model":"llama "}',
        ):
            answer = await client.post(CHAT, content=content, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["bytes"]) == (200, len(content)), content
        for kind in ("text/plain", "application/json; charset=utf-8", ""):
            body = json.dumps({"model": "llama", "messages": MESSAGES})
            answer = await client.post(CHAT, content=body, headers={"content-type": kind})
            assert answer.headers.get("x-upstream") == "vllm", kind
    await want(fed, vllm, route(path="/v1/responses"))
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post("/v1/responses", json={"model": "other"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_scopes_and_sizes_of_a_route_found_by_its_model_hold(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm, route(scopes=["experiments:write"], max_body_bytes=1000))
    body = {"model": "llama", "messages": MESSAGES}
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert "'experiments:write'" in answer.json()["error"]["message"]
    async with fed.client(fed.sign("key_1", "models:invoke", "experiments:write")) as client:
        assert (await client.post(CHAT, json=body)).status_code == 200
        answer = await client.post(CHAT, json=body | {"user": "x" * 1000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert "at most 1000 bytes" in answer.json()["error"]["message"]
    async with fed.client() as client:
        assert (await client.post(CHAT, json=body)).status_code == 401
    assert len(vllm.got) == 1


async def test_a_header_names_the_model_only_where_the_route_allows_it(fed: Fed, vllm: DoubleVllm) -> None:
    body = {"model": "managed", "messages": MESSAGES}
    await want(fed, vllm)
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        client.headers["x-model"] = "llama"
        assert (await client.post(CHAT, json=body)).json()["path"] == CHAT
        await want(fed, vllm, route(model_header=True, upstream_model="", models=["llama", "a.b"]))
        answer = await client.post(CHAT, json=body)
        assert answer.headers["x-upstream"] == "vllm"
        assert vllm.got[-1][1] == body  # not even read
        line = await metered(fed, answer.headers["x-request-id"])
        assert (line["model"], line["prompt_tokens"]) == ("llama", 7)
        for name in ("axb", "llama,a.b", "other"):
            answer = await client.post(CHAT, json=body, headers={"x-model": name})
            assert answer.json()["path"] == CHAT


async def test_without_its_credential_nothing_goes_out(fed: Fed, vllm: DoubleVllm) -> None:
    made = Upstream(name="vllm", addresses=[vllm.where], credential="forgotten")
    await fed.want(records=(route(),), made=(made,))
    report = fed.router_double.reports[-1]
    assert report.error == "" and "'vllm' needs its credential in the file" in report.notes[0]
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert "credential" in answer.json()["error"]["message"]
        assert vllm.got == []
        file = fed.plane.folder / "credentials" / "forgotten"
        file.parent.mkdir(exist_ok=True)
        file.write_text("sk-late")
        await fed.want(records=(route(),), made=(made,), own={"key_9": 9})

        async def served() -> bool:
            return (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200

        await until(served, "the credential")
    assert vllm.got[-1][0]["authorization"] == "Bearer sk-late"
    everything = b"".join(f.read_bytes() for f in fed.plane.folder.glob("*") if f.is_file())
    dump = await fed.admin()._request("GET", "/config_dump?include_eds")
    assert "sk-late" not in dump and b"sk-late" not in everything


async def test_a_caller_that_is_cut_off_is_written_down(fed: Fed, vllm: DoubleVllm) -> None:
    vllm.stall = True
    await want(fed, vllm)
    body = {"model": "llama", "messages": MESSAGES, "stream": True}
    async with (
        fed.client(fed.sign("key_1", "models:invoke")) as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        await anext(answer.aiter_lines())
    line = await metered(fed, answer.headers["x-request-id"])
    assert line["prompt_tokens"] is None and "DC" in line["flags"]


@pytest.mark.parametrize("by", ["body", "header"])
async def test_a_prompt_of_32_mib_passes_and_a_larger_one_is_refused(fed: Fed, vllm: DoubleVllm, by: str) -> None:
    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    def prompt(size: int) -> bytes:
        return json.dumps({"model": "llama", "messages": [{"role": "user", "content": "x" * size}]}).encode()

    await want(fed, vllm, route(model_header=by == "header", upstream_model=""))
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        client.headers["x-model"] = "llama" if by == "header" else ""
        for content in (prompt(32 << 20), pieces(prompt(32 << 20))):
            answer = await client.post(CHAT, content=content)
            assert (answer.status_code, answer.headers.get("x-upstream")) == (200, "vllm")
            assert len(vllm.got.pop()[1]["messages"][0]["content"]) == 32 << 20
        for content in (prompt(33 << 20), pieces(prompt(33 << 20))):
            answer = await client.post(CHAT, content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert "at most 34603008 bytes" in answer.json()["error"]["message"]
        assert vllm.got == []


async def test_a_body_nested_without_end_harms_nobody(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm)
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        for deep, closed in ((b"[", b"]"), (b'{"a":', b"}")):
            whole = b'{"model": "llama", "a": ' + deep * 300_000 + b"1" + closed * 300_000 + b"}"
            for content in (deep * 500_000, b'{"model": "llama", "a": ' + deep * 500_000, whole):
                answer = await client.post(CHAT, content=content)
                assert answer.json()["path"] == CHAT  # it names no model that could be read
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200


async def test_the_name_of_a_model_is_never_a_command(fed: Fed, vllm: DoubleVllm) -> None:
    await want(fed, vllm, route(upstream_model="100%REQ(x-drw-key)%"))
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200
    assert vllm.got[0][1]["model"] == "100%REQ(x-drw-key)%"


async def test_a_model_that_is_blocked_is_refused_and_no_other(fed: Fed, vllm: DoubleVllm) -> None:
    both = route(models=["llama", "large"], model_header=True, upstream_model="")
    made = Upstream(name="vllm", addresses=[vllm.where])
    for reason, status, code in [
        (Block.KILLED, 403, "killed"),
        (Block.TOKENS, 429, "rate_limit_exceeded"),
        (Block.MONEY, 429, "insufficient_quota"),
    ]:
        block = Block(subject=Block.MODEL, name="llama", reason=reason)
        assert (await fed.want(records=[both], made=[made], blocks=[block])).error == ""
        async with fed.client(fed.sign("key_1", "models:invoke")) as client:
            for headers, model in [({}, "llama"), ({"x-model": "llama"}, "large")]:
                answer = await client.post(CHAT, json={"model": model, "messages": MESSAGES}, headers=headers)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (status, code)
            assert (await client.post(CHAT, json={"model": "large", "messages": MESSAGES})).status_code == 200
    assert len(vllm.got) == 3
