"""Pass-through requests to an OpenAI-compatible upstream: authorization, forwarded content and metering."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from agent.data_plane import DataPlaneHarness
from agent.upstream import CHUNKS, DoubleVllm
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Route
from drw.gateway.request_router.routes.validation import with_defaults
from support.json_types import Json, JsonObject
from support.parts import until

CHAT = "/v1/chat/completions"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def vllm() -> AsyncIterator[DoubleVllm]:
    """A running OpenAI-compatible upstream."""
    double = await DoubleVllm().start()
    yield double
    await double.stop()


def route(**other: Json) -> Route:
    fields: JsonObject = {
        "name": "llama",
        "path": CHAT,
        "upstream": "vllm",
        "models": ["llama"],
        "pass_through": True,
        "upstream_model": "meta/llama-70b",
    }
    return with_defaults(Route(**(fields | other)))


def usage(data_plane: DataPlaneHarness) -> list[JsonObject]:
    log = data_plane.plane.folder / "usage.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def wait_for_usage(data_plane: DataPlaneHarness, request_id: str) -> JsonObject:
    async def usage_is_logged() -> bool:
        return any(line["request_id"] == request_id for line in usage(data_plane))

    await until(usage_is_logged, f"the usage of {request_id}")
    return next(line for line in usage(data_plane) if line["request_id"] == request_id)


async def apply_routes(data_plane: DataPlaneHarness, vllm: DoubleVllm, *routes: Route, **options: Json) -> None:
    credential = data_plane.plane.folder / "credentials" / "openai"
    credential.parent.mkdir(exist_ok=True)
    credential.write_text("sk-upstream-secret\n")
    upstream = Upstream(name="vllm", addresses=[vllm.address], credential="openai", **options)
    report = await data_plane.apply(routes=routes or (route(),), upstreams=(upstream,))
    assert report.error == ""


async def test_pass_through_route_serves_its_model_from_the_upstream(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    await apply_routes(data_plane, vllm)
    secret = data_plane.sign("key_1", "models:invoke")
    async with data_plane.client(secret) as client:
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES}, headers={"cookie": "a=b"})
        assert (answer.status_code, answer.headers["x-upstream"]) == (200, "vllm")
        headers, body = vllm.received[0]
        assert body == {"model": "meta/llama-70b", "messages": MESSAGES}
        assert headers["authorization"] == "Bearer sk-upstream-secret"
        assert not {"cookie", "x-model"} & headers.keys()
        assert not [name for name in headers if name.startswith("x-drw")]
        assert secret not in str(headers)
        line = await wait_for_usage(data_plane, answer.headers["x-request-id"])
        other = await client.post(CHAT, json={"model": "managed", "messages": MESSAGES})
        assert other.json()["path"] == CHAT and len(vllm.received) == 1
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
    assert len(usage(data_plane)) == 1


async def test_pass_through_stream_is_metered_without_a_usage_option(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    await apply_routes(data_plane, vllm)
    key = data_plane.sign("key_1", "models:invoke")
    async with openai.AsyncOpenAI(base_url=f"{data_plane.url}/v1", api_key=key, max_retries=0) as api:
        stream = await api.chat.completions.with_raw_response.create(model="llama", messages=MESSAGES, stream=True)
        contents = [c.choices[0].delta.content async for c in stream.parse() if c.choices]
    assert "".join(content or "" for content in contents) == "".join(CHUNKS)
    assert vllm.received[0][1]["stream_options"] == {"include_usage": True}
    assert vllm.received[0][1]["model"] == "meta/llama-70b"
    line = await wait_for_usage(data_plane, stream.headers["x-request-id"])
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)


@pytest.mark.parametrize(("stream", "usage_requested"), [(1, True), ("true", True), (False, False), (None, False)])
async def test_usage_is_requested_whenever_the_body_may_ask_for_a_stream(
    data_plane: DataPlaneHarness, vllm: DoubleVllm, stream: bool | int | str | None, usage_requested: bool
) -> None:
    await apply_routes(data_plane, vllm)
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        await client.post(CHAT, json={"model": "llama", "messages": MESSAGES, "stream": stream})
    assert ("stream_options" in vllm.received[0][1]) == usage_requested


async def test_client_that_disconnects_before_the_response_is_metered(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    vllm.hang = True
    await apply_routes(data_plane, vllm)
    body = json.dumps({"model": "llama", "messages": MESSAGES, "stream": False}).encode()
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        request = asyncio.create_task(client.post(CHAT, content=body))

        async def is_received() -> bool:
            return bool(vllm.received)

        await until(is_received, "the upstream")
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    async def usage_is_logged() -> bool:
        return bool(usage(data_plane))

    await until(usage_is_logged, "the usage")
    (line,) = usage(data_plane)
    assert (line["status"], line["upstream"], line["bytes_in"]) == (0, "vllm", len(body))


async def test_embeddings_and_large_responses_are_metered(data_plane: DataPlaneHarness, vllm: DoubleVllm) -> None:
    vllm.padding = 6_000_000
    await apply_routes(
        data_plane, vllm, route(), route(name="vectors", path="/v1/embeddings", models=["bge"], upstream_model="")
    )
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post("/v1/embeddings", json={"model": "bge", "input": "hi"})
        line = await wait_for_usage(data_plane, answer.headers["x-request-id"])
        assert (line["model"], line["prompt_tokens"], line["completion_tokens"]) == ("bge", 5, None)
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
        assert answer.status_code == 200 and len(answer.content) > 6_000_000
        assert (await wait_for_usage(data_plane, answer.headers["x-request-id"]))["completion_tokens"] == 3


async def test_body_without_a_routed_model_takes_the_default_route(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    await apply_routes(data_plane, vllm)
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
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
    await apply_routes(data_plane, vllm, route(path="/v1/audio/speech"))
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post("/v1/audio/speech", json={"model": "other"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_route_matched_by_model_enforces_its_scopes_and_body_size(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    await apply_routes(data_plane, vllm, route(scopes=["experiments:write"], max_body_bytes=1000))
    body = {"model": "llama", "messages": MESSAGES}
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert "'experiments:write'" in answer.json()["error"]["message"]
    async with data_plane.client(data_plane.sign("key_1", "models:invoke", "experiments:write")) as client:
        assert (await client.post(CHAT, json=body)).status_code == 200
        answer = await client.post(CHAT, json=body | {"user": "x" * 1000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert "at most 1000 bytes" in answer.json()["error"]["message"]
    async with data_plane.client() as client:
        assert (await client.post(CHAT, json=body)).status_code == 401
    assert len(vllm.received) == 1


async def test_model_header_is_read_only_where_the_route_allows_it(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    body = {"model": "managed", "messages": MESSAGES}
    await apply_routes(data_plane, vllm)
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        client.headers["x-model"] = "llama"
        assert (await client.post(CHAT, json=body)).json()["path"] == CHAT
        await apply_routes(data_plane, vllm, route(model_header=True, upstream_model="", models=["llama", "a.b"]))
        answer = await client.post(CHAT, json=body)
        assert answer.headers["x-upstream"] == "vllm"
        assert vllm.received[-1][1] == body  # the body was not read
        line = await wait_for_usage(data_plane, answer.headers["x-request-id"])
        assert (line["model"], line["prompt_tokens"]) == ("llama", 7)
        for name in ("axb", "llama,a.b", "other"):
            answer = await client.post(CHAT, json=body, headers={"x-model": name})
            assert answer.json()["path"] == CHAT


async def test_upstream_without_its_credential_gets_no_request(data_plane: DataPlaneHarness, vllm: DoubleVllm) -> None:
    upstream = Upstream(name="vllm", addresses=[vllm.address], credential="forgotten")
    await data_plane.apply(routes=(route(),), upstreams=(upstream,))
    report = data_plane.router.reports[-1]
    assert report.error == "" and "'vllm' needs its credential in the file" in report.notes[0]
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert "credential" in answer.json()["error"]["message"]
        assert vllm.received == []
        file = data_plane.plane.folder / "credentials" / "forgotten"
        file.parent.mkdir(exist_ok=True)
        file.write_text("sk-late")
        await data_plane.apply(routes=(route(),), upstreams=(upstream,), key_limits={"key_9": 9})

        async def served() -> bool:
            return (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200

        await until(served, "the credential")
    assert vllm.received[-1][0]["authorization"] == "Bearer sk-late"
    files = b"".join(f.read_bytes() for f in data_plane.plane.folder.glob("*") if f.is_file())
    dump = await data_plane.admin()._request("GET", "/config_dump?include_eds")
    assert "sk-late" not in dump and b"sk-late" not in files


async def test_client_that_disconnects_during_a_stream_is_metered(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    vllm.stall = True
    await apply_routes(data_plane, vllm)
    body = {"model": "llama", "messages": MESSAGES, "stream": True}
    async with (
        data_plane.client(data_plane.sign("key_1", "models:invoke")) as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        await anext(answer.aiter_lines())
    line = await wait_for_usage(data_plane, answer.headers["x-request-id"])
    assert line["prompt_tokens"] is None and "DC" in line["flags"]


@pytest.mark.parametrize("model_source", ["body", "header"])
async def test_prompt_of_32_mib_is_accepted_and_a_larger_one_rejected(
    data_plane: DataPlaneHarness, vllm: DoubleVllm, model_source: str
) -> None:
    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    def prompt(size: int) -> bytes:
        return json.dumps({"model": "llama", "messages": [{"role": "user", "content": "x" * size}]}).encode()

    await apply_routes(data_plane, vllm, route(model_header=model_source == "header", upstream_model=""))
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        client.headers["x-model"] = "llama" if model_source == "header" else ""
        for content in (prompt(32 << 20), chunks(prompt(32 << 20))):
            answer = await client.post(CHAT, content=content)
            assert (answer.status_code, answer.headers.get("x-upstream")) == (200, "vllm")
            assert len(vllm.received.pop()[1]["messages"][0]["content"]) == 32 << 20
        for content in (prompt(33 << 20), chunks(prompt(33 << 20))):
            answer = await client.post(CHAT, content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert "at most 34603008 bytes" in answer.json()["error"]["message"]
        assert vllm.received == []


async def test_deeply_nested_bodies_are_handled(data_plane: DataPlaneHarness, vllm: DoubleVllm) -> None:
    await apply_routes(data_plane, vllm)
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            nested = b'{"model": "llama", "a": ' + opening * 300_000 + b"1" + closing * 300_000 + b"}"
            for content in (opening * 500_000, b'{"model": "llama", "a": ' + opening * 500_000, nested):
                answer = await client.post(CHAT, content=content)
                assert answer.json()["path"] == CHAT  # no model could be read from it
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200


async def test_upstream_model_is_not_expanded_as_an_envoy_command(
    data_plane: DataPlaneHarness, vllm: DoubleVllm
) -> None:
    await apply_routes(data_plane, vllm, route(upstream_model="100%REQ(x-drw-key)%"))
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200
    assert vllm.received[0][1]["model"] == "100%REQ(x-drw-key)%"


async def test_only_the_blocked_model_is_rejected(data_plane: DataPlaneHarness, vllm: DoubleVllm) -> None:
    two_models = route(models=["llama", "large"], model_header=True, upstream_model="")
    upstream = Upstream(name="vllm", addresses=[vllm.address])
    for reason, status, code in [
        (Block.KILLED, 403, "killed"),
        (Block.TOKENS, 429, "rate_limit_exceeded"),
        (Block.MONEY, 429, "insufficient_quota"),
    ]:
        block = Block(subject=Block.MODEL, name="llama", reason=reason)
        assert (await data_plane.apply(routes=[two_models], upstreams=[upstream], blocks=[block])).error == ""
        async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
            for headers, model in [({}, "llama"), ({"x-model": "llama"}, "large")]:
                answer = await client.post(CHAT, json={"model": model, "messages": MESSAGES}, headers=headers)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (status, code)
            assert (await client.post(CHAT, json={"model": "large", "messages": MESSAGES})).status_code == 200
    assert len(vllm.received) == 3
