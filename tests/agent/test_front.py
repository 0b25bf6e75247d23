"""A real Envoy in front of real services: who gets in, how far, and what the others read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import openai
import pytest

from drw.gateway.authentication.signing import Claims, Signer, new_private_key

CHAT = "/v1/chat/completions"


def claims(**other) -> Claims:
    now = datetime.now(UTC)
    base = {
        "key": "key_by_hand",
        "org": "local",
        "desk": "research",
        "scopes": ("models:invoke",),
        "issued_at": now - timedelta(hours=2),
        "expires_at": now + timedelta(hours=1),
    }
    return Claims(**(base | other))


async def test_a_key_that_is_not_good_is_told_why(front):
    past = datetime.now(UTC) - timedelta(minutes=30)
    mine = Signer(new_private_key(), "drw", "drw-gateway")
    for secret, said in [
        ("", "there is no key in this request"),
        ("sk-something", "not valid"),
        (mine.sign(claims()), "not valid"),
        (front.signer(issuer="other").sign(claims()), "not valid"),
        (front.signer(audience="other").sign(claims()), "not valid"),
        (front.signer().sign(claims(expires_at=past)), "has expired"),
    ]:
        async with front.client(secret) as client:
            answer = await client.post(CHAT, json={})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
        assert said in error["message"] and "drw keys create" in error["message"]
        assert error["param"] is None
    async with front.client(front.signer().sign(claims())) as client:
        assert (await client.post(CHAT, json={})).status_code == 200


async def test_scopes_paths_and_who_is_calling(front):
    async with front.client(await front.key("models:read", "documents:read")) as client:
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
    seen = answer.json()["headers"]
    assert {k: v for k, v in seen.items() if k.startswith("x-drw-") and k != "x-drw-key"} == {
        "x-drw-org": "local",
        "x-drw-desk": "research",
        "x-drw-scopes": "documents:read models:read",
    }
    assert seen["x-drw-key"].startswith("key_") and seen["x-drw-key"] != "key_1"
    assert "authorization" not in seen and "x-envoy-max-retries" not in seen
    assert seen["traceparent"] == hops["traceparent"]
    assert seen["x-request-id"] == answer.headers["x-request-id"]


async def test_the_openai_client_raises_its_own_classes(front):
    def client(secret: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=secret, max_retries=0)

    async def ask(secret: str) -> None:
        async with client(secret) as api:
            await api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])

    with pytest.raises(openai.AuthenticationError):
        await ask("sk-wrong")
    with pytest.raises(openai.PermissionDeniedError):
        await ask(await front.key("models:read"))
    one = await front.key("models:invoke", requests_per_minute=1)
    await ask(one)
    with pytest.raises(openai.RateLimitError):
        await ask(one)
    with pytest.raises(openai.NotFoundError):
        async with client(await front.key("models:invoke")) as api:
            await api.moderations.create(input="x")
    await front.stop_models()
    with pytest.raises(openai.InternalServerError, match="the models services"):
        await ask(await front.key("models:invoke"))
