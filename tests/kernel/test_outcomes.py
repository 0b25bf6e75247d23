"""Outcomes of requests: what counts as good, slow and failed, by each transport."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drw.api.models.v1 import discovery_rpc
from drw.api.models.v1.discovery_pb2 import AliasesChanged, GetModelRequest, Model, WatchAliasesRequest
from drw.catalog import BY_NAME
from drw.kernel.errors import HTTP, DeadlineExceeded, InternalError, NotFound, Unavailable, Unimplemented
from drw.kernel.observability import outcomes
from drw.kernel.rpc.http import rest
from drw.kernel.rpc.http import server as http_server
from drw.kernel.rpc.http.counted_routes import counted
from drw.kernel.rpc.transport import Channels, LocalTransport, Server

DISCOVERY = "discovery"


class DoubleDiscovery(discovery_rpc.Discovery):
    """Answers as the id of the model says."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    async def get_model(self, request: GetModelRequest, /) -> Model:
        self.began.set()
        match request.id:
            case "unavailable":
                raise Unavailable("no")
            case "bug":
                raise ZeroDivisionError
            case "missing":
                raise NotFound("no")
            case "hangs":
                await asyncio.Event().wait()
        return Model(id=request.id)

    async def watch_aliases(self, request: WatchAliasesRequest, /) -> AsyncIterator[AliasesChanged]:
        yield AliasesChanged()
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _only_of_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores calls of services that run in a thread for the tests of a module."""
    count, thread = outcomes._count, threading.get_ident()

    def count_here(service: str, outcome: str) -> None:
        if threading.get_ident() == thread:
            count(service, outcome)

    monkeypatch.setattr(outcomes, "_count", count_here)


class Delta:
    """The good, slow and failed requests since the last look."""

    def __init__(self) -> None:
        gc.collect()  # streams that earlier tests abandoned end now
        self._last = outcomes.counts(DISCOVERY)

    def look(self) -> tuple[int, ...]:
        now = outcomes.counts(DISCOVERY)
        delta = tuple(new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        return delta


@pytest.fixture(params=["local", "grpc"])
async def client(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[discovery_rpc.DiscoveryClient, DoubleDiscovery]]:
    service = DoubleDiscovery()
    if request.param == "local":
        yield discovery_rpc.DiscoveryClient(LocalTransport(lambda: service, DISCOVERY)), service
        return
    server, channels = Server([service]), Channels()
    address = await server.start("127.0.0.1:0")
    yield channels.client(discovery_rpc.DiscoveryClient, address), service
    await channels.close()
    await server.stop(0)


async def test_calls_count_by_their_cause(client: tuple[discovery_rpc.DiscoveryClient, DoubleDiscovery]) -> None:
    discovery, service = client
    delta = Delta()
    await discovery.get_model(GetModelRequest(id="a"))
    assert delta.look() == (1, 0, 0)
    for model, error, expected in (
        ("missing", NotFound, (1, 0, 0)),
        ("unavailable", Unavailable, (0, 0, 1)),
        ("bug", InternalError, (0, 0, 1)),
    ):
        with pytest.raises(error):
            await discovery.get_model(GetModelRequest(id=model))
        assert delta.look() == expected, model
    call = asyncio.create_task(discovery.get_model(GetModelRequest(id="hangs")))
    service.began.clear()
    await service.began.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert delta.look() == (0, 0, 0)  # its caller gave up


async def test_a_stream_that_ends_at_its_deadline_has_been_answered(
    client: tuple[discovery_rpc.DiscoveryClient, DoubleDiscovery],
) -> None:
    discovery, _ = client
    delta = Delta()
    with pytest.raises(DeadlineExceeded):
        async for _ in discovery.watch_aliases(WatchAliasesRequest(), timeout=0.2):
            pass
    total: tuple[int, ...] = (0, 0, 0)
    async with asyncio.timeout(10):
        while sum(total) == 0:  # the server of gRPC learns of it later
            await asyncio.sleep(0.01)
            total = delta.look()
    assert total == (1, 0, 0)


async def test_an_answer_after_the_latency_objective_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    delta = Delta()
    limit = BY_NAME[DISCOVERY].objective.latency_ms / 1000
    for seconds, expected in ((limit * 0.9, (1, 0, 0)), (limit * 1.1, (0, 1, 0))):
        with outcomes.counted(DISCOVERY) as outcome:
            assert outcome is not None
            now += seconds
            outcome.answered()
            now += 60  # the rest of a long answer does not count
        assert delta.look() == expected


async def test_calls_that_no_process_answers_count_at_the_caller() -> None:
    channels = Channels()
    before = outcomes.unanswered().get(DISCOVERY, 0)
    discovery = channels.client(discovery_rpc.DiscoveryClient, "unix:/nonexistent")
    with pytest.raises(Unavailable):
        await discovery.get_model(GetModelRequest(id="a"), timeout=5)
    assert outcomes.unanswered()[DISCOVERY] == before + 1
    await channels.close()


async def test_http_requests_count_once_and_errors_of_the_client_are_no_failures() -> None:
    service = DoubleDiscovery()

    async def late_error(request: Request) -> Response:
        outcomes.report_failure(Unavailable("after the first byte"))
        return Response("ok")

    own = Route("/late", late_error, methods=["GET"])
    routes = [counted(counted(route, DISCOVERY), DISCOVERY) for route in (own, *rest.routes(service))]
    transport = httpx.ASGITransport(http_server.app(routes, "test"))
    headers = {"x-drw-key": "k", "x-drw-org": "o", "x-drw-desk": "d", "x-drw-scopes": "models:read"}
    async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers) as http:
        delta = Delta()
        for path, expected in (
            ("/api/v1/models/a", (1, 0, 0)),
            ("/api/v1/models/missing", (1, 0, 0)),
            ("/api/v1/models/unavailable", (0, 0, 1)),
            ("/api/v1/models/bug", (0, 0, 1)),
            ("/late", (0, 0, 1)),
            ("/livez", (0, 0, 0)),
            ("/nothing", (0, 0, 0)),
        ):
            await http.get(path)
            assert delta.look() == expected, path


def test_every_error_class_is_the_fault_that_its_status_says() -> None:
    for cls, form in HTTP.items():
        assert outcomes.is_server_fault(cls("x")) == (form.status >= 500 and cls is not Unimplemented), cls
