"""Which way requests go: by header, by who calls, by weight, bound to a session, and past an upstream that fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.data_plane import Fed, running
from agent.upstream import DoubleVllm
from drw.agent.delivery import envoy
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import Health, Route, Share
from drw.gateway.authentication.keys.signing import Claims
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.runtime.settings import Profile
from support.parts import until

CHAT = "/v1/chat/completions"
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def doubles() -> AsyncIterator[tuple[DoubleVllm, DoubleVllm]]:
    """Two upstreams of others, running."""
    a, b = await DoubleVllm("a").start(), await DoubleVllm("b").start()
    yield a, b
    await a.stop()
    await b.stop()


def to(name: str, upstream: str = "", **other: Any) -> Route:
    made: dict[str, Any] = {"name": name, "path": CHAT, "methods": ["POST"], "upstream": upstream, "pass_through": True}
    return with_defaults(Route(**(made | other)))


def made(*doubles: DoubleVllm, **other) -> list[Upstream]:
    return [Upstream(name=d.name, addresses=[d.where], **other) for d in doubles]


def token(fed: Fed, org: str, desk: str, key: str = "key_1") -> str:
    now = datetime.now(UTC)
    return fed.signing.sign(Claims(key, org, desk, ("models:invoke",), now, now + timedelta(hours=1)))


async def served_by(fed: Fed, secret: str, **headers) -> str:
    async with fed.client(secret) as client:
        answer = await client.post(CHAT, json=BODY, headers={k.replace("_", "-"): v for k, v in headers.items()})
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-upstream", "models")


async def test_a_route_of_a_tenant_is_taken_by_nobody_else(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    routes = [
        to("org", "a", tenants=["acme"]),
        to("desk", "b", tenants=["acme/trading", "other/x"], scopes=["models:invoke"]),
    ]
    assert (await fed.want(records=routes, made=made(*doubles))).error == ""
    assert await served_by(fed, token(fed, "acme", "research")) == "a"
    assert await served_by(fed, token(fed, "acme", "trading")) == "b"
    assert await served_by(fed, token(fed, "other", "x")) == "b"
    assert await served_by(fed, token(fed, "other", "trading")) == "models"
    for org, desk in [("acme", "research"), ("other", "x")]:
        forged = {"x_drw_org": org, "x_drw_desk": desk, "X_DRW_Org": org}
        assert await served_by(fed, token(fed, "third", "trading"), **forged) == "models"


async def test_a_route_by_header_comes_before_one_without(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    routes = [
        to("any", "a", headers=[{"name": "x-lab"}]),
        to("exact", "b", headers=[{"name": "x-lab"}, {"name": "x-team", "exact": "q.1"}]),
        to("beginning", "b", headers=[{"name": "x-wing", "prefix": "north-"}]),
    ]
    assert (await fed.want(records=routes, made=made(*doubles))).error == ""
    me = token(fed, "acme", "research")
    assert await served_by(fed, me) == "models"
    assert await served_by(fed, me, x_lab="1") == "a"
    assert await served_by(fed, me, x_lab="1", x_team="q.1") == "b"
    assert await served_by(fed, me, x_lab="1", x_team="qx1") == "a"
    assert await served_by(fed, me, x_wing="north-2") == "b"
    assert await served_by(fed, me, x_wing="south-2") == "models"


async def test_a_split_keeps_each_session_where_it_is(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    shares = [Share(upstream="a", weight=3), Share(upstream="b", weight=1)]
    for affinity, by in [("header:x-session-id", "x_session_id"), ("key", "")]:
        route = to("split", split=shares, affinity=[affinity])
        assert (await fed.want(records=[route], made=made(*doubles))).error == ""
        seen: dict[int, set[str]] = {}
        for session in [*range(24), *range(24)]:
            headers = {by: f"session {session}"} if by else {}
            secret = token(fed, "acme", "research", "key_1" if by else f"key_{session}")
            seen.setdefault(session, set()).add(await served_by(fed, secret, **headers))
        assert all(len(found) == 1 for found in seen.values())
        share = Counter(next(iter(found)) for found in seen.values())
        assert share["a"] > share["b"] > 0


async def test_a_body_binds_a_user_to_one_host(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    hosts = Upstream(name="pool", addresses=[d.where for d in doubles], balancing="ring_hash")
    route = to("pool", "pool", models=["llama"], affinity=["body:prompt_cache_key", "body:user", "key"])
    assert (await fed.want(records=[route], made=[hosts])).error == ""
    seen: dict[str, set[str]] = {}
    async with fed.client(token(fed, "acme", "research")) as client:
        for number in [*range(12), *range(12)]:
            field = "user" if number % 2 else "prompt_cache_key"
            answer = await client.post(CHAT, json=BODY | {field: f"u{number}"})
            seen.setdefault(f"u{number}", set()).add(answer.headers["x-upstream"])
    assert all(len(found) == 1 for found in seen.values())
    assert set.union(*seen.values()) == {"a", "b"}


async def test_the_fallback_answers_where_the_first_does_not(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    a, b = doubles
    folder = fed.plane.folder / "credentials"
    folder.mkdir()
    (folder / "shared").write_text("sk-shared")
    ups = made(*doubles, credential="shared")
    me = token(fed, "acme", "research")

    async def all_by_the_fallback(first_byte_ms: int = 0) -> None:
        route = to("safe", "a", fallbacks=["b"], first_byte_ms=first_byte_ms)
        assert (await fed.want(records=[route], made=ups)).error == ""
        assert [await served_by(fed, me) for _ in range(4)] == ["b"] * 4

    assert (await fed.want(records=[to("safe", "a", fallbacks=["b"])], made=ups)).error == ""
    assert await served_by(fed, me) == "a"
    for a.status in (429, 500, 503):
        await all_by_the_fallback()
    a.status, a.hang = 200, True
    await all_by_the_fallback(first_byte_ms=200)
    await a.stop()
    await all_by_the_fallback()
    async with await asyncio.start_server(hang_up, *a.where.split(":")):
        await all_by_the_fallback()
    assert {headers["authorization"] for headers, _ in [*a.got, *b.got]} == {"Bearer sk-shared"}


async def test_without_a_fallback_the_answer_of_the_upstream_comes_through(
    fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    assert (await fed.want(records=[to("plain", "a")], made=made(a))).error == ""
    a.status = 429
    async with fed.client(token(fed, "acme", "research")) as client:
        answer = await client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.headers["retry-after"], len(a.got)) == (429, "1", 1)


async def test_an_answer_that_does_not_come_in_time(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    a, _ = doubles
    a.hang = True
    for bound in ({"first_byte_ms": 100}, {"total_ms": 100}):
        assert (await fed.want(records=[to("slow", "a", **bound)], made=made(a))).error == ""
        async with fed.client(token(fed, "acme", "research")) as client:
            answer = await client.post(CHAT, json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_stream_that_stalls_is_cut_and_never_looks_whole(
    fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]
) -> None:
    a, _ = doubles
    a.stall = True
    for bound in ({"total_ms": 300}, {"idle_seconds": 1}):
        assert (await fed.want(records=[to("stalling", "a", **bound)], made=made(a))).error == ""
        lines = []
        async with fed.client(token(fed, "acme", "research")) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                async with client.stream("POST", CHAT, json=BODY | {"stream": True}) as answer:
                    async for line in answer.aiter_lines():
                        lines.append(line)
        assert lines and "data: [DONE]" not in lines


async def test_a_circuit_opens_is_shown_and_closes_again(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    a, _ = doubles
    ups = made(a, eject_after=2, eject_ms=300, eject_on_errors=True)
    assert (await fed.want(records=[to("one", "a")], made=ups)).error == ""
    a.status = 503
    me = token(fed, "acme", "research")
    async with fed.client(me) as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=BODY)).status_code == 503

        async def refused() -> bool:
            answer = await client.post(CHAT, json=BODY)
            return "a does not answer" in answer.json().get("error", {}).get("message", "")

        await until(refused, "the open circuit")
        seen = len(a.got)
        assert await refused() and len(a.got) == seen  # nothing reaches it
        assert await circuit(fed, ups) == Health.OPEN
        told = (await fed.admin().prometheus()).decode()
        assert 'envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="a"} 1' in told
        a.status = 200

        async def served() -> bool:
            return (await client.post(CHAT, json=BODY)).status_code == 200

        await until(served, "the closed circuit")
    assert await circuit(fed, ups) == Health.CLOSED


async def circuit(fed: Fed, ups: list[Upstream]) -> Health.Circuit:
    (host,) = await fed.circuits.read(ups)
    return host.circuit


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request and reset the connection."""
    await reader.readuntil(b"\r\n\r\n")
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


async def test_a_connection_that_does_not_come_about(fed: Fed) -> None:
    with socket.socket() as full, socket.socket() as waiting, socket.socket() as more:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # and nobody accepts: the kernel answers no more than these two
        for one in (waiting, more):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        ups = [Upstream(name="full", addresses=["{}:{}".format(*full.getsockname())], connect_ms=50)]
        assert (await fed.want(records=[to("full", "full")], made=ups)).error == ""
        async with fed.client(token(fed, "acme", "research")) as client:
            answer = await client.post(CHAT, json=BODY)
    assert answer.status_code == 503 and answer.json()["error"]["message"].startswith("full does not answer")


async def test_more_requests_than_an_upstream_takes_at_once(fed: Fed, doubles: tuple[DoubleVllm, DoubleVllm]) -> None:
    a, _ = doubles
    a.stall = True
    assert (await fed.want(records=[to("one", "a")], made=made(a, max_requests=1))).error == ""
    async with (
        fed.client(token(fed, "acme", "research")) as client,
        client.stream("POST", CHAT, json=BODY | {"stream": True}) as answer,
    ):
        await anext(answer.aiter_lines())
        second = await client.post(CHAT, json=BODY)
        assert (second.status_code, second.headers.get("retry-after")) == (503, "2"), second.text
        assert second.json()["error"]["message"].startswith("too many requests are under way")
    assert len(a.got) == 1


async def test_an_upstream_by_tls_must_be_who_it_says(front_profile: Profile, tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "localhost"), certificate(tmp_path, "other.example")
    plane = envoy.data_plane_settings(front_profile).model_copy(update={"authorities": tmp_path / "localhost.pem"})
    async with (
        running(Fed(front_profile.model_copy(update={"data_plane": plane}))) as fed,
        await asyncio.start_server(answer_once, "127.0.0.1", 0, ssl=good) as server,
        await asyncio.start_server(answer_once, "127.0.0.1", 0, ssl=other) as impostor,
        fed.client(token(fed, "acme", "research")) as client,
    ):
        for end, status in ((server, 200), (impostor, 503)):
            port = end.sockets[0].getsockname()[1]
            ups = [Upstream(name="safe", addresses=[f"localhost:{port}"], tls=True)]
            assert (await fed.want(records=[to("safe", "safe")], made=ups)).error == ""
            assert (await client.post(CHAT, json=BODY)).status_code == status


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}"
    )
    writer.close()


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """Return what serves under this name, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    who, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    builder = x509.CertificateBuilder(who, who, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    secret = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(*secret))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context
