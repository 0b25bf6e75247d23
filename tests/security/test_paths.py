"""No other way of writing a path, and no other header, leads where the scopes of a key do not."""

from __future__ import annotations

from typing import Any

import pytest

from security.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="session")

AROUND = [
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


@pytest.mark.parametrize("path", AROUND)
async def test_scopes_hold_for_every_way_of_writing_a_path(gate: Gate, path: Any) -> None:
    weak = await gate.gateway.create_key("models:read")
    head = f"host: drw\r\nauthorization: Bearer {weak}\r\nconnection: close\r\n".encode()
    assert gate.arrived is not None
    for verb in ("GET", "POST"):
        line = f"{verb} {path} HTTP/1.1\r\n".encode("latin-1")
        statuses = await gate.send(line, head, b"content-length: 0\r\n\r\n")
        assert len(statuses) <= 1
    for arrived in gate.arrived:
        assert arrived.startswith("GET /v1/models")


async def test_the_same_path_is_open_with_permission(gate: Gate) -> None:
    """Or the test before this one would pass where nothing comes through at all."""
    assert gate.arrived is not None
    for path in ("/v1/models/../chat/completions", "//v1//chat/completions", "http://drw/v1/chat/completions"):
        assert await gate.send(gate.request("POST", path, b"content-length: 0")) == [200], path
    assert gate.arrived == ["POST /v1/chat/completions"] * 3


async def test_no_header_changes_the_verb(gate: Gate) -> None:
    assert gate.arrived is not None
    names = ("x-http-method-override", "x-http-method", "x-method-override", "_method")
    lines = [f"{name}: DELETE".encode() for name in names[:-1]]
    assert await gate.send(gate.request("GET", "/v1/files?_method=DELETE", *lines)) == [503]  # nobody is there
    assert await gate.send(gate.request("GET", "/v1/models?_method=DELETE", *lines)) == [200]
    assert gate.arrived == ["GET /v1/models"]
    for verb in ("DELETE", "PUT", "PATCH", "TRACE", "PROPFIND", "get"):
        assert await gate.send(gate.request(verb, "/v1/models", b"content-length: 0")) in ([400], [404], [405])
    assert gate.arrived == []


async def test_no_other_origin_is_let_in(gate: Gate) -> None:
    async with gate.gateway.client(gate.secret) as client:
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        for answer in (
            await client.get("/v1/models", headers=asked),
            await client.options("/v1/models", headers=asked),
            await client.options("/v1/chat/completions", headers=asked),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]
    async with gate.gateway.client() as client:
        assert (await client.options("/v1/models", headers=asked)).status_code == 401
