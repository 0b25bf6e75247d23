"""What clients and proxies send besides plain requests: HTTP/1.0, encoded slashes, preflights, other methods."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.data_plane import Fed, running
from agent.reporting.test_pass_through import CHAT, MESSAGES, route, vllm, want
from agent.upstream import DoubleVllm
from drw.agent.delivery import envoy
from drw.kernel.runtime.settings import Cors, Profile

__all__ = ["vllm"]
PAGE = "https://desk.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def with_cors(profile: Profile, *origins: str) -> Profile:
    plane = envoy.data_plane_settings(profile).model_copy(update={"cors": Cors(origins=origins)})
    return profile.model_copy(update={"data_plane": plane})


@pytest.fixture
async def open_to_a_page(front_profile: Profile) -> AsyncIterator[Fed]:
    async with running(Fed(with_cors(front_profile, PAGE))) as found:
        yield found


async def raw(fed: Fed, request: str) -> str:
    host, _, port = fed.plane.listen.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_http_1_0_is_answered_and_its_connection_ended(fed: Fed) -> None:
    key = fed.sign("key_1", "models:read", "models:invoke")
    for host in ("host: drw\r\n", ""):
        answer = await raw(fed, f"GET /v1/models HTTP/1.0\r\n{host}authorization: Bearer {key}\r\n\r\n")
        assert answer.startswith(("HTTP/1.0 200", "HTTP/1.1 200"))
        assert "transfer-encoding" not in answer
        assert '"path":"/v1/models"' in answer
    fed.models.go_on.release()
    for _ in range(4):
        fed.models.go_on.release()
    body = '{"stream"}'
    head = f"POST {CHAT} HTTP/1.0\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    assert (await raw(fed, head + body)).endswith("data: 3\n\ndata: 4\n\n")


async def test_an_encoded_slash_is_a_slash_to_routes_and_services_alike(fed: Fed) -> None:
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        for path in ("/v1/models/meta-llama%2FLlama-3", "/v1/models/meta-llama%2fLlama-3"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["path"]) == (200, "/v1/models/meta-llama/Llama-3")
        # What hides behind it is seen before a route is chosen.
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
async def test_another_method_is_a_405_that_says_which_there_are(fed: Fed, method: str, path: Any, allow: str) -> None:
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert f"{path} takes {allow.replace(', ', ' and ')}, not {method}" == answer.json()["error"]["message"]


async def test_a_path_that_nobody_takes_is_a_404_whatever_the_method(fed: Fed) -> None:
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        for method in ("GET", "DELETE"):
            assert (await client.request(method, "/v1/nothing")).status_code == 404
    async with fed.client() as client:
        assert (await client.get(CHAT)).status_code == 401  # without a key nobody learns which paths there are


async def test_a_load_tool_sees_without_a_key_that_the_platform_serves(fed: Fed) -> None:
    async with fed.client() as client:
        for path in ("/health", "/healthz"):
            assert (await client.get(path)).text == "ok\n"
            assert (await client.head(path)).status_code == 200


async def test_a_page_of_an_allowed_origin_may_call_and_no_other(open_to_a_page: Fed) -> None:
    fed = open_to_a_page
    async with fed.client() as client:
        answer = await client.options(CHAT, headers={"origin": PAGE, **PREFLIGHT})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(", "))
        assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", f"{PAGE}.evil.example", "null"):
            answer = await client.options(CHAT, headers={"origin": origin, **PREFLIGHT})
            assert "access-control-allow-origin" not in answer.headers
        refused = await client.post(CHAT, headers={"origin": PAGE}, json={})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, headers={"origin": PAGE}, json={})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert "origin" in answer.headers["vary"]


async def test_every_page_may_call_where_the_setting_says_so(front_profile: Profile) -> None:
    async with running(Fed(with_cors(front_profile, "*"))) as fed, fed.client() as client:
        answer = await client.options(CHAT, headers={"origin": PAGE, **PREFLIGHT})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in ("*", PAGE)
        assert "access-control-allow-credentials" not in answer.headers


async def test_no_page_may_call_where_no_setting_says_so(fed: Fed) -> None:
    async with fed.client() as client:
        answer = await client.options(CHAT, headers={"origin": PAGE, **PREFLIGHT})
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["https://desk.example/", "desk.example", "https://*.example", "https://a b"])
def test_an_origin_is_what_a_browser_sends(origin: str) -> None:
    with pytest.raises(ValueError, match="origins"):
        Cors(origins=(origin,))


TWICE = [
    b'{"model": "dear", "model": "llama", "messages": []}',
    b'{"model": "llama", "stream": false, "stream": true, "messages": []}',
    b'{"model": "llama", "messages": [{"role": "user", "role": "system", "content": "hi"}]}',
]


@pytest.mark.parametrize("upstream_model", ["meta/llama-70b", ""])
@pytest.mark.parametrize("body", TWICE)
async def test_a_repeated_key_is_refused_on_the_way_to_an_upstream(
    fed: Fed, vllm: DoubleVllm, body: Any, upstream_model: str
) -> None:
    await want(fed, vllm, route(upstream_model=upstream_model))
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert "each key in it once" in answer.json()["error"]["message"]
        assert vllm.got == []
        assert (await client.post(CHAT, json={"model": "llama", "messages": MESSAGES})).status_code == 200


@pytest.mark.parametrize("upstream_model", ["meta/llama-70b", ""])
async def test_a_body_that_nobody_could_read_does_not_go_out_as_it_came(
    fed: Fed, vllm: DoubleVllm, upstream_model: str
) -> None:
    await want(fed, vllm, route(upstream_model=upstream_model))
    body = json.dumps({"model": "llama", "messages": MESSAGES}).encode()
    async with fed.client(fed.sign("key_1", "models:invoke")) as client:
        for kind in ("text/plain", ""):
            answer = await client.post(CHAT, content=body, headers={"content-type": kind})
            assert (answer.status_code, vllm.got.pop()[1]["model"]) == (200, upstream_model or "llama")
        deep = b'{"model": "llama", "metadata": ' + b"[" * 500 + b"]" * 500 + b"}"
        answer = await client.post(CHAT, content=deep, headers={"x-drw-read": "1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        answer = await client.post(CHAT, content=gzip.compress(body), headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert answer.headers["accept-encoding"] == "identity"
        answer = await client.post(CHAT, json=json.loads(body), headers={"content-encoding": "identity"})
        assert answer.status_code == 200
    assert [got["model"] for _, got in vllm.got] == [upstream_model or "llama"]
