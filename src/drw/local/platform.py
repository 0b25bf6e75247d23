"""The processes of a local platform and their start order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import psycopg
import redis.asyncio
from psycopg import pq

from drw.agent.adapters.envoy_admin import EnvoyAdmin
from drw.agent.delivery import envoy
from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest
from drw.api.kernel.v1.kernel_rpc import ProcessClient
from drw.catalog import CLUSTERS
from drw.kernel.errors import DeadlineExceeded, InternalError, Unavailable
from drw.kernel.rpc.http.server import ALIVE
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile
from drw.local import postgres, valkey
from drw.local.paths import ENGINE_SLOTS, SLOT_TOKENS, PlatformPaths
from drw.local.processes.child_process import ProcessSpec
from drw.local.processes.liveness import Probe, replies
from drw.local.weights import CHAT_MODEL

DRAIN_SECONDS = 5.0


def process_specs(paths: PlatformPaths, profile: Profile, channels: Channels) -> list[ProcessSpec]:
    """Return the process specifications of the platform."""
    files = [str(file) for file in paths.files]
    services = [_service_process(cluster, profile, files, channels) for cluster in CLUSTERS]
    return [
        _postgres(paths),
        _valkey(paths),
        _engine(paths, profile),
        *services,
        _agent(profile, files),
        _envoy(profile),
    ]


def _postgres(paths: PlatformPaths) -> ProcessSpec:
    data, sockets = paths.data / "postgres", paths.run / "pg"
    return ProcessSpec(
        name="postgres",
        title="PostgreSQL",
        prepare=partial(asyncio.to_thread, postgres.prepare, data, sockets),
        command=lambda: postgres.command(data, sockets),
        ready=partial(_database_ready, sockets),
        alive=partial(asyncio.to_thread, _database_alive, sockets),
        stop_signal=signal.SIGINT,  # PostgreSQL's fast shutdown
    )


async def _database_ready(sockets: Path) -> bool:
    try:
        async with await psycopg.AsyncConnection.connect(
            postgres.dsn(sockets, "postgres"), autocommit=True
        ) as connection:
            cursor = await connection.execute("select 1 from pg_database where datname = %s", (postgres.DATABASE,))
            if await cursor.fetchone() is None:
                await connection.execute(f"create database {postgres.DATABASE}".encode())
    except psycopg.OperationalError:
        return False
    return True


def _database_alive(sockets: Path) -> bool:
    """Return whether the server responds at all, even if it is starting or out of connections."""
    return pq.PGconn.ping(f"{postgres.dsn(sockets)} connect_timeout=2".encode()) in (pq.Ping.OK, pq.Ping.REJECT)


def _valkey(paths: PlatformPaths) -> ProcessSpec:
    socket = paths.run / "valkey.sock"
    return ProcessSpec(
        name="valkey",
        title="Valkey",
        command=lambda: valkey.command(paths.data / "valkey", socket),
        ready=partial(_valkey_ready, valkey.url(socket)),
        alive=partial(replies, f"unix:{socket}", b"PING\r\n"),
    )


async def _valkey_ready(url: str) -> bool:
    async with redis.asyncio.Redis.from_url(url) as client:
        try:
            return bool(await client.ping())
        except redis.ConnectionError:
            return False


def _engine(paths: PlatformPaths, profile: Profile) -> ProcessSpec:
    command = [sys.executable, "-m", "drw.models.engine", "--model", str(paths.weights / CHAT_MODEL)]
    command += ["--socket", str(paths.engine), "--slots", str(ENGINE_SLOTS)]
    command += ["--memory", str(profile.engine.memory_mib)]
    return ProcessSpec(
        name="engine",
        stop_order=1,
        title="the language model",
        command=lambda: [*command, "--context", str(ENGINE_SLOTS * SLOT_TOKENS)],
        ready=partial(_responds, f"unix:{paths.engine}", "/health"),
        alive=_http_probe(f"unix:{paths.engine}", "/health"),
    )


def _service_process(cluster: str, profile: Profile, files: list[str], channels: Channels) -> ProcessSpec:
    address = profile.processes[cluster].grpc
    socket = Path(address.removeprefix("unix:"))
    client = channels.client(ProcessClient, address)
    return ProcessSpec(
        name=cluster,
        stop_order=1,
        title=f"the {cluster} services",
        depends_on=("postgres", "valkey"),
        command=lambda: [sys.executable, "-m", "drw.kernel.runtime.process", cluster, *files],
        prepare=partial(asyncio.to_thread, socket.unlink, missing_ok=True),
        ready=partial(_process_ready, client, socket.exists),
        alive=_http_probe(profile.processes[cluster].http, ALIVE),
    )


async def _process_ready(client: ProcessClient, is_listening: Callable[[], bool]) -> bool:
    if not is_listening():  # a call now would only delay the channel's next attempt
        return False
    try:
        await client.get_status(GetStatusRequest(), timeout=2)
    except (Unavailable, DeadlineExceeded, InternalError):
        return False
    return True


def _agent(profile: Profile, files: list[str]) -> ProcessSpec:
    metrics = envoy.data_plane_settings(profile).metrics

    # If the port is taken, the process serves no metrics and works otherwise.
    alive = _http_probe(metrics, ALIVE) if metrics.startswith("unix:") else None

    async def ready() -> bool:
        return envoy.ready_file(profile).exists() and (alive is None or await alive())

    return ProcessSpec(
        name="agent",
        stop_order=2,
        title="the data plane's agent",
        depends_on=("postgres",),  # it waits for the gateway's services itself
        command=lambda: [sys.executable, "-m", "drw.agent", *files],
        ready=ready,
        alive=alive,
    )


def _envoy(profile: Profile) -> ProcessSpec:
    assert profile.data_plane is not None, "a local profile has a data plane"
    admin, listen = profile.data_plane.admin, profile.data_plane.listen
    return ProcessSpec(
        name="envoy",
        stop_order=3,
        title="Envoy",
        depends_on=("agent",),
        command=lambda: envoy.command(profile),
        ready=partial(_responds, listen, ALIVE),
        alive=_http_probe(admin, "/ready"),
        before_stop=partial(_drain, EnvoyAdmin(admin)),
    )


async def _drain(admin: EnvoyAdmin) -> None:
    with suppress(Unavailable):  # it is stopping anyway
        await admin.drain(DRAIN_SECONDS)


def _http_probe(address: str, path: str) -> Probe:
    return partial(replies, address, f"GET {path} HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n".encode())


async def _responds(address: str, path: str) -> bool:
    try:
        host = "local" if address.startswith("unix:") else address
        async with _session(address, seconds=2) as session, session.get(f"http://{host}{path}") as response:
            status: int = response.status
            return status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _session(address: str, seconds: float) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(address.removeprefix("unix:")) if address.startswith("unix:") else None
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds))
