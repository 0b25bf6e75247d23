"""Streams between services and to clients: order, errors, deadlines, disconnects."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import orjson
import pytest

from drw.api.kernel.v1.kernel_pb2 import ErrorInfo
from drw.api.workflow.v1.state_pb2 import RunEvent, WatchRunRequest
from drw.api.workflow.v1.state_rpc import State, StateClient
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import Templates, TemplatesClient
from drw.kernel.errors import (
    Conflict,
    DeadlineExceeded,
    DrwError,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
)
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.http import rest, server_sent_events
from drw.kernel.rpc.http import server as http_server
from drw.kernel.rpc.transport import MAX_MESSAGE_BYTES, Channels, LocalTransport, Server
from drw.kernel.rpc.wire_errors import from_wire
from support.strict_transport import StrictTransport

_numbers = itertools.count()
DEADLINE_SECONDS = 2.0
"""A deadline that expires within a test, but not before the first message."""
TEST_TIMEOUT_SECONDS = 30  # much longer than any test takes


class RunEnded(Conflict):
    """A subclass that client and service have."""


class DoubleState(State):
    """Sends the given events, then raises the error or hangs; records requests and the end of the stream."""

    def __init__(self, *ids: str, error: BaseException | None = None, hangs: bool = False, padding: int = 0) -> None:
        self._ids = ids
        self._error = error
        self._hangs = hangs
        self._padding = "x" * padding
        self.received: list[WatchRunRequest] = []
        self.caller: context.Principal | None = None
        self.time_left: float | None = None
        self.closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def watch_run(self, request: WatchRunRequest, /) -> AsyncIterator[RunEvent]:
        self.received.append(request)
        self.caller, self.time_left = context.caller_or_none(), context.time_left()
        try:
            for event_id in self._ids:
                yield RunEvent(event_id=event_id, detail=self._padding)
            if self._error:
                raise self._error
            if self._hangs:
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            self.closed.set()


class Clients:
    """Creates clients of a service, in this process or over gRPC."""

    def __init__(self, how: str, folder: str) -> None:
        self._mode = how
        self._address = f"unix:{folder}"
        self._channels = Channels()
        self.server: Server | None = None

    async def state(self, servicer: State) -> StateClient:
        if self._mode != "apart":
            local = LocalTransport(lambda: servicer, "state")
            return StateClient(local if self._mode == "together" else StrictTransport(local))
        return self._channels.client(StateClient, await self._serve(servicer))

    async def templates(self, servicer: Templates) -> TemplatesClient:
        if self._mode != "apart":
            return TemplatesClient(LocalTransport(lambda: servicer, "templates"))
        return self._channels.client(TemplatesClient, await self._serve(servicer))

    async def _serve(self, servicer: State | Templates) -> str:
        self.server = Server([servicer])
        return await self.server.start(self._address)

    async def close(self) -> None:
        await self._channels.close()
        if self.server:
            await self.server.stop(0)


@pytest.fixture(params=["together", "strict", "apart"])
async def clients(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Clients]:
    clients = Clients(request.param, f"{folder}/{next(_numbers)}.sides")
    yield clients
    await clients.close()


async def ids(stream: AsyncIterator[RunEvent]) -> list[str]:
    return [event.event_id async for event in stream]


async def test_a_stream_is_complete_and_in_order(clients: Clients, caller: Principal) -> None:
    service = DoubleState("1", "2", "3")
    with context.acting_for(caller):
        assert await ids((await clients.state(service)).watch_run(WatchRunRequest(run="r"))) == ["1", "2", "3"]
    assert service.caller == caller
    assert service.closed.is_set()


async def test_an_error_in_a_stream_keeps_its_class_message_and_metadata(clients: Clients) -> None:
    client = await clients.state(DoubleState("1", error=RunEnded("the run is over", run="r")))
    received = []
    with pytest.raises(RunEnded, match="the run is over") as caught:
        async for event in client.watch_run(WatchRunRequest(run="r")):
            received.append(event.event_id)
    assert (received, caught.value.metadata) == (["1"], {"run": "r"})


async def test_an_unexpected_error_in_a_stream_does_not_expose_details(clients: Clients) -> None:
    client = await clients.state(DoubleState("1", error=ValueError("secret")))
    with pytest.raises(InternalError, match=r"unexpected error in state\.WatchRun") as caught:
        await ids(client.watch_run(WatchRunRequest(run="r")))
    assert "secret" not in caught.value.message


async def test_a_client_disconnect_closes_the_stream_in_the_service(clients: Clients) -> None:
    service = DoubleState("1", hangs=True)
    client = await clients.state(service)

    async def watch() -> None:
        await ids(client.watch_run(WatchRunRequest(run="r")))

    watch_task = asyncio.create_task(watch())
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.waiting.wait()
        watch_task.cancel()
        await service.closed.wait()
    assert (await asyncio.gather(watch_task, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_disconnect_of_a_slow_reader_closes_the_stream_in_the_service(clients: Clients) -> None:
    # Much more than the buffers hold, so that the service waits for the client when it disconnects.
    service = DoubleState(*map(str, range(200)), padding=1 << 20)
    client = await clients.state(service)
    stream = client.watch_run(WatchRunRequest(run="r"))
    assert (await anext(stream)).event_id == "0"
    await stream.aclose()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.closed.wait()


async def test_a_stream_ends_at_its_deadline(clients: Clients) -> None:
    service = DoubleState("1", hangs=True)
    client = await clients.state(service)
    received = []
    with pytest.raises(DeadlineExceeded):
        async for event in client.watch_run(WatchRunRequest(run="r"), timeout=DEADLINE_SECONDS):
            received.append(event.event_id)
    assert received == ["1"]
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.closed.wait()


async def test_a_deadline_excludes_the_time_of_the_reader_between_messages(clients: Clients) -> None:
    client = await clients.state(DoubleState("1", "2", hangs=True))
    stream = client.watch_run(WatchRunRequest(run="r"), timeout=DEADLINE_SECONDS)
    assert (await anext(stream)).event_id == "1"
    await asyncio.sleep(DEADLINE_SECONDS + 0.1)  # the reader's own work, past the deadline: it is not interrupted
    with pytest.raises(DeadlineExceeded):
        await ids(stream)


async def test_the_callers_deadline_bounds_a_stream(clients: Clients) -> None:
    client = await clients.state(DoubleState(hangs=True))
    with context.deadline(0.2), pytest.raises(DeadlineExceeded):
        await ids(client.watch_run(WatchRunRequest(run="r")))


class DoubleTemplates(Templates):
    """Returns a template with the given name, raises the error or hangs."""

    def __init__(self, error: DrwError | None = None, hangs: bool = False, name: str = "") -> None:
        self._error = error
        self._hangs = hangs
        self._name = name
        self.time_left: float | None = None
        self.closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def get_template(self, request: GetTemplateRequest, /) -> Template:
        self.time_left = context.time_left()
        try:
            if self._error:
                raise self._error
            if self._hangs:
                self.waiting.set()
                await asyncio.Event().wait()
            return Template(name=self._name)
        finally:
            self.closed.set()


async def test_a_call_ends_at_its_deadline_and_the_service_receives_the_deadline(clients: Clients) -> None:
    service = DoubleTemplates(hangs=True)
    client = await clients.templates(service)
    with pytest.raises(DeadlineExceeded):
        await client.get_template(GetTemplateRequest(name="digest"), timeout=DEADLINE_SECONDS)
    assert service.time_left is not None
    assert 0 < service.time_left <= DEADLINE_SECONDS + 0.01
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.closed.wait()


async def test_after_the_deadline_nothing_is_called(clients: Clients) -> None:
    service = DoubleTemplates()
    client = await clients.templates(service)
    with context.deadline(0.0), pytest.raises(DeadlineExceeded):
        await client.get_template(GetTemplateRequest(name="digest"))
    assert not service.closed.is_set()


async def test_cancelling_a_call_cancels_the_service(clients: Clients) -> None:
    service = DoubleTemplates(hangs=True)
    client = await clients.templates(service)
    call = asyncio.create_task(client.get_template(GetTemplateRequest(name="digest")))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.waiting.wait()
        call.cancel()
        await service.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("message", ["naïve — “quotes”\nand lines", "x" * 100_000, "\u2014" * 9_000])
async def test_error_messages_of_any_length_and_encoding_arrive(clients: Clients, message: str) -> None:
    client = await clients.templates(DoubleTemplates(error=RunEnded(message, value=message)))
    with pytest.raises(RunEnded) as caught:
        await client.get_template(GetTemplateRequest(name="digest"))
    assert caught.value.message[:300] == message[:300]


@pytest.fixture
async def apart(folder: Path) -> AsyncIterator[Clients]:
    clients = Clients("apart", f"{folder}/{next(_numbers)}.sides")
    yield clients
    await clients.close()


async def test_a_service_that_stops_is_unavailable(apart: Clients) -> None:
    service = DoubleTemplates(hangs=True)
    client = await apart.templates(service)
    call = asyncio.create_task(client.get_template(GetTemplateRequest(name="digest")))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await service.waiting.wait()
        assert apart.server is not None
        await apart.server.stop(0)
        with pytest.raises(Unavailable, match="templates service"):
            await call


async def test_a_response_that_is_too_large_is_an_error(apart: Clients) -> None:
    client = await apart.templates(DoubleTemplates(name="x" * (MAX_MESSAGE_BYTES + 1)))
    with pytest.raises(TooLarge, match="templates: .*larger than max"):
        await client.get_template(GetTemplateRequest(name="digest"))


def test_an_unknown_error_class_becomes_the_class_with_the_same_code() -> None:
    info = ErrorInfo(reason="RunIsElsewhere", metadata={"run": "r"}).SerializeToString()
    error = from_wire(grpc.StatusCode[NotFound.code], "not here", info)
    assert (type(error), error.reason, error.metadata) == (NotFound, "RunIsElsewhere", {"run": "r"})
    assert type(from_wire(grpc.StatusCode[InvalidRequest.code], "", None)) is InvalidRequest
    assert type(from_wire(grpc.StatusCode[InternalError.code], "", None)) is InternalError


# To clients, as server-sent events.

HEADERS = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "workflows:read"}


async def watched(service: State, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=http_server.app(rest.routes(service), "test"))
    async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=HEADERS) as client:
        return await client.get("/api/v1/runs/r:watch", headers=headers)


async def test_events_have_ids_and_a_final_event() -> None:
    service = DoubleState("1-0", "2-0")
    response = await watched(service, **{"Last-Event-ID": "7"})
    assert service.received == [WatchRunRequest(run="r", last_event_id="7")]
    assert response.headers["content-type"].startswith("text/event-stream")
    first, second, end, rest_ = response.text.split("\n\n")
    assert first.splitlines()[0] == "id: 1-0"
    assert orjson.loads(second.splitlines()[1].removeprefix("data: "))["event_id"] == "2-0"
    assert (end, rest_) == ("event: done\ndata: {}", "")


async def test_an_error_before_the_first_event_is_an_error_response() -> None:
    response = await watched(DoubleState(error=NotFound("there is no run 'r'")))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_an_error_after_the_first_event_is_the_last_event() -> None:
    response = await watched(DoubleState("1", error=Forbidden("no more")))
    assert response.status_code == 200
    *_, last, _ = response.text.split("\n\n")
    kind, data = last.splitlines()
    assert kind == "event: error"
    assert orjson.loads(data.removeprefix("data: "))["error"]["code"] == "permission_denied"


async def test_an_idle_stream_sends_keep_alives_and_ends_when_the_client_disconnects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_sent_events, "FIRST_EVENT_SECONDS", 0.01)
    monkeypatch.setattr(server_sent_events, "KEEP_ALIVE_SECONDS", 0.01)
    service = DoubleState(hangs=True)
    server = http_server.HttpServer(http_server.app(rest.routes(service), "test"))
    address = await server.start("127.0.0.1:0")
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            async with (
                httpx.AsyncClient(base_url=f"http://{address}", headers=HEADERS) as client,
                client.stream("GET", "/api/v1/runs/r:watch") as response,
            ):
                lines = response.aiter_lines()
                assert [await anext(lines) for _ in range(4)] == [": nothing yet", ""] * 2
            await service.closed.wait()
    finally:
        await server.stop(1)
