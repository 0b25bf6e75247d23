"""Streams between services and to clients: every end of them, and what the other side hears of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from drw.kernel.rpc import context, http_server, rest, server_sent_events
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.transport import MAX_MESSAGE_BYTES, Channels, LocalTransport, Server, StrictTransport
from drw.kernel.rpc.wire_errors import from_wire

_numbers = itertools.count()
ENOUGH = 2.0
"""A deadline that passes in a test, and that the first answer of a service comes within."""
SECONDS = 30  # far more than any of this takes


class RunIsOver(Conflict):
    """A subclass that both sides know."""


class DoubleState(State):
    """Sends what it is told to, and notes how the stream ended."""

    def __init__(self, *ids: str, then: BaseException | None = None, hang: bool = False, padding: int = 0) -> None:
        self._ids = ids
        self._then = then
        self._hang = hang
        self._padding = "x" * padding
        self.seen: list[WatchRunRequest] = []
        self.caller: context.Principal | None = None
        self.time_left: float | None = None
        self.closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def watch_run(self, request: WatchRunRequest, /) -> AsyncIterator[RunEvent]:
        self.seen.append(request)
        self.caller, self.time_left = context.caller_or_none(), context.time_left()
        try:
            for event_id in self._ids:
                yield RunEvent(event_id=event_id, detail=self._padding)
            if self._then:
                raise self._then
            if self._hang:
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            self.closed.set()


class Sides:
    """A client of a service, in this process or over gRPC."""

    def __init__(self, how: str, folder: str) -> None:
        self._how = how
        self._address = f"unix:{folder}"
        self._channels = Channels()
        self.server: Server | None = None

    async def state(self, servicer: State) -> StateClient:
        if self._how != "apart":
            local = LocalTransport(lambda: servicer, "state")
            return StateClient(local if self._how == "together" else StrictTransport(local))
        return self._channels.client(StateClient, await self._serve(servicer))

    async def templates(self, servicer: Templates) -> TemplatesClient:
        if self._how != "apart":
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
async def sides(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Sides]:
    made = Sides(request.param, f"{folder}/{next(_numbers)}.sides")
    yield made
    await made.close()


async def ids(stream) -> list[str]:
    return [event.event_id async for event in stream]


async def test_a_stream_comes_whole_and_in_order(sides: Sides, caller: Principal) -> None:
    service = DoubleState("1", "2", "3")
    with context.acting_for(caller):
        assert await ids((await sides.state(service)).watch_run(WatchRunRequest(run="r"))) == ["1", "2", "3"]
    assert service.caller == caller
    assert service.closed.is_set()


async def test_an_error_in_mid_stream_is_the_same_class_with_its_message_and_metadata(sides: Sides) -> None:
    client = await sides.state(DoubleState("1", then=RunIsOver("the run is over", run="r")))
    seen = []
    with pytest.raises(RunIsOver, match="the run is over") as caught:
        async for event in client.watch_run(WatchRunRequest()):
            seen.append(event.event_id)
    assert (seen, caught.value.metadata) == (["1"], {"run": "r"})


async def test_an_unexpected_error_in_mid_stream_tells_nothing_of_itself(sides: Sides) -> None:
    client = await sides.state(DoubleState("1", then=ValueError("secret")))
    with pytest.raises(InternalError, match=r"unexpected error in state\.WatchRun") as caught:
        await ids(client.watch_run(WatchRunRequest()))
    assert "secret" not in caught.value.message


async def test_a_client_disconnect_closes_the_stream_in_the_service(sides: Sides) -> None:
    service = DoubleState("1", hang=True)
    client = await sides.state(service)

    async def watch() -> None:
        await ids(client.watch_run(WatchRunRequest()))

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(SECONDS):
        await service.waiting.wait()
        watching.cancel()
        await service.closed.wait()
    assert (await asyncio.gather(watching, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_disconnect_of_a_slow_reader_closes_the_stream_in_the_service(sides: Sides) -> None:
    # Far more than fits between them, so that the service waits for the client when that goes away.
    service = DoubleState(*map(str, range(200)), padding=1 << 20)
    client = await sides.state(service)
    stream = client.watch_run(WatchRunRequest())
    assert (await anext(stream)).event_id == "0"
    await stream.aclose()
    async with asyncio.timeout(SECONDS):
        await service.closed.wait()


async def test_a_stream_ends_at_its_deadline(sides: Sides) -> None:
    service = DoubleState("1", hang=True)
    client = await sides.state(service)
    seen = []
    with pytest.raises(DeadlineExceeded):
        async for event in client.watch_run(WatchRunRequest(), timeout=ENOUGH):
            seen.append(event.event_id)
    assert seen == ["1"]
    async with asyncio.timeout(SECONDS):
        await service.closed.wait()


async def test_a_deadline_excludes_the_time_of_the_reader_between_messages(sides: Sides) -> None:
    client = await sides.state(DoubleState("1", "2", hang=True))
    stream = client.watch_run(WatchRunRequest(), timeout=ENOUGH)
    assert (await anext(stream)).event_id == "1"
    await asyncio.sleep(ENOUGH + 0.1)  # the reader's own work, past the deadline: it is not interrupted
    with pytest.raises(DeadlineExceeded):
        await ids(stream)


async def test_the_callers_deadline_bounds_a_stream(sides: Sides) -> None:
    client = await sides.state(DoubleState(hang=True))
    with context.deadline(0.2), pytest.raises(DeadlineExceeded):
        await ids(client.watch_run(WatchRunRequest()))


class DoubleTemplates(Templates):
    """Answers with what it is told to."""

    def __init__(self, then: DrwError | None = None, hang: bool = False, name: str = "") -> None:
        self._then = then
        self._hang = hang
        self._name = name
        self.time_left: float | None = None
        self.closed = asyncio.Event()
        self.waiting = asyncio.Event()

    async def get_template(self, request: GetTemplateRequest, /) -> Template:
        self.time_left = context.time_left()
        try:
            if self._then:
                raise self._then
            if self._hang:
                self.waiting.set()
                await asyncio.Event().wait()
            return Template(name=self._name)
        finally:
            self.closed.set()


async def test_a_call_ends_at_its_deadline_and_the_service_knows_it(sides: Sides) -> None:
    service = DoubleTemplates(hang=True)
    client = await sides.templates(service)
    with pytest.raises(DeadlineExceeded):
        await client.get_template(GetTemplateRequest(), timeout=ENOUGH)
    assert service.time_left is not None
    assert 0 < service.time_left <= ENOUGH + 0.01
    async with asyncio.timeout(SECONDS):
        await service.closed.wait()


async def test_without_time_left_nothing_is_called(sides: Sides) -> None:
    service = DoubleTemplates()
    client = await sides.templates(service)
    with context.deadline(0.0), pytest.raises(DeadlineExceeded):
        await client.get_template(GetTemplateRequest())
    assert not service.closed.is_set()


async def test_a_caller_that_is_cancelled_cancels_the_service(sides: Sides) -> None:
    service = DoubleTemplates(hang=True)
    client = await sides.templates(service)
    asking = asyncio.create_task(client.get_template(GetTemplateRequest()))
    async with asyncio.timeout(SECONDS):
        await service.waiting.wait()
        asking.cancel()
        await service.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("message", ["naïve — “quotes”\nand lines", "x" * 100_000, "\u2014" * 9_000])
async def test_any_message_of_an_error_arrives(sides: Sides, message: Any) -> None:
    client = await sides.templates(DoubleTemplates(then=RunIsOver(message, value=message)))
    with pytest.raises(RunIsOver) as caught:
        await client.get_template(GetTemplateRequest())
    assert caught.value.message[:300] == message[:300]


@pytest.fixture
async def apart(folder: Path) -> AsyncIterator[Sides]:
    made = Sides("apart", f"{folder}/{next(_numbers)}.sides")
    yield made
    await made.close()


async def test_a_service_that_stops_is_unavailable(apart: Sides) -> None:
    service = DoubleTemplates(hang=True)
    client = await apart.templates(service)
    asking = asyncio.create_task(client.get_template(GetTemplateRequest()))
    async with asyncio.timeout(SECONDS):
        await service.waiting.wait()
        assert apart.server is not None
        await apart.server.stop(0)
        with pytest.raises(Unavailable, match="templates service"):
            await asking


async def test_a_response_that_is_too_large_is_an_error(apart: Sides) -> None:
    client = await apart.templates(DoubleTemplates(name="x" * (MAX_MESSAGE_BYTES + 1)))
    with pytest.raises(TooLarge, match="templates: .*larger than max"):
        await client.get_template(GetTemplateRequest())


def test_an_unknown_class_becomes_the_nearest_one() -> None:
    info = ErrorInfo(reason="RunIsElsewhere", metadata={"run": "r"}).SerializeToString()
    error = from_wire(grpc.StatusCode[NotFound.code], "not here", info)
    assert (type(error), error.reason, error.metadata) == (NotFound, "RunIsElsewhere", {"run": "r"})
    assert type(from_wire(grpc.StatusCode[InvalidRequest.code], "", None)) is InvalidRequest
    assert type(from_wire(grpc.StatusCode[InternalError.code], "", None)) is InternalError


# To clients, as server-sent events.

KEY = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "workflows:read"}


async def watched(service: State, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=http_server.app(rest.routes(service), "test"))
    async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=KEY) as client:
        return await client.get("/api/v1/runs/r:watch", headers=headers)


async def test_events_have_ids_and_an_end() -> None:
    service = DoubleState("1-0", "2-0")
    answer = await watched(service, **{"Last-Event-ID": "0-7"})
    assert service.seen == [WatchRunRequest(run="r", last_event_id="0-7")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, second, end, rest_ = answer.text.split("\n\n")
    assert first.splitlines()[0] == "id: 1-0"
    assert orjson.loads(second.splitlines()[1].removeprefix("data: "))["event_id"] == "2-0"
    assert (end, rest_) == ("event: done\ndata: {}", "")


async def test_an_error_before_the_first_event_is_an_ordinary_answer() -> None:
    answer = await watched(DoubleState(then=NotFound("there is no run 'r'")))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_an_error_after_the_first_event_is_the_last_event() -> None:
    answer = await watched(DoubleState("1", then=Forbidden("no more")))
    assert answer.status_code == 200
    *_, last, _ = answer.text.split("\n\n")
    kind, data = last.splitlines()
    assert kind == "event: error"
    assert orjson.loads(data.removeprefix("data: "))["error"]["code"] == "permission_denied"


async def test_a_quiet_stream_gives_signs_of_life_and_ends_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_sent_events, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(server_sent_events, "QUIET_SECONDS", 0.01)
    service = DoubleState(hang=True)
    server = http_server.HttpServer(http_server.app(rest.routes(service), "test"))
    address = await server.start("127.0.0.1:0")
    try:
        async with asyncio.timeout(SECONDS):
            async with (
                httpx.AsyncClient(base_url=f"http://{address}", headers=KEY) as client,
                client.stream("GET", "/api/v1/runs/r:watch") as answer,
            ):
                lines = answer.aiter_lines()
                assert [await anext(lines) for _ in range(4)] == [": nothing yet", ""] * 2
            await service.closed.wait()
    finally:
        await server.stop(1)
