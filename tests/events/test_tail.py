"""The stream of events for operators: through the outbox, the relay, the bus and the inbox, for the own tenant only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from drw.api.bus.v1.events_pb2 import Event, TailEventsRequest
from drw.api.bus.v1.events_rpc import EventsClient
from drw.api.events.v1.gateway_pb2 import KillActivated
from drw.api.events.v1.workflows_pb2 import RunEnded
from drw.events.publisher import Publisher
from drw.kernel.errors import InvalidRequest, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.kernel.tenancy import PLATFORM, Owner
from events.brokers import Broker
from support.hosting import hosted

SECONDS = 60.0
SCOPES = frozenset({"events:read", "workflows:read", "platform:kill"})
DESK = Principal("acme", "research", "key_1", SCOPES)
RUN, KILL = "com.drw.ai.run.ended.v1", "com.drw.ai.kill.activated.v1"


@pytest.fixture(params=["together", "apart"])
async def host(request: pytest.FixtureRequest, profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, ["events"], request.param) as running:
        yield running


async def run_ended(tables: Database, run: str, owner: Owner, walls: tuple[str, ...] = ()) -> None:
    async with tables.transaction() as connection:
        event = RunEnded(run=run, template="digest", state="succeeded")
        await Publisher("orchestration").publish(connection, event, f"run/{run}", owner, walls=walls)


async def tail(host: Host, count: int, principal: Principal = DESK, after: str = "0", *types: str) -> list[Event]:
    """Return the next events; every one of them."""
    events: list[Event] = []
    with acting_for(principal):
        request = TailEventsRequest(last_event_id=after, types=types)
        async with asyncio.timeout(SECONDS), aclosing(host.client(EventsClient).tail_events(request)) as stream:
            async for event in stream:
                if event.type:
                    events.append(event)
                if len(events) == count:
                    break
    return events


async def test_events_arrive_with_their_data(host: Host, tables: Database) -> None:
    await run_ended(tables, "1", Owner("acme", "research"))
    (event,) = await tail(host, 1)
    assert (event.type, event.source, event.subject) == (RUN, "//drw/orchestration", "run/1")
    assert (event.org, event.desk, event.actor) == ("acme", "research", "platform")
    assert json_value(event.data)["template"] == "digest"


async def test_a_stream_continues_after_the_last_event(host: Host, tables: Database) -> None:
    for number in range(5):
        await run_ended(tables, str(number), Owner("acme", "research"))
    events = await tail(host, 5)
    assert len({event.id for event in events}) == 5
    rest = await tail(host, 3, DESK, events[1].event_id)
    assert [event.id for event in rest] == [event.id for event in events[2:]]


async def test_other_tenants_and_outsiders_of_a_wall_see_nothing(host: Host, tables: Database) -> None:
    await run_ended(tables, "other-org", Owner("rival", "research"))
    await run_ended(tables, "other-desk", Owner("acme", "rates"))
    await run_ended(tables, "walled", Owner("acme", "research"), ("m-and-a",))
    await run_ended(tables, "org", Owner("acme"))
    await run_ended(tables, "platform", PLATFORM)
    await run_ended(tables, "own", Owner("acme", "research"))

    async def seen(principal: Principal, count: int) -> list[str]:
        return sorted(event.subject.removeprefix("run/") for event in await tail(host, count, principal))

    await tail(host, 6, Principal("x", "y", "k", SCOPES | {"platform:admin"}, frozenset({"m-and-a"})))  # all arrived
    await run_ended(tables, "last", PLATFORM)
    assert await seen(DESK, 4) == ["last", "org", "own", "platform"]
    inside = Principal("acme", "research", "key_1", SCOPES, frozenset({"m-and-a"}))
    assert await seen(inside, 5) == ["last", "org", "own", "platform", "walled"]
    admin = Principal("acme", "risk", "key_2", SCOPES | {"org:admin"})
    assert await seen(admin, 5) == ["last", "org", "other-desk", "own", "platform"]
    assert await seen(Principal("nobody", "x", "key_3", SCOPES), 2) == ["last", "platform"]


async def test_a_stream_can_have_only_some_types(host: Host, tables: Database) -> None:
    await run_ended(tables, "1", Owner("acme", "research"))
    async with tables.transaction() as connection:
        kill = KillActivated(kill="kill_1", subject="DESK", name="research")
        await Publisher("request_router").publish(connection, kill, "kill/kill_1", Owner("acme"))
    assert [event.type for event in await tail(host, 1, DESK, "0", KILL)] == [KILL]
    with pytest.raises(InvalidRequest, match="'com.drw.ai.run.v9' is not a type of events"):
        await tail(host, 1, DESK, "0", "com.drw.ai.run.v9")


async def test_an_event_needs_the_scope_of_its_resource(host: Host, tables: Database) -> None:
    async with tables.transaction() as connection:
        kill = KillActivated(kill="kill_1", subject="DESK", name="rates")
        await Publisher("request_router").publish(connection, kill, "kill/kill_1", Owner("acme"))
    await tail(host, 1)
    await run_ended(tables, "1", Owner("acme", "research"))
    reader = Principal("acme", "research", "key_1", frozenset({"events:read", "workflows:read"}))
    assert [event.type for event in await tail(host, 1, reader)] == [RUN]


async def test_an_org_has_a_maximum_of_streams(profile: Profile, tables: Database) -> None:
    settings = {"events": {"max_tails_per_org": 1, "keepalive_seconds": 0.05}}
    async with hosted(profile.model_copy(update={"services": profile.services | settings}), ["events"]) as host:
        with acting_for(DESK):
            async with aclosing(host.client(EventsClient).tail_events(TailEventsRequest())) as stream:
                assert not (await anext(stream)).type, "a keep-alive"
                with pytest.raises(RateLimited, match="'acme' has 1 open streams"):
                    await tail(host, 1)
        await run_ended(tables, "1", Owner("acme", "research"))
        assert len(await tail(host, 1)) == 1


@pytest.mark.parametrize("broker", ["kafka-mock", "pubsub-double"], indirect=True)
async def test_the_platform_runs_on_another_broker(broker: Broker, tables: Database) -> None:
    async with hosted(broker.profile, ["events"]) as host:
        await run_ended(tables, "1", Owner("acme", "research"))
        assert [event.subject for event in await tail(host, 1)] == ["run/1"]


async def test_a_stream_ends_and_the_next_one_misses_nothing(profile: Profile, tables: Database) -> None:
    settings = {"events": {"max_tail_seconds": 0.05}}
    async with hosted(profile.model_copy(update={"services": profile.services | settings}), ["events"]) as host:
        with acting_for(DESK):
            messages = [message async for message in host.client(EventsClient).tail_events(TailEventsRequest())]
        assert {message.type for message in messages} == {""}
        await run_ended(tables, "between", Owner("acme", "research"))
        position = messages[-1].event_id
        events: list[Event] = []
        async with asyncio.timeout(SECONDS):
            while not events:
                with acting_for(DESK):
                    request = TailEventsRequest(last_event_id=position)
                    events = [e async for e in host.client(EventsClient).tail_events(request) if e.type]
        assert [event.subject for event in events] == ["run/between"]
