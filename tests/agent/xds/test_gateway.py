"""Authentication, authorization, limits and errors through a real Envoy in front of the real gateway services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import jwt
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agent.data_plane import GatewayHarness
from drw.gateway.authentication.keys.signing import Claims, Signer, new_private_key
from drw.kernel.rpc.http.server import HttpServer
from support.json_types import Json, JsonObject
from support.parts import until

CHAT = "/v1/chat/completions"


def claims(**changes: Json) -> Claims:
    now = datetime.now(UTC)
    base: JsonObject = {
        "key": "key_by_hand",
        "org": "local",
        "desk": "research",
        "scopes": ("models:invoke",),
        "issued_at": now - timedelta(hours=2),
        "expires_at": now + timedelta(hours=1),
    }
    return Claims(**(base | changes))


async def test_invalid_key_is_rejected_with_the_reason(gateway: GatewayHarness) -> None:
    past = datetime.now(UTC) - timedelta(minutes=30)
    foreign_signer = Signer(new_private_key(), "drw", "drw-gateway")
    for secret, expected in [
        ("", "there is no key in this request"),
        ("sk-something", "not valid"),
        (foreign_signer.sign(claims()), "not valid"),
        (gateway.signer(issuer="other").sign(claims()), "not valid"),
        (gateway.signer(audience="other").sign(claims()), "not valid"),
        (gateway.signer().sign(claims(expires_at=past)), "has expired"),
    ]:
        async with gateway.client(secret) as client:
            answer = await client.post(CHAT, json={})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
        assert expected in error["message"] and "drw keys create" in error["message"]
        assert error["param"] is None
    async with gateway.client(gateway.signer().sign(claims())) as client:
        assert (await client.post(CHAT, json={})).status_code == 200
    valid_key = gateway.signer().sign(claims())
    async with gateway.client() as client:
        assert (await client.post(CHAT, headers={"authorization": f"bearer {valid_key}"})).status_code == 200
        assert (await client.post(CHAT, headers={"authorization": f"Basic {valid_key}"})).status_code == 401
        # A query string would be logged.
        assert (await client.post(f"{CHAT}?access_token={valid_key}")).status_code == 401
        head, body, signature = valid_key.split(".")
        for changed in (f"{head}.{body}.", f"{head}.{body}.{'A' * len(signature)}", f"{body}.{body}.{signature}"):
            assert (await client.post(CHAT, headers={"authorization": f"Bearer {changed}"})).status_code == 401
        for algorithm in ("none", "HS256"):
            forged = jwt.encode({"sub": "x"}, "" if algorithm == "none" else "k" * 32, algorithm)
            assert (await client.post(CHAT, headers={"authorization": f"Bearer {forged}"})).status_code == 401


async def test_anthropic_clients_send_the_key_as_api_key(gateway: GatewayHarness) -> None:
    key = await gateway.create_key("models:invoke")
    other_key = await gateway.create_key("models:read")
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json={}, headers={"x-api-key": key})
        received = answer.json()["headers"]
        assert (answer.status_code, received["x-drw-scopes"]) == (200, "models:invoke")
        assert "x-api-key" not in received
        for headers, message in [
            ({"x-api-key": key, "authorization": f"Bearer {key}"}, "two keys"),
            ({"x-api-key": other_key, "authorization": f"Bearer {key}"}, "two keys"),
            ({"x-api-key": "sk-x", "authorization": f"Bearer {key}"}, "not valid"),
            ({"x-api-key": f"Bearer {key}"}, "not valid"),
            ({"x-api-key": f"{key},{key}"}, "not valid"),
            ({}, "no key in this request"),
        ]:
            answer = await client.post("/v1/messages/count_tokens?beta=true", json={}, headers=headers)
            body = answer.json()
            assert (answer.status_code, body["type"], body["error"]["type"]) == (401, "error", "authentication_error")
            assert message in body["error"]["message"]
            assert body["request_id"] == answer.headers["x-request-id"]
        answer = await client.post("/v1/messages", json={}, headers={"x-api-key": other_key})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        answer = await client.get("/v1/messages", headers={"x-api-key": key})
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "invalid_request_error")


async def test_scopes_paths_and_identity_headers(gateway: GatewayHarness) -> None:
    async with gateway.client(await gateway.create_key("models:read", "documents:read")) as client:
        answer = await client.post(CHAT, json={})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "permission_denied"
        assert "'models:invoke'" in answer.json()["error"]["message"]
        assert (await client.post("/v1/files", json={})).status_code == 403
        for path in ("/v1/modelsx", "/nothing?secret=1", "/v1/chat"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            assert answer.json()["error"]["message"] == f"there is nothing at GET {path.partition('?')[0]}"
        forged = {"x-drw-org": "other", "X-DRW-Scopes": "org:admin", "x-drw-key": "key_1", "x-drw-more": "1"}
        hops = {
            "connection": "x-drw-key, close",
            "x-envoy-max-retries": "9",
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        }
        answer = await client.get("/v1/models", headers=forged | hops)
    received = answer.json()["headers"]
    assert {k: v for k, v in received.items() if k.startswith("x-drw-") and k != "x-drw-key"} == {
        "x-drw-org": "local",
        "x-drw-desk": "research",
        "x-drw-scopes": "documents:read models:read",
    }
    assert received["x-drw-key"].startswith("key_") and received["x-drw-key"] != "key_1"
    assert "authorization" not in received and "x-envoy-max-retries" not in received
    assert received["traceparent"] == hops["traceparent"]
    assert received["x-request-id"] == answer.headers["x-request-id"]


async def test_contract_scopes_are_checked_before_the_service(gateway: GatewayHarness) -> None:
    async with gateway.client(await gateway.create_key("models:read")) as client:
        answer = await client.get("/api/v1/runs")  # the workflow services do not run in this test
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert "'workflows:read' or 'workflows:run'" in answer.json()["error"]["message"]
        assert (await client.get("/api/v1/me")).status_code == 200  # every key may call this


async def test_openai_client_raises_its_error_classes(gateway: GatewayHarness) -> None:
    def client(secret: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)

    async def send_request(secret: str) -> None:
        async with client(secret) as api:
            await api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])

    with pytest.raises(openai.AuthenticationError):
        await send_request("sk-wrong")
    with pytest.raises(openai.PermissionDeniedError):
        await send_request(await gateway.create_key("models:read"))
    limited_key = await gateway.create_key("models:invoke", requests_per_minute=1)
    await send_request(limited_key)
    with pytest.raises(openai.RateLimitError):
        await send_request(limited_key)
    with pytest.raises(openai.NotFoundError):
        async with client(await gateway.create_key("models:invoke")) as api:
            await api.images.generate(prompt="x")
    await gateway.stop_models()
    with pytest.raises(openai.InternalServerError, match="the models services"):
        await send_request(await gateway.create_key("models:invoke"))


async def test_oversized_body_is_rejected_at_once(gateway: GatewayHarness) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(35):
            yield bytes(1_000_000)

    async with gateway.client(await gateway.create_key("models:invoke", "documents:write")) as client:
        for body in (bytes(35_000_000), chunks()):
            answer = await client.post(CHAT, content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert "at most 34603008 bytes" in answer.json()["error"]["message"]
        answer = await client.post(CHAT, content=bytes(32 << 20))
        assert (answer.status_code, answer.json()["bytes"]) == (200, 32 << 20)


async def test_key_over_its_limit_gets_a_retry_time(gateway: GatewayHarness) -> None:
    async with gateway.client(await gateway.create_key("models:read", requests_per_minute=3)) as client:
        answers = [await client.get("/v1/models") for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["x-ratelimit-remaining"] for a in answers] == ["2", "1", "0", "0"]
    limited = answers[-1]
    assert 50 <= int(limited.headers["retry-after"]) <= 61  # when the first request leaves the window
    assert limited.headers["x-ratelimit-limit"] == limited.headers["x-ratelimit-limit-requests"] == "3"
    assert (limited.json()["error"]["type"], limited.json()["error"]["code"]) == (
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    async with gateway.client(await gateway.create_key("models:read")) as client:
        assert (await client.get("/v1/models")).headers["x-ratelimit-limit"] == "600"


async def test_only_the_revoked_key_is_rejected(gateway: GatewayHarness) -> None:
    valid_key, revoked_key = await gateway.create_key("models:read"), await gateway.create_key("models:read")
    async with gateway.client(valid_key) as unaffected_client, gateway.client(revoked_key) as client:
        key = (await client.get("/v1/models")).json()["headers"]["x-drw-key"]
        await gateway.revoke(key)
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.json()["error"]["message"].startswith("the key is revoked")
        assert (await unaffected_client.get("/v1/models")).status_code == 200


async def test_stream_events_are_not_buffered(gateway: GatewayHarness) -> None:
    async with (
        gateway.client(await gateway.create_key("models:invoke")) as client,
        client.stream("POST", CHAT, json={"stream": True}) as answer,
    ):
        lines = answer.aiter_lines()
        for number in range(5):
            gateway.models.next_event.release()  # the next event is created only after this one arrived
            assert await anext(lines) == f"data: {number}"
            assert await anext(lines) == ""
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_unavailable_upstream_is_named(gateway: GatewayHarness) -> None:
    async with gateway.client(
        await gateway.create_key("documents:read", "models:read", "platform:read", "workflows:read")
    ) as client:
        for path, expected in [
            ("/v1/files", "the rag services (documents, embedding, vector_store, retrieval) do not answer;"),
            ("/api/v1/runs", "the workflow services (orchestration) do not answer;"),
        ]:
            answer = await client.get(path)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "service_unavailable")
            assert expected in error["message"] and "model calls" in error["message"]
            assert answer.headers["retry-after"] == "5"
        assert (await client.get("/v1/models")).status_code == 200
        assert "drw_call_seconds" in (await client.get("/metrics/gateway")).text
        await gateway.stop_models()
        assert (await client.get("/v1/models")).status_code == 503
        await gateway.start_models()
        assert (await client.get("/v1/models")).status_code == 200


async def test_keys_created_over_rest_are_accepted(gateway: GatewayHarness) -> None:
    first = await gateway.create_key("keys:write", "keys:read", "models:read", "platform:read")
    async with gateway.client(first) as client:
        created = await client.post("/api/v1/keys", json={"name": "second", "scopes": ["models:read"]})
        assert created.status_code == 200
        denied = await client.post("/api/v1/keys", json={"name": "third", "scopes": ["documents:read"]})
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "permission_denied")
        key = created.json()["key"]["id"]
        async with gateway.client(created.json()["secret"]) as second_client:
            assert (await second_client.get("/v1/models")).json()["headers"]["x-drw-key"] == key
            assert (await second_client.get("/api/v1/keys")).status_code == 403
        before = await gateway.desired_version()
        assert (await client.post(f"/api/v1/keys/{key}:revoke")).status_code == 200
        await gateway.wait_until_applied(before)
        async with gateway.client(created.json()["secret"]) as second_client:
            assert (await second_client.get("/v1/models")).status_code == 401
        routes = (await client.get("/api/v1/routes")).json()["routes"]
        assert {"chat", "models", "rest.keys", "metrics.rag"} <= {route["name"] for route in routes}
        upstreams = (await client.get("/api/v1/upstreams")).json()["upstreams"]
        assert [u["name"] for u in upstreams] == ["agent", "gateway", "models", "rag", "workflow"]


async def test_access_log_names_the_key_id_and_not_its_secret(gateway: GatewayHarness) -> None:
    secret = await gateway.create_key("models:read")
    async with gateway.client(secret) as client:
        answer = await client.get("/v1/models?access_token=hidden")
        key = answer.json()["headers"]["x-drw-key"]
    log = gateway.plane.folder / "access.log"

    async def line_is_logged() -> bool:
        return log.exists() and answer.headers["x-request-id"] in log.read_text()

    await until(line_is_logged, "the line of the log")
    text = log.read_text()
    line = next(
        line for line in map(json.loads, text.splitlines()) if line["request_id"] == answer.headers["x-request-id"]
    )
    assert {k: line[k] for k in ("key", "org", "desk", "status", "path", "upstream", "method")} == {
        "key": key,
        "org": "local",
        "desk": "research",
        "status": 200,
        "path": "/v1/models",
        "upstream": "models",
        "method": "GET",
    }
    assert secret not in text and "hidden" not in text


async def test_malformed_requests_are_rejected_and_paths_are_normalised(gateway: GatewayHarness) -> None:
    async with gateway.client(await gateway.create_key("models:read")) as client:
        answer = await client.get("/v1/models", headers={"bad_header": "1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        answer = await client.get("/v1/models", headers={"x-long": "a" * 70_000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (431, "invalid_request")
        assert (await client.get("/v1//x/../models")).json()["path"] == "/v1/models"


async def test_uploads_are_streamed_to_the_service(gateway: GatewayHarness) -> None:
    arrived = asyncio.Event()

    async def count(request: Request) -> JSONResponse:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            arrived.set()
        return JSONResponse({"bytes": size})

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        await arrived.wait()
        for _ in range(60):
            yield bytes(1_000_000)

    server = HttpServer(Starlette(routes=[Route("/v1/files", count, methods=["POST"])]))
    await server.start(gateway.profile.processes["rag"].http)
    try:
        async with gateway.client(await gateway.create_key("documents:write")) as client:
            answer = await client.post("/v1/files", content=chunks())
    finally:
        await server.stop(0)
    assert answer.json() == {"bytes": 60_100_000}
