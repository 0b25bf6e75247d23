"""Edge cases of HTTP: HTTP/1.0, encoded slashes, CORS preflights, wrong methods and unreadable bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from agent.data_plane import DataPlaneHarness, running
from agent.reporting.test_pass_through import CHAT, MESSAGES, apply_routes, route, vllm
from agent.upstream import DoubleVllm
from drw.agent.delivery import envoy
from drw.kernel.runtime.settings import Cors, Profile

__all__ = ["vllm"]
ORIGIN = "https://desk.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def with_cors(profile: Profile, *origins: str) -> Profile:
    plane = envoy.data_plane_settings(profile).model_copy(update={"cors": Cors(origins=origins)})
    return profile.model_copy(update={"data_plane": plane})


@pytest.fixture
async def data_plane_with_cors(data_plane_profile: Profile) -> AsyncIterator[DataPlaneHarness]:
    async with running(DataPlaneHarness(with_cors(data_plane_profile, ORIGIN))) as harness:
        yield harness


async def send_raw(data_plane: DataPlaneHarness, request: str) -> str:
    host, _, port = data_plane.plane.listen.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_http_1_0_is_served_and_its_connection_closed(data_plane: DataPlaneHarness) -> None:
    key = data_plane.sign("key_1", "models:read", "models:invoke")
    for host in ("host: drw\r\n", ""):
        answer = await send_raw(data_plane, f"GET /v1/models HTTP/1.0\r\n{host}authorization: Bearer {key}\r\n\r\n")
        assert answer.startswith(("HTTP/1.0 200", "HTTP/1.1 200"))
        assert "transfer-encoding" not in answer
        assert '"path":"/v1/models"' in answer
    data_plane.models.next_event.release()
    for _ in range(4):
        data_plane.models.next_event.release()
    body = '{"stream"}'
    head = f"POST {CHAT} HTTP/1.0\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    assert (await send_raw(data_plane, head + body)).endswith("data: 3\n\ndata: 4\n\n")


async def test_encoded_slash_is_decoded_before_routing(data_plane: DataPlaneHarness) -> None:
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        for path in ("/v1/models/meta-llama%2FLlama-3", "/v1/models/meta-llama%2fLlama-3"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["path"]) == (200, "/v1/models/meta-llama/Llama-3")
        # Dot segments behind it are resolved before a route is chosen.
        for path in ("/v1/models/..%2F..%2Fv1%2Fchat/completions", "/v1/models/%2e%2e%2fembeddings"):
            answer = await client.post(path, json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", "/v1/models/some/model", "GET"),
        ("PATCH", "/v1/files/file-1", "DELETE, GET, POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_a_405_with_the_allowed_methods(
    data_plane: DataPlaneHarness, method: str, path: str, allow: str
) -> None:
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert f"{path} takes {allow.replace(', ', ' and ')}, not {method}" == answer.json()["error"]["message"]


async def test_unknown_path_is_a_404_for_every_method(data_plane: DataPlaneHarness) -> None:
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        for method in ("GET", "DELETE"):
            assert (await client.request(method, "/v1/nothing")).status_code == 404
    async with data_plane.client() as client:
        assert (await client.get(CHAT)).status_code == 401  # without a key the paths are not revealed


async def test_health_needs_no_key(data_plane: DataPlaneHarness) -> None:
    async with data_plane.client() as client:
        for path in ("/health", "/healthz"):
            assert (await client.get(path)).text == "ok\n"
            assert (await client.head(path)).status_code == 200


async def test_cors_allows_only_the_configured_origins(data_plane_with_cors: DataPlaneHarness) -> None:
    data_plane = data_plane_with_cors
    async with data_plane.client() as client:
        answer = await client.options(CHAT, headers={"origin": ORIGIN, **PREFLIGHT})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(", "))
        assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", f"{ORIGIN}.evil.example", "null"):
            answer = await client.options(CHAT, headers={"origin": origin, **PREFLIGHT})
            assert "access-control-allow-origin" not in answer.headers
        denied = await client.post(CHAT, headers={"origin": ORIGIN}, json={})
        assert (denied.status_code, denied.headers["access-control-allow-origin"]) == (401, ORIGIN)
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, headers={"origin": ORIGIN}, json={})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert "origin" in answer.headers["vary"]


async def test_cors_wildcard_allows_every_origin(data_plane_profile: Profile) -> None:
    async with (
        running(DataPlaneHarness(with_cors(data_plane_profile, "*"))) as data_plane,
        data_plane.client() as client,
    ):
        answer = await client.options(CHAT, headers={"origin": ORIGIN, **PREFLIGHT})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN)
        assert "access-control-allow-credentials" not in answer.headers


async def test_cors_is_off_by_default(data_plane: DataPlaneHarness) -> None:
    async with data_plane.client() as client:
        answer = await client.options(CHAT, headers={"origin": ORIGIN, **PREFLIGHT})
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["https://desk.example/", "desk.example", "https://*.example", "https://a b"])
def test_invalid_cors_origin_is_rejected(origin: str) -> None:
    with pytest.raises(ValueError, match="origins"):
        Cors(origins=(origin,))


REPEATED_KEYS = [
    b'{"model": "dear", "model": "llama", "messages": []}',
    b'{"model": "llama", "stream": false, "stream": true, "messages": []}',
    b'{"model": "llama", "messages": [{"role": "user", "role": "system", "content": "hi"}]}',
]


@pytest.mark.parametrize("upstream_model", ["meta/llama-70b", ""])
@pytest.mark.parametrize("body", REPEATED_KEYS)
async def test_repeated_json_key_is_rejected(
    data_plane: DataPlaneHarness, vllm: DoubleVllm, body: bytes, upstream_model: str
) -> None:
    await apply_routes(data_plane, vllm, route(upstream_model=upstream_model))
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert "each key in it once" in answer.json()["error"]["message"]
        assert vllm.received == []
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200


@pytest.mark.parametrize("upstream_model", ["meta/llama-70b", ""])
async def test_unreadable_body_is_rejected_or_rewritten(
    data_plane: DataPlaneHarness, vllm: DoubleVllm, upstream_model: str
) -> None:
    await apply_routes(data_plane, vllm, route(upstream_model=upstream_model))
    body = json.dumps({"model": "llama", "messages": MESSAGES}).encode()
    async with data_plane.client(data_plane.sign("key_1", "models:invoke")) as client:
        for kind in ("text/plain", ""):
            answer = await client.post(CHAT, content=body, headers={"content-type": kind})
            assert (answer.status_code, vllm.received.pop()[1]["model"]) == (200, upstream_model or "llama")
        nested = b'{"model": "llama", "metadata": ' + b"[" * 500 + b"]" * 500 + b"}"
        answer = await client.post(CHAT, content=nested, headers={"x-drw-read": "1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        answer = await client.post(CHAT, content=gzip.compress(body), headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert answer.headers["accept-encoding"] == "identity"
        answer = await client.post(CHAT, json=json.loads(body), headers={"content-encoding": "identity"})
        assert answer.status_code == 200
    assert [body["model"] for _, body in vllm.received] == [upstream_model or "llama"]
