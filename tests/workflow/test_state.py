"""The live view of runs: complete and in order whatever becomes of Valkey, and only for the run's own desk."""

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

QUICK = {"appear_seconds": 0.2, "wait_seconds": 0.1, "quiet_seconds": 0.3}


@pytest.fixture
def quick(profile: Profile) -> Profile:
    with redis.Redis.from_url(profile.valkey) as valkey:
        valkey.flushdb()  # the tests share a few databases, and their runs have the same names
    return profile.model_copy(update={"services": {"state": QUICK}})


def event(number, state, step="", run="run_1"):
    return RunEvent(event_id=str(number), run=run, org="acme", desk="research", step=step, state=state)


STORY = [event(1, "queued"), event(2, "started"), event(3, "succeeded", "a/0"), event(4, "succeeded")]


async def seen(client, caller, last="", run="run_1"):
    """All events of a watch, to its end."""
    with acting_for(caller):
        events = [e async for e in client.watch_run(WatchRunRequest(run=run, last_event_id=last))]
    return [e.event_id for e in events if e.event_id]


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_run_that_has_ended_is_shown_from_any_event_on(quick: Any, caller: Principal, how: str) -> None:
    async with hosted(quick, ["state"], how) as host:
        client = host.client(StateClient)
        for each in STORY:
            await client.publish_run_event(each)
            await client.publish_run_event(each)
        assert await seen(client, caller) == ["1", "2", "3", "4"]
        assert await seen(client, caller, last="2") == ["3", "4"]
        assert await seen(client, caller, last="4") == []
        assert await seen(client, caller, last="99") == []


async def test_other_desks_see_nothing(quick: Any, caller: Principal) -> None:
    async with hosted(quick, ["state"]) as host:
        client = host.client(StateClient)
        for each in STORY:
            await client.publish_run_event(each)
        for other in (replace(caller, desk="rates"), replace(caller, org="other"), replace(caller, desk="rese:arch")):
            with pytest.raises(NotFound, match="there is no run 'run_1'"):
                await seen(client, other)


async def test_a_watcher_who_comes_first_sees_the_run_begin_and_end(quick: Any, caller: Principal) -> None:
    slow = quick.model_copy(update={"services": {"state": QUICK | {"appear_seconds": 30}}})
    async with hosted(slow, ["state"]) as host:
        client = host.client(StateClient)
        watching = asyncio.create_task(seen(client, caller))
        for each in STORY:
            await client.publish_run_event(each)
        assert await asyncio.wait_for(watching, 30) == ["1", "2", "3", "4"]


async def test_a_quiet_stream_says_that_it_is_alive(quick: Any, caller: Principal) -> None:
    async with hosted(quick, ["state"]) as host:
        client = host.client(StateClient)
        await client.publish_run_event(STORY[0])
        with acting_for(caller):
            stream = client.watch_run(WatchRunRequest(run="run_1"))
            assert (await anext(stream)).state == "queued"
            alive = await asyncio.wait_for(anext(stream), 30)
            assert (alive.state, alive.event_id) == ("waiting", "")
            await stream.aclose()


async def test_what_valkey_forgets_is_shown_all_the_same(quick: Any, caller: Principal) -> None:
    async with hosted(quick, ["state"]) as host:
        client = host.client(StateClient)
        for each in STORY[:2]:
            await client.publish_run_event(each)
        with acting_for(caller), redis.Redis.from_url(quick.valkey) as valkey:
            stream = client.watch_run(WatchRunRequest(run="run_1"))
            assert [(await anext(stream)).event_id for _ in range(2)] == ["1", "2"]
            valkey.flushdb()
            await client.publish_run_event(STORY[2])  # finds the stream gone, and makes it again
            assert (await asyncio.wait_for(anext(stream), 30)).event_id == "3"
            valkey.flushdb()
            await client.publish_run_event(STORY[3])
            assert (await asyncio.wait_for(anext(stream), 30)).event_id == "4"
            valkey.flushdb()
        assert await seen(client, caller) == ["1", "2", "3", "4"]


async def test_an_event_that_overtakes_another_is_sent_again_later(quick: Any, caller: Principal) -> None:
    async with hosted(quick, ["state"]) as host:
        client = host.client(StateClient)
        await client.publish_run_event(STORY[0])
        with pytest.raises(Unavailable, match="the event before 3 of 'run_1' is not here yet"):
            await client.publish_run_event(STORY[2])
        for each in STORY[1:]:
            await client.publish_run_event(each)
        assert await seen(client, caller) == ["1", "2", "3", "4"]


async def test_a_run_that_has_ended_does_not_stay_in_valkey(quick: Any, caller: Principal) -> None:
    async with hosted(quick, ["state"]) as host:
        client = host.client(StateClient)
        with redis.Redis.from_url(quick.valkey) as valkey:
            for each in STORY[:3]:
                await client.publish_run_event(each)
            (key,) = valkey.keys("drw:run:*")
            assert key == b"drw:run:acme:research:run_1"
            assert valkey.ttl(key) == -1
            await client.publish_run_event(STORY[3])
            assert 0 < valkey.ttl(key) <= 24 * 3600


async def test_without_valkey_nothing_hangs_and_nothing_is_lost(quick: Any, caller: Principal, folder: Path) -> None:
    with running_valkey(folder / "gone") as url:
        profile = quick.model_copy(update={"valkey": url})
        async with hosted(profile, ["state"]) as host:
            client = host.client(StateClient)
            for each in STORY[:3]:
                await client.publish_run_event(each)
    async with hosted(profile, ["state"]) as host:
        client = host.client(StateClient)
        (status,) = (await host.status()).services
        assert status.state == ServiceStatus.DEGRADED
        with pytest.raises(Unavailable, match="Valkey does not answer"):
            await seen(client, caller)
        with pytest.raises(Unavailable, match="Valkey does not answer"):
            await client.publish_run_event(STORY[3])
    async with hosted(quick, ["state"]) as host:  # another, empty Valkey
        client = host.client(StateClient)
        await client.publish_run_event(STORY[3])
        assert await seen(client, caller) == ["1", "2", "3", "4"]


async def test_over_http_the_events_have_ids_and_a_client_goes_on_where_it_was(quick: Any) -> None:
    headers = {"x-drw-key": "k", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": "workflows:read"}
    async with hosted(quick, ["state"]) as host:
        for each in STORY:
            await host.client(StateClient).publish_run_event(each)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=host.app()), base_url="http://drw") as web:
            answer = await web.get("/api/v1/runs/run_1:watch", headers=headers | {"last-event-id": "2"})
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert [line for line in answer.text.splitlines() if line.startswith("id:")] == ["id: 3", "id: 4"]
            assert answer.text.endswith("event: done\ndata: {}\n\n")
            answer = await web.get("/api/v1/runs/run_2:watch", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_run_inside_a_wall_is_as_one_that_has_never_been(quick: Any, caller: Principal) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a", "credit"}))
    async with hosted(quick, ["state"], "strict") as host:
        client = host.client(StateClient)
        for each in STORY:
            each = RunEvent.FromString(each.SerializeToString())
            each.walls.append("m-and-a")
            await client.publish_run_event(each)
        with redis.Redis.from_url(quick.valkey) as valkey:
            for forgotten in (False, True):
                if forgotten:
                    valkey.flushdb()  # it comes back from the history, for those who may see it
                for who in (caller, replace(caller, walls=frozenset({"credit"}))):
                    with pytest.raises(NotFound, match="there is no run 'run_1'"):
                        await seen(client, who)
                assert await seen(client, inside) == ["1", "2", "3", "4"]
