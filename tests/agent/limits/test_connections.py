"""Whoever opens connections and does nothing with them shuts nobody out: on a real Envoy with few connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from agent.data_plane import Fed, running
from agent.xds.test_identity import Authority
from agent.xds.test_translation import desired, edge
from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery import envoy
from drw.agent.reporting import connection_pressure
from drw.agent.reporting.connection_pressure import ConnectionPressure
from drw.agent.xds import overload
from drw.agent.xds.translation import EdgeOptions, translate
from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import Connections, Profile, Tls
from drw.local.preflight import free_port
from support.parts import until

MOST = 20
PER_CLIENT = 6
LIST = "/v1/models"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""How a connection of HTTP/2 begins: the preface and an empty SETTINGS frame."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

FIRST_BYTES = {
    "nothing": b"",
    "a request that needs no key": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    "a request without a key": f"GET {LIST} HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "half of the headers": b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
    "HTTP/2 without a stream": PREFACE,
}


@pytest.fixture
async def door(
    front_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Fed]:
    """A front door that takes few connections, with a TLS listener and one for operators."""
    per_client = getattr(request, "param", MOST)
    monkeypatch.setattr(connection_pressure, "READ_SECONDS", 0.05)
    monkeypatch.setattr("drw.agent.xds.listener.HEADERS_TIMEOUT", "1s")
    firm = Authority()
    certificate, key = firm.write(tmp_path, "gateway", x509.DNSName("localhost"))
    plane = envoy.data_plane_settings(front_profile).model_copy(
        update={
            "tls": Tls(listen=f"127.0.0.1:{free_port('127.0.0.1')}", certificate=certificate, private_key=key),
            "operators": envoy.data_plane_settings(front_profile).admin + "o",
            "connections": Connections(max=MOST, per_client=per_client, idle_seconds=3600, operators=3),
        }
    )
    async with running(Fed(front_profile.model_copy(update={"data_plane": plane}))) as fed:
        yield fed


@asynccontextmanager
async def held(port: str, sent: bytes) -> AsyncIterator[None]:
    """Open twice as many connections as there may be, send these bytes on each, and leave them open."""
    opened = []
    try:
        for _ in range(2 * MOST):
            reader, writer = await asyncio.open_connection(*port.split(":"))
            writer.write(sent)
            opened.append((reader, writer))
        yield
    finally:
        for _, writer in opened:
            writer.close()


async def answers(fed: Fed) -> bool:
    try:
        async with fed.client(fed.sign("key_1", "models:read")) as caller:
            return (await caller.get(LIST)).status_code == 200
    except httpx.TransportError:
        return False


def operator(fed: Fed, secret: str = "") -> httpx.AsyncClient:
    socket = fed.plane.operators.removeprefix("unix:")
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://drw", headers=headers)


async def test_connections_that_do_nothing_shut_nobody_out_for_long(door: Fed) -> None:
    plane = door.plane
    for where, sent in [*((plane.listen, sent) for sent in FIRST_BYTES.values()), (door.tls.listen, b"\x16\x03\x01")]:
        async with held(where, sent):
            # Operators get in at once, by the same keys and scopes.
            async with operator(door, door.sign("key_1", "models:read")) as client:
                assert (await client.get(LIST)).status_code == 200
                assert (await client.get("/api/v1/keys", headers={"authorization": "Bearer x"})).status_code == 401
            async with operator(door) as client:
                assert (await client.get(LIST, headers={"x-drw-key": "key_1"})).status_code == 401
            await until(lambda: answers(door), f"an answer beside connections with {sent!r}", seconds=10)


async def test_what_is_under_way_goes_on_while_idle_connections_are_closed(door: Fed) -> None:
    async with (
        door.client(door.sign("key_1", "models:invoke")) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
        held(door.plane.listen, b""),
    ):
        await until(lambda: answers(door), "an answer")
        for _ in range(5):
            door.models.go_on.release()
        assert [line async for line in answer.aiter_lines() if line] == [f"data: {number}" for number in range(5)]


@pytest.mark.parametrize("door", [PER_CLIENT], indirect=True)
async def test_one_client_takes_no_connections_from_another(door: Fed) -> None:
    """All of a /8 is this machine, so each of its addresses is a client."""

    async def connections(client: str, number: int) -> list[Connection]:
        host, port = door.plane.listen.split(":")
        return [await asyncio.open_connection(host, int(port), local_addr=(client, 0)) for _ in range(number)]

    async def refused(found: list[Connection]) -> bool:
        return await found[-1][0].read() == b""

    one = await connections("127.0.0.2", PER_CLIENT + 1)
    assert await refused(one)
    other = await connections("127.0.0.3", PER_CLIENT)
    assert await answers(door)
    one.pop(0)[1].close()

    async def room() -> bool:
        open_now, _ = await door.admin().connections()
        return open_now <= 2 * PER_CLIENT - 1

    await until(room, "a place that came free")
    one += await connections("127.0.0.2", 1)
    one[-1][1].write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await one[-1][0].readline()).startswith(b"HTTP/1.1 200")
    for _, writer in [*one, *other]:
        writer.close()


async def test_operators_have_so_many_connections_and_no_more(door: Fed) -> None:
    socket = door.plane.operators.removeprefix("unix:")
    opened = [await asyncio.open_unix_connection(socket) for _ in range(4)]
    assert await opened[-1][0].read() == b""
    assert await answers(door)
    for _, writer in opened:
        writer.close()


def test_the_listener_of_operators_differs_in_nothing_but_its_connections() -> None:
    plane = edge().plane.model_copy(update={"operators": "unix:/run/o", "connections": Connections(operators=7)})
    clients, operators = translate(desired(), EdgeOptions(plane, edge().otlp_endpoint))["listeners"]
    assert operators.pop("name") == "drw.operators"
    assert operators.pop("address") == {"pipe": {"path": "/run/o", "mode": 0o600}}
    assert operators.pop("ignore_global_conn_limit") and operators.pop("bypass_overload_manager")
    limit, manager = operators["filter_chains"][0].pop("filters")
    assert limit["typed_config"]["max_connections"] == 7
    bound, same = clients["filter_chains"][0].pop("filters")
    assert (bound["typed_config"]["config"]["configuration"]["value"], manager) == ("5000", same)
    assert operators == {name: value for name, value in clients.items() if name not in ("name", "address")}


async def test_the_pressure_of_connections_is_told_when_it_changes(tmp_path: Path) -> None:
    class Counting(EnvoyAdmin):
        found = 0, 0

        async def connections(self) -> tuple[int, int]:
            if self.found[0] < 0:
                raise Unavailable("it does not answer")
            return self.found

    plane = edge(tmp_path).plane.model_copy(update={"connections": Connections(max=200)})
    counting, where = Counting("unix:/nothing"), EdgeOptions(plane)
    telling = ConnectionPressure(where, counting)
    looks = [((0, 0), "0.00"), ((100, 0), "0.50"), ((500, 0), "1.00"), ((2, 0), "0.01"), ((199, 12), "0.99")]
    crowded = [((2, 12), "0.87")] * (connection_pressure.PRESSURE_READINGS - 1)
    for found, said in [*looks, *crowded, ((2, 12), "0.01"), ((2, 13), "0.87")]:
        counting.found = found
        await telling.step()
        assert where.pressure.read_text() == said
    overload.write_fill_level(where.pressure, 0.7)
    await telling.step()
    assert where.pressure.read_text() == "0.70"  # no news, so nothing is written
    counting.found = -1, 0
    with pytest.raises(Unavailable):
        await telling.step()
