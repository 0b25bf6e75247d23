"""Requests that two readers could read differently: none gets a second request past the checks."""

from __future__ import annotations

from typing import Any

import pytest

from security.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
HIDDEN = b"GET /v1/models/hidden HTTP/1.1\r\nhost: drw\r\n\r\n"
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
LENGTH = b"content-length: %d"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ((b"content-length: 6", b"transfer-encoding: chunked"), b"0\r\n\r\nG"),
        ((b"transfer-encoding: chunked", LENGTH % len(HIDDEN)), b"0\r\n\r\n"),
        ((b"content-length: 0", LENGTH % len(HIDDEN)), b""),
        ((LENGTH % len(HIDDEN), b"content-length: 0"), b""),
        ((b"content-length: 0, %d" % len(HIDDEN),), b""),
        ((b"content-length: +0",), b""),
        ((b"content-length: 0x0",), b""),
        ((b"content-length: -1",), b""),
        ((b"content-length: 1e1",), b""),
        ((b"content-length: 99999999999999999999",), b""),
        ((b"content-length :0",), b""),
        ((b"transfer-encoding: xchunked",), CHUNKED),
        ((b"transfer-encoding: chunked, identity",), CHUNKED),
        ((b"transfer-encoding: identity, chunked",), CHUNKED),
        ((b"transfer-encoding: chunked", b"transfer-encoding: identity"), CHUNKED),
        ((b"transfer-encoding: gzip, chunked",), CHUNKED),
        ((b"transfer-encoding:\x0bchunked",), CHUNKED),
        ((b"transfer-encoding : chunked",), CHUNKED),
        ((b"transfer-encoding\t: chunked",), CHUNKED),
        ((b"x: y\ntransfer-encoding: chunked", LENGTH % 0), CHUNKED),
        ((b"transfer-encoding: chunked",), b"5;\nhello\r\n0\r\n\r\n"),
        ((b"transfer-encoding: chunked",), b"-5\r\nhello\r\n0\r\n\r\n"),
        ((b"transfer-encoding: chunked",), b"0x5\r\nhello\r\n0\r\n\r\n"),
        ((b"transfer-encoding: chunked",), b"5\r\nhello0\r\n\r\n"),
        ((b"transfer-encoding: chunked",), b"ffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=lambda value: b" | ".join(value).decode("latin-1")[:60] if isinstance(value, tuple) else "",
)
async def test_a_body_that_two_readers_could_end_differently_is_refused(gate: Gate, headers: Any, body: Any) -> None:
    assert gate.arrived is not None
    first = gate.request("POST", CHAT, *headers, body=body, close=False)
    assert await gate.send(first, HIDDEN, gate.request("GET", "/v1/models")) in ([400], [501])
    assert [one for one in gate.arrived if one != f"POST {CHAT}"] == []  # of one in chunks the head may have come


async def test_the_test_data_would_reveal_a_leak(gate: Gate) -> None:
    assert gate.arrived is not None
    first = gate.request("POST", CHAT, b"content-length: 2", body=b"{}", close=False)
    assert await gate.send(first, gate.request("GET", "/v1/models/hidden")) == [200, 200]
    assert gate.arrived == [f"POST {CHAT}", "GET /v1/models/hidden"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"x: y\r\n transfer-encoding: chunked", b"y transfer-encoding: chunked"),
        (b"x: y\r\n\tx-drw-org: other", b"y\tx-drw-org: other"),
        (b"x: y\rtransfer-encoding: chunked", b"ytransfer-encoding: chunked"),
    ],
)
async def test_a_folded_line_stays_one_value(gate: Gate, header: bytes, value: bytes) -> None:
    assert await gate.send(gate.request("GET", "/v1/models", header)) == [200]
    headers = dict(gate.models.seen[-1].headers.raw)
    assert headers[b"x"] == value
    assert b"transfer-encoding" not in headers and headers[b"x-drw-org"] == b"local"


@pytest.mark.parametrize(
    "line",
    [
        *(b"x: a\x00b", b"x\x00y: a", b"x: a\x01b", b"x: a\x7fb"),
        *(b"x y: a", b"x_y: a", b"x-drw_org: other", b": a", b"x(: a", b"x-drw-org : other", b"x-drw-org\t: other"),
    ],
)
async def test_a_line_that_is_no_header_is_refused(gate: Gate, line: Any) -> None:
    assert gate.arrived is not None
    assert await gate.send(gate.request("GET", "/v1/models", line)) == [400]
    assert gate.arrived == []


async def test_no_other_protocol_is_spoken_over_the_connection(gate: Gate) -> None:
    h2c = (b"upgrade: h2c", b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA", b"connection: upgrade, http2-settings")
    assert await gate.send(gate.request("GET", "/v1/models", *h2c)) == [200]
    assert {"upgrade", "http2-settings"}.isdisjoint(gate.models.seen[-1].headers.keys())
    assert gate.arrived is not None
    socket = (b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-key: eA==", b"sec-websocket-version: 13")
    assert await gate.send(gate.request("GET", "/v1/models", *socket)) == [403]
    assert await gate.send(gate.request("CONNECT", "127.0.0.1:22")) == [403]
    assert gate.arrived == []
