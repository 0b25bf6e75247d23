"""Path variants and headers do not bypass the scopes of a key."""

from __future__ import annotations

import pytest

from security.gateway_probe import GatewayProbe

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH_VARIANTS = [
    "/v1/models/../chat/completions",
    "/v1/models/..//chat/completions",
    "/v1/models/%2e%2e/chat/completions",
    "/v1/models/%2E%2e/chat/completions",
    "/v1/models/.%2e/chat/completions",
    "/v1/models/%252e%252e/chat/completions",
    "/v1/models/..%2fchat%2fcompletions",
    "/v1/models%2f..%2fchat/completions",
    "/v1/models/..%5cchat%5ccompletions",
    "/v1/models\\..\\chat\\completions",
    "/v1/models/..;/chat/completions",
    "/v1/models/..;x=1/chat/completions",
    "//v1/chat/completions",
    "/v1//chat//completions",
    "/./v1/chat/./completions",
    "/v1/chat/completions/",
    "/v1/chat/completions/.",
    "/v1/chat/completions/x/..",
    "/v1/chat/completions;x",
    "/v1/chat/completions%20",
    "/v1/chat/completions%00",
    "/v1/chat/completions.",
    "/v1/chat/completions..",
    "/v1/CHAT/completions",
    "/v1/%63hat/completions",
    "/v1/chat%2fcompletions",
    "/v1/models?/../chat/completions",
    "/v1/models#/../chat/completions",
    "/v1/models/%00/../../chat/completions",
    "/v1/models/\xff/../../chat/completions",
    "http://drw/v1/chat/completions",
    "http://drw/v1/models/../chat/completions",
    "*",
]


@pytest.mark.parametrize("path", PATH_VARIANTS)
async def test_path_variants_do_not_bypass_scopes(probe: GatewayProbe, path: str) -> None:
    weak = await probe.gateway.create_key("models:read")
    head = f"host: drw\r\nauthorization: Bearer {weak}\r\nconnection: close\r\n".encode()
    assert probe.new_requests is not None
    for verb in ("GET", "POST"):
        line = f"{verb} {path} HTTP/1.1\r\n".encode("latin-1")
        statuses = await probe.send(line, head, b"content-length: 0\r\n\r\n")
        assert len(statuses) <= 1
    for request in probe.new_requests:
        assert request.startswith("GET /v1/models")


async def test_path_variants_are_routed_with_the_scope(probe: GatewayProbe) -> None:
    """Otherwise the test above would pass even if no request reached the upstream."""
    assert probe.new_requests is not None
    for path in ("/v1/models/../chat/completions", "//v1//chat/completions", "http://drw/v1/chat/completions"):
        assert await probe.send(probe.request("POST", path, b"content-length: 0")) == [200], path
    assert probe.new_requests == ["POST /v1/chat/completions"] * 3


async def test_method_override_headers_are_ignored(probe: GatewayProbe) -> None:
    assert probe.new_requests is not None
    names = ("x-http-method-override", "x-http-method", "x-method-override", "_method")
    lines = [f"{name}: DELETE".encode() for name in names[:-1]]
    assert await probe.send(probe.request("GET", "/v1/files?_method=DELETE", *lines)) == [
        503
    ]  # the service does not run
    assert await probe.send(probe.request("GET", "/v1/models?_method=DELETE", *lines)) == [200]
    assert probe.new_requests == ["GET /v1/models"]
    for verb in ("DELETE", "PUT", "PATCH", "TRACE", "PROPFIND", "get"):
        assert await probe.send(probe.request(verb, "/v1/models", b"content-length: 0")) in ([400], [404], [405])
    assert probe.new_requests == []


async def test_cross_origin_requests_get_no_cors_headers(probe: GatewayProbe) -> None:
    async with probe.gateway.client(probe.secret) as client:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        for answer in (
            await client.get("/v1/models", headers=headers),
            await client.options("/v1/models", headers=headers),
            await client.options("/v1/chat/completions", headers=headers),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]
    async with probe.gateway.client() as client:
        assert (await client.options("/v1/models", headers=headers)).status_code == 401
