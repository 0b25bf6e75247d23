"""Routing by header, tenant, weight and session, fallbacks, timeouts and circuit breaking, on a real Envoy."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.data_plane import DataPlaneHarness, running
from agent.upstream import DoubleVllm
from drw.agent.delivery import envoy
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Health, Route, Share
from drw.gateway.authentication.keys.signing import Claims
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.runtime.settings import Profile
from support.json_types import Json, JsonObject
from support.parts import until

CHAT = "/v1/chat/completions"
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def doubles() -> AsyncIterator[tuple[DoubleVllm, DoubleVllm]]:
    """Two running OpenAI-compatible upstreams."""
    a, b = await DoubleVllm("a").start(), await DoubleVllm("b").start()
    yield a, b
    await a.stop()
    await b.stop()


def route_to(name: str, upstream: str = "", **other: Json) -> Route:
    fields: JsonObject = {
        "name": name,
        "path": CHAT,
        "methods": ["POST"],
        "upstream": upstream,
        "pass_through": True,
    }
    return with_defaults(Route(**(fields | other)))


def upstreams_of(*doubles: DoubleVllm, **other: Json) -> list[Upstream]:
    return [Upstream(name=d.name, addresses=[d.address], **other) for d in doubles]


def token(data_plane: DataPlaneHarness, org: str, desk: str, key: str = "key_1") -> str:
    now = datetime.now(UTC)
    return data_plane.signing.sign(Claims(key, org, desk, ("models:invoke",), now, now + timedelta(hours=1)))


async def served_by(data_plane: DataPlaneHarness, secret: str, **headers: str) -> str:
    async with data_plane.client(secret) as client:
        answer = await client.post(CHAT, json=BODY, headers={k.replace("_", "-"): v for k, v in headers.items()})
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-upstream", "models")


async def test_tenant_route_serves_only_its_tenants(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    routes = [
        route_to("org", "a", tenants=["acme"]),
        route_to("desk", "b", tenants=["acme/trading", "other/x"], scopes=["models:invoke"]),
    ]
    assert (await data_plane.apply(routes=routes, upstreams=upstreams_of(*doubles))).error == ""
    assert await served_by(data_plane, token(data_plane, "acme", "research")) == "a"
    assert await served_by(data_plane, token(data_plane, "acme", "trading")) == "b"
    assert await served_by(data_plane, token(data_plane, "other", "x")) == "b"
    assert await served_by(data_plane, token(data_plane, "other", "trading")) == "models"
    for org, desk in [("acme", "research"), ("other", "x")]:
        forged = {"x_drw_org": org, "x_drw_desk": desk, "X_DRW_Org": org}
        assert await served_by(data_plane, token(data_plane, "third", "trading"), **forged) == "models"


async def test_header_route_takes_precedence(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    routes = [
        route_to("any", "a", headers=[{"name": "x-lab"}]),
        route_to("exact", "b", headers=[{"name": "x-lab"}, {"name": "x-team", "exact": "q.1"}]),
        route_to("beginning", "b", headers=[{"name": "x-wing", "prefix": "north-"}]),
    ]
    assert (await data_plane.apply(routes=routes, upstreams=upstreams_of(*doubles))).error == ""
    caller = token(data_plane, "acme", "research")
    assert await served_by(data_plane, caller) == "models"
    assert await served_by(data_plane, caller, x_lab="1") == "a"
    assert await served_by(data_plane, caller, x_lab="1", x_team="q.1") == "b"
    assert await served_by(data_plane, caller, x_lab="1", x_team="qx1") == "a"
    assert await served_by(data_plane, caller, x_wing="north-2") == "b"
    assert await served_by(data_plane, caller, x_wing="south-2") == "models"


async def test_split_route_keeps_session_affinity(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    shares = [Share(upstream="a", weight=3), Share(upstream="b", weight=1)]
    for affinity, header in [("header:x-session-id", "x_session_id"), ("key", "")]:
        route = route_to("split", split=shares, affinity=[affinity])
        assert (await data_plane.apply(routes=[route], upstreams=upstreams_of(*doubles))).error == ""
        upstreams_of_session: dict[int, set[str]] = {}
        for session in [*range(24), *range(24)]:
            headers = {header: f"session {session}"} if header else {}
            secret = token(data_plane, "acme", "research", "key_1" if header else f"key_{session}")
            upstreams_of_session.setdefault(session, set()).add(await served_by(data_plane, secret, **headers))
        assert all(len(upstreams) == 1 for upstreams in upstreams_of_session.values())
        share = Counter(next(iter(upstreams)) for upstreams in upstreams_of_session.values())
        assert share["a"] > share["b"] > 0


async def test_body_field_affinity_keeps_a_user_on_one_host(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    pool = Upstream(name="pool", addresses=[d.address for d in doubles], balancing="ring_hash")
    route = route_to("pool", "pool", models=["llama"], affinity=["body:prompt_cache_key", "body:user", "key"])
    assert (await data_plane.apply(routes=[route], upstreams=[pool])).error == ""
    hosts_of_user: dict[str, set[str]] = {}
    async with data_plane.client(token(data_plane, "acme", "research")) as client:
        for number in [*range(12), *range(12)]:
            field = "user" if number % 2 else "prompt_cache_key"
            answer = await client.post(CHAT, json=BODY | {field: f"u{number}"})
            hosts_of_user.setdefault(f"u{number}", set()).add(answer.headers["x-upstream"])
    assert all(len(hosts) == 1 for hosts in hosts_of_user.values())
    assert set.union(*hosts_of_user.values()) == {"a", "b"}


async def test_fallback_serves_when_the_primary_fails(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, b = doubles
    folder = data_plane.plane.folder / "credentials"
    folder.mkdir()
    (folder / "shared").write_text("sk-shared")
    upstreams = upstreams_of(*doubles, credential="shared")
    caller = token(data_plane, "acme", "research")

    async def expect_fallback(first_byte_ms: int = 0) -> None:
        route = route_to("safe", "a", fallbacks=["b"], first_byte_ms=first_byte_ms)
        assert (await data_plane.apply(routes=[route], upstreams=upstreams)).error == ""
        assert [await served_by(data_plane, caller) for _ in range(4)] == ["b"] * 4

    assert (await data_plane.apply(routes=[route_to("safe", "a", fallbacks=["b"])], upstreams=upstreams)).error == ""
    assert await served_by(data_plane, caller) == "a"
    for a.status in (429, 500, 503):
        await expect_fallback()
    a.status, a.hang = 200, True
    await expect_fallback(first_byte_ms=200)
    await a.stop()
    await expect_fallback()
    async with await asyncio.start_server(hang_up, *a.address.split(":")):
        await expect_fallback()
    assert {headers["authorization"] for headers, _ in [*a.received, *b.received]} == {"Bearer sk-shared"}


async def test_upstream_error_is_passed_on_without_a_fallback(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    assert (await data_plane.apply(routes=[route_to("plain", "a")], upstreams=upstreams_of(a))).error == ""
    a.status = 429
    async with data_plane.client(token(data_plane, "acme", "research")) as client:
        answer = await client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.headers["retry-after"], len(a.received)) == (429, "1", 1)


async def test_response_timeouts_are_a_504(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    a.hang = True
    for timeout in ({"first_byte_ms": 100}, {"total_ms": 100}):
        assert (
            await data_plane.apply(routes=[route_to("slow", "a", **timeout)], upstreams=upstreams_of(a))
        ).error == ""
        async with data_plane.client(token(data_plane, "acme", "research")) as client:
            answer = await client.post(CHAT, json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_stalled_stream_is_ended_without_done(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    a.stall = True
    for timeout in ({"total_ms": 300}, {"idle_seconds": 1}):
        assert (
            await data_plane.apply(routes=[route_to("stalling", "a", **timeout)], upstreams=upstreams_of(a))
        ).error == ""
        lines = []
        async with data_plane.client(token(data_plane, "acme", "research")) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                async with client.stream("POST", CHAT, json=BODY | {"stream": True}) as answer:
                    async for line in answer.aiter_lines():
                        lines.append(line)
        assert lines and "data: [DONE]" not in lines


async def test_circuit_opens_is_reported_and_closes(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    upstreams = upstreams_of(a, eject_after=2, eject_ms=300, eject_on_errors=True)
    assert (await data_plane.apply(routes=[route_to("one", "a")], upstreams=upstreams)).error == ""
    a.status = 503
    caller = token(data_plane, "acme", "research")
    async with data_plane.client(caller) as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=BODY)).status_code == 503

        async def is_ejected() -> bool:
            answer = await client.post(CHAT, json=BODY)
            return "a does not answer" in answer.json().get("error", {}).get("message", "")

        await until(is_ejected, "the open circuit")
        received = len(a.received)
        assert await is_ejected() and len(a.received) == received  # no request reaches the ejected host
        assert await circuit(data_plane, upstreams) == Health.OPEN
        metrics = (await data_plane.admin().prometheus()).decode()
        assert 'envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="a"} 1' in metrics
        a.status = 200

        async def is_served() -> bool:
            return (await client.post(CHAT, json=BODY)).status_code == 200

        await until(is_served, "the closed circuit")
    assert await circuit(data_plane, upstreams) == Health.CLOSED


async def circuit(data_plane: DataPlaneHarness, upstreams: list[Upstream]) -> Health.Circuit:
    (host,) = await data_plane.upstream_health.read(upstreams)
    return host.circuit


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a request and reset the connection."""
    await reader.readuntil(b"\r\n\r\n")
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


async def test_connect_timeout_is_a_503(data_plane: DataPlaneHarness) -> None:
    with socket.socket() as full, socket.socket() as waiting, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # nobody accepts, and the kernel completes only these two handshakes
        for connection in (waiting, second):
            connection.setblocking(False)
            connection.connect_ex(full.getsockname())
        upstreams = [Upstream(name="full", addresses=["{}:{}".format(*full.getsockname())], connect_ms=50)]
        assert (await data_plane.apply(routes=[route_to("full", "full")], upstreams=upstreams)).error == ""
        async with data_plane.client(token(data_plane, "acme", "research")) as client:
            answer = await client.post(CHAT, json=BODY)
    assert answer.status_code == 503 and answer.json()["error"]["message"].startswith("full does not answer")


async def test_concurrent_request_limit_of_an_upstream_is_a_503(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    a.stall = True
    limited = Upstream(name="limited", addresses=[a.address], max_requests=1)
    assert (await data_plane.apply(routes=[route_to("one", "limited")], upstreams=[limited])).error == ""
    async with (
        data_plane.client(token(data_plane, "acme", "research")) as client,
        client.stream("POST", CHAT, json=BODY | {"stream": True}) as answer,
    ):
        lines = answer.aiter_lines()  # the stream ends when its iterator is collected
        await anext(lines)
        second = await client.post(CHAT, json=BODY)
        assert (second.status_code, second.headers.get("retry-after")) == (503, "2"), second.text
        assert second.json()["error"]["message"].startswith("too many requests are under way")
    assert len(a.received) == 1


async def test_tls_upstream_certificate_must_match_its_host_name(data_plane_profile: Profile, tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "localhost"), certificate(tmp_path, "other.example")
    plane = envoy.data_plane_settings(data_plane_profile).model_copy(update={"authorities": tmp_path / "localhost.pem"})
    async with (
        running(DataPlaneHarness(data_plane_profile.model_copy(update={"data_plane": plane}))) as data_plane,
        await asyncio.start_server(answer_once, "127.0.0.1", 0, ssl=good) as server,
        await asyncio.start_server(answer_once, "127.0.0.1", 0, ssl=other) as impostor,
        data_plane.client(token(data_plane, "acme", "research")) as client,
    ):
        for listening, status in ((server, 200), (impostor, 503)):
            port = listening.sockets[0].getsockname()[1]
            upstreams = [Upstream(name="safe", addresses=[f"localhost:{port}"], tls=True)]
            assert (await data_plane.apply(routes=[route_to("safe", "safe")], upstreams=upstreams)).error == ""
            assert (await client.post(CHAT, json=BODY)).status_code == status


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}"
    )
    writer.close()


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """Return a server context with a self-signed certificate for this name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1)
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    secret = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(*secret))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.send_header("x-upstream", "process")
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_process_that_freezes_or_dies_leaves_the_rotation_and_a_resumed_one_returns(
    data_plane: DataPlaneHarness, doubles: tuple[DoubleVllm, DoubleVllm], number: signal.Signals
) -> None:
    a, _ = doubles
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            pool = Upstream(name="pool", addresses=[a.address, address], services=["serving"], balancing="round_robin")
            assert (await data_plane.apply(routes=[route_to("pool", "pool")], upstreams=[pool])).error == ""

            async def in_rotation(expected: bool) -> bool:
                return (await _active_check_fails(data_plane, address)) != expected

            await until(partial(in_rotation, True), "the process in rotation")
            caller = token(data_plane, "acme", "research")
            assert {await served_by(data_plane, caller) for _ in range(8)} == {"a", "process"}
            process.send_signal(number)
            await until(partial(in_rotation, False), "the process out of rotation")
            assert {await served_by(data_plane, caller) for _ in range(8)} == {"a"}  # nothing waits for a deadline
            if number == signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                await until(partial(in_rotation, True), "the process back in rotation")

                async def serves() -> bool:
                    return "process" in {await served_by(data_plane, caller) for _ in range(8)}

                await until(serves, "a response of the process")
        finally:
            process.kill()


async def _active_check_fails(data_plane: DataPlaneHarness, address: str) -> bool:
    """Return whether the health check of a host of the upstream `pool` fails, or has not succeeded yet."""
    transport = httpx.AsyncHTTPTransport(uds=data_plane.plane.admin.removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
        lines = (await client.get("/clusters")).text.splitlines()
    flags = [line for line in lines if line.startswith(f"pool::{address}::health_flags::")]
    return not flags or "failed_active_hc" in flags[0]
