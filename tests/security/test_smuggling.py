"""Request smuggling: no ambiguous framing passes a second request around the checks."""

from __future__ import annotations

import pytest

from security.gateway_probe import GatewayProbe

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
async def test_ambiguous_body_framing_is_rejected(probe: GatewayProbe, headers: tuple[bytes, ...], body: bytes) -> None:
    assert probe.new_requests is not None
    first = probe.request("POST", CHAT, *headers, body=body, close=False)
    assert await probe.send(first, HIDDEN, probe.request("GET", "/v1/models")) in ([400], [501])
    assert [
        request for request in probe.new_requests if request != f"POST {CHAT}"
    ] == []  # the head of a chunked request may have arrived


async def test_pipelined_request_reaches_the_upstream(probe: GatewayProbe) -> None:
    assert probe.new_requests is not None
    first = probe.request("POST", CHAT, b"content-length: 2", body=b"{}", close=False)
    assert await probe.send(first, probe.request("GET", "/v1/models/hidden")) == [200, 200]
    assert probe.new_requests == [f"POST {CHAT}", "GET /v1/models/hidden"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"x: y\r\n transfer-encoding: chunked", b"y transfer-encoding: chunked"),
        (b"x: y\r\n\tx-drw-org: other", b"y\tx-drw-org: other"),
        (b"x: y\rtransfer-encoding: chunked", b"ytransfer-encoding: chunked"),
    ],
)
async def test_folded_header_stays_one_value(probe: GatewayProbe, header: bytes, value: bytes) -> None:
    assert await probe.send(probe.request("GET", "/v1/models", header)) == [200]
    headers = dict(probe.models.requests[-1].headers.raw)
    assert headers[b"x"] == value
    assert b"transfer-encoding" not in headers and headers[b"x-drw-org"] == b"local"


@pytest.mark.parametrize(
    "line",
    [
        *(b"x: a\x00b", b"x\x00y: a", b"x: a\x01b", b"x: a\x7fb"),
        *(b"x y: a", b"x_y: a", b"x-drw_org: other", b": a", b"x(: a", b"x-drw-org : other", b"x-drw-org\t: other"),
    ],
)
async def test_invalid_header_lines_are_rejected(probe: GatewayProbe, line: bytes) -> None:
    assert probe.new_requests is not None
    assert await probe.send(probe.request("GET", "/v1/models", line)) == [400]
    assert probe.new_requests == []


async def test_protocol_upgrades_are_rejected(probe: GatewayProbe) -> None:
    h2c = (b"upgrade: h2c", b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA", b"connection: upgrade, http2-settings")
    assert await probe.send(probe.request("GET", "/v1/models", *h2c)) == [200]
    assert {"upgrade", "http2-settings"}.isdisjoint(probe.models.requests[-1].headers.keys())
    assert probe.new_requests is not None
    websocket = (
        b"upgrade: websocket",
        b"connection: upgrade",
        b"sec-websocket-key: eA==",
        b"sec-websocket-version: 13",
    )
    assert await probe.send(probe.request("GET", "/v1/models", *websocket)) == [403]
    assert await probe.send(probe.request("CONNECT", "127.0.0.1:22")) == [403]
    assert probe.new_requests == []
