"""Connection limits of a real Envoy: idle connections, clients and operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from agent.data_plane import DataPlaneHarness, running
from agent.xds.test_identity import CertificateAuthority
from agent.xds.test_translation import desired_state, edge_options
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

MAX_CONNECTIONS = 20
PER_CLIENT = 6
LIST = "/v1/models"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""The start of an HTTP/2 connection: the preface and an empty SETTINGS frame."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

IDLE_CONNECTIONS = {
    "nothing": b"",
    "a request that needs no key": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    "a request without a key": f"GET {LIST} HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "half of the headers": b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
    "HTTP/2 without a stream": PREFACE,
}


@pytest.fixture
async def limited_data_plane(
    data_plane_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[DataPlaneHarness]:
    """A data plane with a low connection limit, a TLS listener and an operator listener."""
    per_client = getattr(request, "param", MAX_CONNECTIONS)
    monkeypatch.setattr(connection_pressure, "READ_SECONDS", 0.05)
    monkeypatch.setattr("drw.agent.xds.listener.HEADERS_TIMEOUT", "1s")
    authority = CertificateAuthority()
    certificate, key = authority.write(tmp_path, "gateway", x509.DNSName("localhost"))
    plane = envoy.data_plane_settings(data_plane_profile).model_copy(
        update={
            "tls": Tls(listen=f"127.0.0.1:{free_port('127.0.0.1')}", certificate=certificate, private_key=key),
            "operators": envoy.data_plane_settings(data_plane_profile).admin + "o",
            "connections": Connections(max=MAX_CONNECTIONS, per_client=per_client, idle_seconds=3600, operators=3),
        }
    )
    async with running(DataPlaneHarness(data_plane_profile.model_copy(update={"data_plane": plane}))) as data_plane:
        yield data_plane


@asynccontextmanager
async def idle_connections(port: str, sent: bytes) -> AsyncIterator[None]:
    """Hold twice as many connections as allowed open inside the block, after sending these bytes on each."""
    opened = []
    try:
        for _ in range(2 * MAX_CONNECTIONS):
            reader, writer = await asyncio.open_connection(*port.split(":"))
            writer.write(sent)
            opened.append((reader, writer))
        yield
    finally:
        for _, writer in opened:
            writer.close()


async def accepts_requests(data_plane: DataPlaneHarness) -> bool:
    try:
        async with data_plane.client(data_plane.sign("key_1", "models:read")) as caller:
            return (await caller.get(LIST)).status_code == 200
    except httpx.TransportError:
        return False


def operator_client(data_plane: DataPlaneHarness, secret: str = "") -> httpx.AsyncClient:
    socket = data_plane.plane.operators.removeprefix("unix:")
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://drw", headers=headers)


async def test_idle_connections_do_not_block_other_clients(limited_data_plane: DataPlaneHarness) -> None:
    plane = limited_data_plane.plane
    for address, sent in [
        *((plane.listen, sent) for sent in IDLE_CONNECTIONS.values()),
        (limited_data_plane.tls.listen, b"\x16\x03\x01"),
    ]:
        async with idle_connections(address, sent):
            # Operators connect at once, with the same keys and scopes.
            async with operator_client(limited_data_plane, limited_data_plane.sign("key_1", "models:read")) as client:
                assert (await client.get(LIST)).status_code == 200
                assert (await client.get("/api/v1/keys", headers={"authorization": "Bearer x"})).status_code == 401
            async with operator_client(limited_data_plane) as client:
                assert (await client.get(LIST, headers={"x-drw-key": "key_1"})).status_code == 401
            await until(
                lambda: accepts_requests(limited_data_plane),
                f"an answer despite idle connections with {sent!r}",
                seconds=10,
            )


async def test_active_stream_continues_while_idle_connections_are_closed(limited_data_plane: DataPlaneHarness) -> None:
    async with (
        limited_data_plane.client(limited_data_plane.sign("key_1", "models:invoke")) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
        idle_connections(limited_data_plane.plane.listen, b""),
    ):
        await until(lambda: accepts_requests(limited_data_plane), "an answer")
        for _ in range(5):
            limited_data_plane.models.next_event.release()
        assert [line async for line in answer.aiter_lines() if line] == [f"data: {number}" for number in range(5)]


@pytest.mark.parametrize("limited_data_plane", [PER_CLIENT], indirect=True)
async def test_connection_limit_applies_per_client(limited_data_plane: DataPlaneHarness) -> None:
    """Every address of 127.0.0.0/8 is this machine, so each one is a client."""

    async def connect(client: str, number: int) -> list[Connection]:
        host, port = limited_data_plane.plane.listen.split(":")
        return [await asyncio.open_connection(host, int(port), local_addr=(client, 0)) for _ in range(number)]

    async def drop_closed(connections: list[Connection]) -> None:
        """Wait until Envoy closes a connection: not always the last one, since several threads accept them."""
        reads = [asyncio.create_task(reader.read()) for reader, _ in connections]
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        closed = [number for number, read in enumerate(reads) if read.done()]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        assert len(closed) == 1
        connections.pop(closed[0])[1].close()

    first_client = await connect("127.0.0.2", PER_CLIENT + 1)
    await drop_closed(first_client)
    second_client = await connect("127.0.0.3", PER_CLIENT)
    assert await accepts_requests(limited_data_plane)
    first_client.pop(0)[1].close()

    async def connection_is_released() -> bool:
        open_now, _ = await limited_data_plane.admin().connections()
        return open_now <= 2 * PER_CLIENT - 1

    await until(connection_is_released, "a released connection")
    first_client += await connect("127.0.0.2", 1)
    first_client[-1][1].write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await first_client[-1][0].readline()).startswith(b"HTTP/1.1 200")
    for _, writer in [*first_client, *second_client]:
        writer.close()


async def test_operator_connections_are_limited(limited_data_plane: DataPlaneHarness) -> None:
    socket = limited_data_plane.plane.operators.removeprefix("unix:")
    opened = [await asyncio.open_unix_connection(socket) for _ in range(4)]
    assert await opened[-1][0].read() == b""
    assert await accepts_requests(limited_data_plane)
    for _, writer in opened:
        writer.close()


def test_operator_listener_differs_only_in_its_connection_limits() -> None:
    plane = edge_options().plane.model_copy(
        update={"operators": "unix:/run/o", "connections": Connections(operators=7)}
    )
    clients, operators = translate(desired_state(), EdgeOptions(plane, edge_options().otlp_endpoint))["listeners"]
    assert operators.pop("name") == "drw.operators"
    assert operators.pop("address") == {"pipe": {"path": "/run/o", "mode": 0o600}}
    assert operators.pop("ignore_global_conn_limit") and operators.pop("bypass_overload_manager")
    limit, manager = operators["filter_chains"][0].pop("filters")
    assert limit["typed_config"]["max_connections"] == 7
    per_client_limit, client_manager = clients["filter_chains"][0].pop("filters")
    assert (per_client_limit["typed_config"]["config"]["configuration"]["value"], manager) == ("5000", client_manager)
    assert operators == {name: value for name, value in clients.items() if name not in ("name", "address")}


async def test_connection_pressure_is_written_when_it_changes(tmp_path: Path) -> None:
    class AdminDouble(EnvoyAdmin):
        counts = 0, 0

        async def connections(self) -> tuple[int, int]:
            if self.counts[0] < 0:
                raise Unavailable("it does not answer")
            return self.counts

    plane = edge_options(tmp_path).plane.model_copy(update={"connections": Connections(max=200)})
    admin, options = AdminDouble("unix:/nothing"), EdgeOptions(plane)
    pressure = ConnectionPressure(options, admin)
    readings = [((0, 0), "0.00"), ((100, 0), "0.50"), ((500, 0), "1.00"), ((2, 0), "0.01"), ((199, 12), "0.99")]
    crowded = [((2, 12), "0.87")] * (connection_pressure.PRESSURE_READINGS - 1)
    for counts, expected in [*readings, *crowded, ((2, 12), "0.01"), ((2, 13), "0.87")]:
        admin.counts = counts
        await pressure.step()
        assert options.pressure.read_text() == expected
    overload.write_fill_level(options.pressure, 0.7)
    await pressure.step()
    assert options.pressure.read_text() == "0.70"  # the pressure did not change, so nothing is written
    admin.counts = -1, 0
    with pytest.raises(Unavailable):
        await pressure.step()
