"""Probes of a process: liveness, start-up, readiness and grpc.health.v1, also while PostgreSQL is frozen."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.experiments_pb2 import ListExperimentsRequest
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.catalog import BY_NAME
from drw.kernel.errors import DeadlineExceeded, Unavailable
from drw.kernel.rpc import grpc_health
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.readiness import TIMEOUT_SECONDS, Readiness
from drw.kernel.runtime.settings import Profile
from drw.local.processes.liveness import process_tree
from support.parts import new_database, running_postgres, short_folder, until
from support.unimplemented import double_unimplemented

EXPERIMENTS, DISCOVERY = BY_NAME["experiments"].contract, BY_NAME["discovery"].contract
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ["experiments", "discovery", "health"]


class Process:
    """A running host with an HTTP client and the unmodified stubs of grpc.health.v1."""

    def __init__(self, host: Host, channel: grpc.aio.Channel, http: httpx.AsyncClient, sockets: Path) -> None:
        self.host = host
        self.health = health_pb2_grpc.HealthStub(channel)
        self._http = http
        self._sockets = sockets

    async def get(self, path: str) -> tuple[int, str]:
        response = await self._http.get(path)
        return response.status_code, response.text

    async def check(self, service: str) -> int:
        return int((await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status)

    @contextmanager
    def frozen_database(self) -> Iterator[None]:
        """Stop PostgreSQL and all of its processes during the block."""
        (postmaster,) = (int(line) for line in _postmaster(self._sockets))
        _signal(postmaster, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(postmaster, signal.SIGCONT)


def _postmaster(sockets: Path) -> list[str]:
    (lock,) = sockets.glob(".s.PGSQL.*.lock")
    return lock.read_text().splitlines()[:1]


def _signal(pid: int, number: signal.Signals) -> None:
    for member in process_tree(pid):
        with suppress(ProcessLookupError):
            os.kill(member, number)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Path]:
    """A PostgreSQL that no other test uses, since it is frozen."""
    with short_folder() as folder, running_postgres(folder) as sockets:
        yield sockets


@pytest.fixture
async def process(
    own_postgres: Path, tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Process]:
    """A process with services that need the database, do not need it, and are not implemented."""
    double_unimplemented(monkeypatch, "health")
    profile = Profile(name="test", data=tmp_path, postgres=new_database(own_postgres), valkey=valkey)
    host = Host(profile, "test", SERVICES)
    grpc_address, http_address = await host.start()
    async with (
        grpc.aio.insecure_channel(grpc_address) as channel,
        httpx.AsyncClient(base_url=f"http://{http_address}", timeout=30) as http,
    ):
        yield Process(host, channel, http, own_postgres)
    await host.stop(grace=0)


async def test_a_started_process_answers_all_probes(process: Process) -> None:
    for path in ("/livez", "/healthz", "/startupz", "/readyz", "/readyz?service=experiments"):
        assert await process.get(path) == (200, "ok\n"), path


async def test_the_client_of_grpc_health_sees_each_service_and_the_process(process: Process) -> None:
    assert await process.check("") == SERVING
    assert await process.check(EXPERIMENTS) == SERVING
    assert await process.check(BY_NAME["health"].contract) == NOT_SERVING  # not implemented; "" still serves
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await process.check("drw.api.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    listed = await process.health.List(health_pb2.HealthListRequest(), timeout=10)
    assert set(listed.statuses) == {"", *(BY_NAME[name].contract for name in SERVICES)}


async def test_a_frozen_database_makes_only_services_unready_that_need_it_and_recovers(
    process: Process, caller: Principal
) -> None:
    watch = process.health.Watch(health_pb2.HealthCheckRequest(service=EXPERIMENTS))
    assert (await watch.read()).status == SERVING
    experiments, discovery = process.host.client(ExperimentsClient), process.host.client(DiscoveryClient)
    with process.frozen_database():
        assert (await asyncio.wait_for(watch.read(), 30)).status == NOT_SERVING  # pushed, not polled
        assert await process.get("/readyz") == (503, "experiments: postgres\n")
        assert await process.get("/readyz?service=discovery") == (200, "ok\n")
        assert await process.check(DISCOVERY) == SERVING
        assert await process.check("") == NOT_SERVING
        assert await process.get("/livez") == (200, "ok\n")  # a restart would not help
        assert (await discovery.list_models(ListModelsRequest())).models == []
        with acting_for(caller), pytest.raises((Unavailable, DeadlineExceeded)):
            async with asyncio.timeout(60):  # an answer, not a hang
                await experiments.list_experiments(ListExperimentsRequest(), timeout=2)
    assert (await asyncio.wait_for(watch.read(), 30)).status == SERVING
    assert await process.get("/readyz") == (200, "ok\n")
    watch.cancel()


async def test_a_process_that_stops_is_not_ready_first(process: Process) -> None:
    watch = process.health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(process.host.stop(grace=5))
    assert (await asyncio.wait_for(watch.read(), 30)).status == NOT_SERVING
    watch.cancel()
    await stopping


async def test_a_check_that_never_ends_neither_blocks_the_others_nor_is_started_twice() -> None:
    started, release = 0, asyncio.Event()

    async def hangs() -> None:
        nonlocal started
        started += 1
        with suppress(asyncio.CancelledError):
            await release.wait()
        await release.wait()  # like a driver that waits for its server while it is cancelled

    async def works() -> None:
        return

    readiness = Readiness()
    readiness.require("serving", "engine", hangs)
    readiness.require("discovery", "memory", works)
    async with asyncio.timeout(10 * TIMEOUT_SECONDS):
        await readiness.start()
        assert (readiness.failing("serving"), readiness.failing("discovery")) == (["engine"], [])
        release.set()
        await until(lambda: _is(readiness.failing("serving") == []), "the late check")
        assert started <= 2
    await readiness.stop()


async def _is(value: bool) -> bool:
    return value


async def test_watchers_that_do_not_read_do_not_block_changes_and_are_bounded() -> None:
    servicer = grpc_health.HealthServicer()
    blocked = asyncio.Event()

    class Context:
        aborted: grpc.StatusCode | None = None

        async def write(self, message: object) -> None:
            blocked.set()
            await asyncio.Event().wait()

        async def abort(self, code: grpc.StatusCode, message: str) -> None:
            self.aborted = code
            raise AssertionError(message)

    request = health_pb2.HealthCheckRequest(service="")
    watches = [asyncio.create_task(servicer.Watch(request, Context())) for _ in range(grpc_health.MAX_WATCHERS)]
    await blocked.wait()
    servicer.replace({"": True})  # returns although all watchers are blocked
    assert (await servicer.Check(request, Context())).status == SERVING
    refused = Context()
    with pytest.raises(AssertionError, match="256 watches"):
        await servicer.Watch(request, refused)
    assert refused.aborted == grpc.StatusCode.RESOURCE_EXHAUSTED
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
