"""Resource exhaustion: large headers, slow clients and bodies that expand."""

from __future__ import annotations

import asyncio
import gzip
from collections import defaultdict
from urllib.parse import urlsplit

import httpx
import pytest

from agent.data_plane import DataPlaneHarness, running
from drw.agent.xds import listener
from drw.kernel.runtime.settings import Connections, Profile
from security.gateway_probe import GatewayProbe

CHAT = "/v1/chat/completions"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/v1/models", [b"x-long: " + b"a" * 61_440]),
        ("/v1/models", [b"x-%d: " % i + b"a" * 7_000 for i in range(10)]),
        ("/v1/models", [b"x-%d: a" % i for i in range(101)]),
        ("/v1/models", [b"a" * 61_440 + b": x"]),
        ("/v1/models?x=" + "a" * 61_440, []),
        ("/v1/models/" + "a" * 61_440, []),
    ],
    ids=["one long", "long together", "many", "a long name", "a long query", "a long path"],
)
async def test_too_large_or_too_many_headers_are_rejected(probe: GatewayProbe, path: str, lines: list[bytes]) -> None:
    assert probe.new_requests is not None
    assert await probe.send(probe.request("GET", path, *lines)) == [431]
    assert probe.new_requests == []


async def test_slow_client_is_disconnected(data_plane_profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.agent.xds.listener.HEADERS_TIMEOUT", "0.3s")
    monkeypatch.setattr("drw.agent.xds.listener.REQUEST_TIMEOUT", "0.6s")
    async with running(DataPlaneHarness(data_plane_profile)) as data_plane:
        key = data_plane.sign("key_slow", "models:invoke")
        head = f"POST {CHAT} HTTP/1.1\r\nhost: drw\r\nauthorization: Bearer {key}\r\ncontent-length: 100000\r\n"
        for start in (head.encode()[:-2], head.encode() + b"\r\n"):
            answer = await send_slowly(data_plane.url, start)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b"did not come whole in the time" in answer
        async with data_plane.client(key) as client:  # a client at normal speed is served
            assert (await client.post(CHAT, json={})).status_code == 200


async def send_slowly(url: str, start: bytes) -> bytes:
    """Send the start of a request, then single bytes until the server responds; return the response."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(start)
    answer = asyncio.create_task(reader.readuntil(b"}}"))
    async with asyncio.timeout(20):
        while not answer.done():
            writer.write(b"a")
            await asyncio.wait([answer], timeout=0.05)
    writer.close()
    return answer.result()


def test_every_client_wait_has_a_timeout() -> None:
    logs = listener.LogPaths("/log", "/anonymous", "/usage")
    settings = listener.listener(
        "127.0.0.1:1", logs, "", defaultdict(dict), {}, Connections(), transport_socket={"name": "tls"}
    )
    assert settings["per_connection_buffer_high_watermark_timeout"] == "120s"
    (chain,) = settings["filter_chains"]
    assert chain["transport_socket_connect_timeout"] == "5s"
    manager = chain["filters"][-1]["typed_config"]
    assert manager["request_headers_timeout"] == "5s" and manager["request_timeout"] == "900s"
    assert manager["stream_idle_timeout"] == "300s" and manager["stream_flush_timeout"] == "30s"
    assert manager["common_http_protocol_options"]["idle_timeout"] == "60s"


BODY_BOMBS = {
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a deep list": b"[" * 500_000,
    "a long number": b'{"max_tokens":' + b"9" * 500_000 + b"}",
    "a large exponent": b'{"temperature":1e999999999}',
    "not a number": b'{"temperature":NaN}',
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(50_000)) + b"}",
    "one after the other": b"{}{}",
    "half a surrogate": b'{"model":"\\ud800"}',
    "another encoding": '{"model":"double"}'.encode("utf-16"),
    "in gzip": gzip.compress(b'{"model":"double","prompt":"' + b"a" * 10_000_000 + b'"}'),
}


@pytest.mark.parametrize("bomb", BODY_BOMBS)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/vector_stores", "/api/v1/runs", "/api/v1/keys"])
def test_body_bombs_are_rejected(desk: httpx.Client, path: str, bomb: str) -> None:
    headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if bomb == "in gzip" else {})
    answer = desk.post(path, content=BODY_BOMBS[bomb], headers=headers)
    assert answer.status_code in {400, 413}
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 10_000


REPEATED_KEYS = {
    CHAT: b'{"model":"nothing","model":"double","messages":[{"role":"user","content":"x"}]}',
    "/v1/vector_stores": b'{"name":"first","name":"last"}',
    "/api/v1/keys": b'{"name":"first","name":"last","scopes":["models:read"]}',
}


@pytest.mark.parametrize("path", REPEATED_KEYS)
def test_repeated_json_keys_are_rejected(desk: httpx.Client, path: str) -> None:
    """Two parsers could use different values of a repeated key."""
    answer = desk.post(path, content=REPEATED_KEYS[path])
    assert answer.status_code == 400 and "duplicate key" in answer.json()["error"]["message"]
