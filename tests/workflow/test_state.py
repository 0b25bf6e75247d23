"""The live view of runs: complete and in order when Valkey fails, and restricted to the run's desk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.workflow.v1.state_pb2 import RunEvent, WatchRunRequest
from drw.api.workflow.v1.state_rpc import StateClient
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.hosting import hosted
from support.parts import running_valkey

FAST_SETTINGS = {"lookup_timeout_seconds": 0.2, "poll_timeout_seconds": 0.1, "keepalive_seconds": 0.3}


@pytest.fixture
def fast_profile(profile: Profile) -> Profile:
    with redis.Redis.from_url(profile.valkey) as valkey:
        valkey.flushdb()  # tests share databases and run ids
    return profile.model_copy(update={"services": {"state": FAST_SETTINGS}})


def event(number: int, state: str, step: str = "", run: str = "run_1") -> RunEvent:
    return RunEvent(event_id=str(number), run=run, org="acme", desk="research", step=step, state=state)


EVENTS = [event(1, "queued"), event(2, "started"), event(3, "succeeded", "a/0"), event(4, "succeeded")]


async def watched_ids(client: StateClient, caller: Principal, last: str = "", run: str = "run_1") -> list[str]:
    """Return the ids of all events of a run, until it ends."""
    with acting_for(caller):
        events = [e async for e in client.watch_run(WatchRunRequest(run=run, last_event_id=last))]
    return [e.event_id for e in events if e.event_id]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_an_ended_run_can_be_watched_from_any_event(fast_profile: Any, caller: Principal, how: str) -> None:
    async with hosted(fast_profile, ["state"], how) as host:
        client = host.client(StateClient)
        for published in EVENTS:
            await client.publish_run_event(published)
            await client.publish_run_event(published)
        assert await watched_ids(client, caller) == ["1", "2", "3", "4"]
        assert await watched_ids(client, caller, last="2") == ["3", "4"]
        assert await watched_ids(client, caller, last="4") == []
        assert await watched_ids(client, caller, last="99") == []


async def test_other_desks_cannot_watch_a_run(fast_profile: Any, caller: Principal) -> None:
    async with hosted(fast_profile, ["state"]) as host:
        client = host.client(StateClient)
        for published in EVENTS:
            await client.publish_run_event(published)
        for other in (replace(caller, desk="rates"), replace(caller, org="other"), replace(caller, desk="rese:arch")):
            with pytest.raises(NotFound, match="there is no run 'run_1'"):
                await watched_ids(client, other)


async def test_a_watcher_that_starts_before_the_run_receives_all_events(fast_profile: Any, caller: Principal) -> None:
    slow = fast_profile.model_copy(update={"services": {"state": FAST_SETTINGS | {"lookup_timeout_seconds": 30}}})
    async with hosted(slow, ["state"]) as host:
        client = host.client(StateClient)
        watching = asyncio.create_task(watched_ids(client, caller))
        for published in EVENTS:
            await client.publish_run_event(published)
        assert await asyncio.wait_for(watching, 30) == ["1", "2", "3", "4"]


async def test_a_stream_without_events_sends_keepalives(fast_profile: Any, caller: Principal) -> None:
    async with hosted(fast_profile, ["state"]) as host:
        client = host.client(StateClient)
        await client.publish_run_event(EVENTS[0])
        with acting_for(caller):
            stream = client.watch_run(WatchRunRequest(run="run_1"))
            assert (await anext(stream)).state == "queued"
            keepalive = await asyncio.wait_for(anext(stream), 30)
            assert (keepalive.state, keepalive.event_id) == ("waiting", "")
            await stream.aclose()


async def test_watchers_receive_all_events_after_valkey_loses_its_data(fast_profile: Any, caller: Principal) -> None:
    async with hosted(fast_profile, ["state"]) as host:
        client = host.client(StateClient)
        for published in EVENTS[:2]:
            await client.publish_run_event(published)
        with acting_for(caller), redis.Redis.from_url(fast_profile.valkey) as valkey:
            stream = client.watch_run(WatchRunRequest(run="run_1"))
            assert [(await anext(stream)).event_id for _ in range(2)] == ["1", "2"]
            valkey.flushdb()
            await client.publish_run_event(EVENTS[2])  # restores the missing stream
            assert (await asyncio.wait_for(anext(stream), 30)).event_id == "3"
            valkey.flushdb()
            await client.publish_run_event(EVENTS[3])
            assert (await asyncio.wait_for(anext(stream), 30)).event_id == "4"
            valkey.flushdb()
        assert await watched_ids(client, caller) == ["1", "2", "3", "4"]


async def test_an_event_without_its_predecessor_is_rejected(fast_profile: Any, caller: Principal) -> None:
    async with hosted(fast_profile, ["state"]) as host:
        client = host.client(StateClient)
        await client.publish_run_event(EVENTS[0])
        with pytest.raises(Unavailable, match="the event before 3 of 'run_1' is missing"):
            await client.publish_run_event(EVENTS[2])
        for published in EVENTS[1:]:
            await client.publish_run_event(published)
        assert await watched_ids(client, caller) == ["1", "2", "3", "4"]


async def test_an_ended_run_expires_in_valkey(fast_profile: Any, caller: Principal) -> None:
    async with hosted(fast_profile, ["state"]) as host:
        client = host.client(StateClient)
        with redis.Redis.from_url(fast_profile.valkey) as valkey:
            for published in EVENTS[:3]:
                await client.publish_run_event(published)
            (key,) = valkey.keys("drw:run:*")
            assert key == b"drw:run:acme:research:run_1"
            assert valkey.ttl(key) == -1
            await client.publish_run_event(EVENTS[3])
            assert 0 < valkey.ttl(key) <= 24 * 3600


async def test_no_event_is_lost_while_valkey_is_unavailable(fast_profile: Any, caller: Principal, folder: Path) -> None:
    with running_valkey(folder / "gone") as url:
        profile = fast_profile.model_copy(update={"valkey": url})
        async with hosted(profile, ["state"]) as host:
            client = host.client(StateClient)
            for published in EVENTS[:3]:
                await client.publish_run_event(published)
    async with hosted(profile, ["state"]) as host:
        client = host.client(StateClient)
        (status,) = (await host.status()).services
        assert status.state == ServiceStatus.DEGRADED
        with pytest.raises(Unavailable, match="Valkey does not answer"):
            await watched_ids(client, caller)
        with pytest.raises(Unavailable, match="Valkey does not answer"):
            await client.publish_run_event(EVENTS[3])
    async with hosted(fast_profile, ["state"]) as host:  # another, empty Valkey
        client = host.client(StateClient)
        await client.publish_run_event(EVENTS[3])
        assert await watched_ids(client, caller) == ["1", "2", "3", "4"]


async def test_an_sse_client_resumes_after_its_last_event_id(fast_profile: Any) -> None:
    headers = {"x-drw-key": "k", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "workflows:read"}
    async with hosted(fast_profile, ["state"]) as host:
        for published in EVENTS:
            await host.client(StateClient).publish_run_event(published)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=host.app()), base_url="http://drw"
        ) as http_client:
            response = await http_client.get("/api/v1/runs/run_1:watch", headers=headers | {"last-event-id": "2"})
            assert response.headers["content-type"].startswith("text/event-stream")
            assert [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 3", "id: 4"]
            assert response.text.endswith("event: done\ndata: {}\n\n")
            response = await http_client.get("/api/v1/runs/run_2:watch", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_a_run_inside_a_wall_looks_missing_to_outsiders(fast_profile: Any, caller: Principal) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a", "credit"}))
    async with hosted(fast_profile, ["state"], "strict") as host:
        client = host.client(StateClient)
        for published in EVENTS:
            published = RunEvent.FromString(published.SerializeToString())
            published.walls.append("m-and-a")
            await client.publish_run_event(published)
        with redis.Redis.from_url(fast_profile.valkey) as valkey:
            for flushed in (False, True):
                if flushed:
                    valkey.flushdb()  # the event log restores it, within the walls
                for principal in (caller, replace(caller, walls=frozenset({"credit"}))):
                    with pytest.raises(NotFound, match="there is no run 'run_1'"):
                        await watched_ids(client, principal)
                assert await watched_ids(client, inside) == ["1", "2", "3", "4"]
