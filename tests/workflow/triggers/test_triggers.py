"""Triggers: events that match start runs with inputs from the event, once each and within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from drw.api.gateway.v1.request_router_pb2 import Kills
from drw.api.workflow.v1.triggers_pb2 import Trigger
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.gateway.kills import kill
from workflow.triggers.triggering import Triggering, ended, indexed, triggering


@pytest.fixture
async def t(profile: Profile, caller: Principal) -> AsyncIterator[Triggering]:
    async with triggering(profile, caller) as built:
        yield built


async def test_an_event_starts_a_run_with_inputs_from_the_event(t: Triggering) -> None:
    trigger = await t.create()
    event = indexed(t.caller, "file-7", "vs_9")
    await t.receive(event)
    (run,) = t.rows("select * from run")
    assert run["inputs"]["files"] == ["file-7"] and run["inputs"]["title"] == "vs_9"
    assert (run["trigger"], run["event"], run["event_depth"]) == (trigger.id, event.id, 1)
    assert (run["org"], run["desk"], run["key"]) == (t.caller.org, t.caller.desk, t.caller.key)
    shown = await t.get()
    assert shown.waiting == 0 and shown.firings[0].run == run["id"] and shown.firings[0].subject == event.subject
    (record,) = t.audit("run.start")
    assert record["details"]["trigger"] == trigger.id and record["details"]["event"] == event.id


async def test_an_event_that_arrives_again_starts_nothing(t: Triggering) -> None:
    await t.create()
    event = indexed(t.caller)
    await t.receive(event, event)
    await t.receive(event)
    t.rows("delete from bus.inbox")  # its retention has passed
    await t.receive(event)
    t.rows("delete from bus.inbox")
    t.rows("delete from trigger_firing")  # and that of the firings
    await t.receive(event)
    assert t.started() == [event.id] and len(t.audit("run.start")) == 1
    assert (await t.get()).waiting == 0


async def test_each_trigger_starts_its_own_run(t: Triggering) -> None:
    for name in ("a", "b"):
        await t.create(name)
    event = indexed(t.caller)
    await t.receive(event)
    assert t.started() == [event.id, event.id]
    assert len({row["trigger"] for row in t.rows("select trigger from run")}) == 2


async def test_a_filter_and_a_collection_select_events(t: Triggering) -> None:
    await t.create("failed", event="run.ended", filter="event.data.state == 'failed'", inputs={"files": ["f"]})
    await t.create("upload", event="", collection="vs_1")
    failed, upload = ended(t.caller, state="failed"), indexed(t.caller, collection="vs_1")
    await t.receive(ended(t.caller, state="succeeded"), failed, indexed(t.caller, collection="vs_2"), upload)
    assert sorted(t.started()) == sorted([failed.id, upload.id])
    assert (await t.get("upload")).spec.event == "document.indexed"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"event": "run.finished"}, r"'run.finished' is not a type of events; there are: alias.moved"),
        ({"event": ""}, r"'' is not a type of events"),
        ({"event": "run.ended", "collection": "vs_1"}, r"only 'document.indexed' events have a collection"),
        ({"filter": "event.data.size > 1"}, r"undefined field|undeclared reference"),
        ({"filter": "event.data.pages"}, r"of the type int; it must be bool"),
        ({"filter": "event.data.file =="}, r"[Ss]yntax error"),
        ({"filter": "[1].exists(x, x == 1)"}, r"a filter cannot iterate"),
        ({"filter": "inputs.x == 1"}, r"undeclared reference"),
        ({"inputs": {"files": ["${event.data.fle}"]}}, r"undefined field|undeclared reference"),
        ({"inputs": {"files": ["${event.data.file}"], "x": 1}}, r"'x' is not an input of the template 'digest'"),
        ({"inputs": {}}, r"the input 'files' of the template 'digest' is missing"),
        ({"inputs": ["a"]}, r"must be an object of inputs"),
        ({"max_runs_per_minute": 61}, r"max_runs_per_minute is 61; at most 60"),
    ],
)
async def test_a_wrong_trigger_is_refused_when_it_is_created(t: Triggering, spec: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await t.create(**spec)
    assert t.rows("select * from run_trigger") == []


async def test_a_template_that_does_not_exist_is_refused(t: Triggering) -> None:
    with pytest.raises(NotFound):
        await t.create(template="nothing")


async def test_the_same_trigger_is_created_once(t: Triggering) -> None:
    first = await t.create()
    assert (await t.create()).id == first.id
    with pytest.raises(Conflict, match="another trigger 't'"):
        await t.create(filter="event.data.unchanged")
    assert len(t.audit("trigger.create")) == 1


async def test_events_before_its_creation_and_during_a_pause_start_nothing(t: Triggering) -> None:
    await t.create()
    old = indexed(t.caller)
    await t.receive(indexed(t.caller, time=old.time - timedelta(minutes=1)))
    with acting_for(t.caller):
        assert (await t.operations.pause("t")).state == Trigger.PAUSED
        assert (await t.operations.pause("t")).state == Trigger.PAUSED
        await t.receive(indexed(t.caller))
        assert (await t.operations.resume("t")).state == Trigger.ACTIVE
    after = indexed(t.caller)
    await t.receive(after)
    assert t.started() == [after.id]
    assert [len(t.audit(f"trigger.{verb}")) for verb in ("pause", "resume")] == [1, 1]


async def test_events_that_wait_at_a_pause_start_their_runs_after_it(t: Triggering) -> None:
    await t.create(max_runs_per_minute=1)
    events = [indexed(t.caller) for _ in range(2)]
    await t.receive(*events)
    with acting_for(t.caller):
        await t.operations.pause("t")
    t.rows("update run set created_at = created_at - interval '2 minutes'")
    t.due()
    await t.settle()
    assert t.started() == [events[0].id]
    with acting_for(t.caller):
        await t.operations.resume("t")
    await t.settle()
    assert t.started() == [event.id for event in events]


async def test_a_trigger_starts_a_bounded_number_of_runs_in_a_minute(t: Triggering) -> None:
    await t.create(max_runs_per_minute=2)
    events = [indexed(t.caller) for _ in range(5)]
    await t.receive(*events)
    assert len(t.started()) == 2
    shown = await t.get()
    assert (shown.waiting, shown.detail) == (3, "it starts at most 2 runs in a minute")
    t.due()
    await t.settle()
    assert len(t.started()) == 2, "the minute has not passed"
    for _ in range(2):
        t.rows("update run set created_at = created_at - interval '1 minute'")
        t.due()
        await t.settle()
    assert t.started() == [event.id for event in events], "none is lost, and their order is kept"
    assert (await t.get()).detail == ""


async def test_a_full_backlog_drops_events_and_records_them(profile: Profile, caller: Principal) -> None:
    async with triggering(profile, caller, max_trigger_backlog=2) as t:
        await t.create(max_runs_per_minute=1)
        await t.receive(*(indexed(caller) for _ in range(4)))
        assert await t.outcomes() == ["STARTED", "PENDING", "DROPPED", "DROPPED"]
        assert [record["outcome"] for record in t.audit("trigger.fire")] == ["dropped", "dropped"]


async def test_a_desk_has_a_maximum_of_triggers(profile: Profile, caller: Principal) -> None:
    async with triggering(profile, caller, max_triggers=2) as t:
        for name in ("a", "b"):
            await t.create(name)
        with pytest.raises(RateLimited, match="has 2 triggers; at most 2"):
            await t.create("c")


async def test_a_full_desk_waits_without_delaying_others(profile: Profile, caller: Principal) -> None:
    other = Principal("acme", "trading", "key_other", caller.scopes)
    async with triggering(profile, caller, max_open_runs=1) as t:
        for name in ("a", "b"):
            await t.create(name)
        await t.create(principal=other)
        await t.receive(indexed(caller), indexed(other))
        assert sorted(row["desk"] for row in t.rows("select desk from run")) == ["research", "trading"]
        waiting = next(trigger for trigger in (await t.get("a"), await t.get("b")) if trigger.waiting)
        assert "has 1 runs that have not ended" in waiting.detail
        t.end_runs()
        t.due()
        await t.settle()
        assert len(t.started()) == 3


async def test_runs_that_start_each_other_end_at_the_maximum_depth(profile: Profile, caller: Principal) -> None:
    async with triggering(profile, caller, max_event_depth=3) as t:
        await t.create(event="run.ended", inputs={"files": ["f"]})
        run = "run_by_hand"
        for _ in range(6):
            await t.receive(ended(caller, run))
            newest = t.rows("select id, event_depth from run order by created_at desc limit 1")[0]
            run = newest["id"]
        assert [row["event_depth"] for row in t.rows("select event_depth from run order by created_at")] == [1, 2, 3]
        assert (await t.outcomes())[-1] == "REFUSED"
        assert "3 runs led to the event" in (await t.get()).firings[0].detail
        await t.receive(indexed(caller, depth=3))  # the event of another service, which carries the depth
        assert len(t.started()) == 3


async def test_a_filter_that_fails_for_an_event_refuses_only_this_event(t: Triggering) -> None:
    await t.create("poison", filter="1 / event.data.pages > 0")
    await t.create("sound")
    event = indexed(t.caller)  # no pages
    await t.receive(event)
    assert await t.outcomes("poison") == ["REFUSED"] and await t.outcomes("sound") == ["STARTED"]
    assert t.rows("select * from bus.parked") == []


async def test_inputs_that_do_not_fit_the_template_refuse_the_event(t: Triggering) -> None:
    await t.create(inputs={"files": "${event.data.file}"})
    await t.receive(indexed(t.caller))
    assert await t.outcomes() == ["REFUSED"]
    assert "must be a list of file ids" in (await t.get()).firings[0].detail


async def test_a_kill_holds_the_event_until_it_is_lifted(t: Triggering) -> None:
    await t.create()
    t.kills._apply(Kills(kills=[kill("WORKFLOW", "digest")]))
    event = indexed(t.caller)
    await t.receive(event)
    assert t.started() == [] and (await t.get()).waiting == 1
    t.kills._apply(Kills())
    t.due()
    await t.settle()
    assert t.started() == [event.id]


async def test_old_firings_are_deleted(t: Triggering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.workflow.orchestration.triggers.journal.KEPT_FIRINGS", 3)
    await t.create()
    await t.receive(*(indexed(t.caller) for _ in range(6)))
    assert len(t.started()) == 6
    assert len(t.rows("select * from trigger_firing")) == 3


async def test_a_deleted_trigger_starts_nothing(t: Triggering) -> None:
    await t.create()
    with acting_for(t.caller):
        await t.operations.delete("t")
        with pytest.raises(NotFound):
            await t.operations.get("t")
    await t.receive(indexed(t.caller))
    assert t.started() == [] and len(t.audit("trigger.delete")) == 1


async def test_the_inputs_are_stored_as_written(t: Triggering) -> None:
    assert orjson.loads((await t.create()).spec.inputs.text)["files"] == ["${event.data.file}"]


async def test_a_caller_needs_the_scopes_of_the_event_and_of_the_template(t: Triggering) -> None:
    for scope in ("events:read", "documents:read", "models:invoke"):
        weak = Principal("acme", "research", "key_weak", t.caller.scopes - {scope})
        with pytest.raises(Forbidden, match=scope):
            await t.create(principal=weak)
