"""The scheduler with a clock that tests move: start, overlap, catch-up, pause, freeze, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill, Kills
from drw.api.workflow.v1.schedules_pb2 import Schedule, ScheduleSpec
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from support.gateway.kills import kill
from workflow.schedules.scheduling import Scheduling, scheduling


@pytest.fixture
async def s(profile: Profile, caller: Principal) -> AsyncIterator[Scheduling]:
    async with scheduling(profile, caller) as built:
        yield built


async def test_each_occurrence_starts_one_run_as_the_creator(s: Scheduling) -> None:
    created = await s.create()
    assert [o.local for o in created.preview.occurrences][:2] == ["2026-11-24 13:00 UTC", "2026-11-24 14:00 UTC"]
    await s.settle()
    assert s.started() == []
    for _ in range(3):
        await s.tick(hours=1)
        await s.settle()
        s.end_runs()
    assert s.started() == ["24 13:00", "24 14:00", "24 15:00"]
    run = s.rows("select * from run order by created_at")[0]
    assert (run["org"], run["desk"], run["key"]) == (s.caller.org, s.caller.desk, s.caller.key)
    assert set(run["scopes"]) == s.caller.scopes and run["schedule"] == created.id
    records = s.audit("run.start")
    assert {r["details"]["schedule"] for r in records} == {created.id}
    assert sorted(r["details"]["tick"] for r in records)[0] == "2026-11-24T13:00Z"
    assert {r["actor"] for r in records} == {s.caller.key}
    shown = await s.get()
    assert [t.run for t in shown.ticks] == [r["resource"] for r in sorted(records, key=lambda r: r["at"])][::-1]


async def test_inputs_contain_the_time_of_the_occurrence(s: Scheduling) -> None:
    values = {"files": ["file-0"], "title": "News of ${tick.date} at ${tick.time}"}
    await s.create("m", market="XNYS open - 60 min", inputs=json_message(values), catch_up_seconds=86400)
    await s.create("c", cron="0 23 * * *", time_zone="America/New_York", inputs=json_message(values))
    await s.tick(hours=17)
    titles = [row["inputs"]["title"] for row in s.rows("select inputs from run order by scheduled_for")]
    assert titles == ["News of 2026-11-24 at 2026-11-24T13:30:00Z", "News of 2026-11-24 at 2026-11-25T04:00:00Z"]
    with pytest.raises(InvalidRequest, match=r"\$\{tick.tme\}' is not a variable"):
        await s.create("x", inputs=json_message({"files": ["a"], "title": "${tick.tme}"}))


async def test_jitter_delays_the_start_but_not_the_time_of_the_occurrence(s: Scheduling) -> None:
    schedule = await s.create(jitter_seconds=600)
    delay = s.rows("select due_at - next_at as delay from schedule")[0]["delay"]
    assert timedelta() < delay < timedelta(seconds=600)
    await s.tick(hours=1, seconds=delay.total_seconds() - 1)
    assert s.started() == []
    await s.tick(seconds=2)
    assert s.started() == ["24 13:00"]
    assert schedule.id


@pytest.mark.parametrize(
    ("overlap", "started", "outcomes"),
    [
        (ScheduleSpec.SKIP, ["24 13:00"], ["STARTED", "SKIPPED", "SKIPPED"]),
        (ScheduleSpec.QUEUE_ONE, ["24 13:00"], ["STARTED", "WAITING", "SKIPPED"]),
        (ScheduleSpec.ALLOW, ["24 13:00", "24 14:00", "24 15:00"], ["STARTED"] * 3),
        (ScheduleSpec.CANCEL_RUNNING, ["24 13:00", "24 14:00", "24 15:00"], ["STARTED"] * 3),
    ],
)
async def test_the_overlap_policy(
    s: Scheduling, overlap: ScheduleSpec.Overlap, started: list[str], outcomes: list[str]
) -> None:
    await s.create(overlap=overlap)
    for _ in range(3):
        await s.tick(hours=1)
    assert s.started() == started
    assert await s.outcomes() == outcomes
    states = [row["state"] for row in s.rows("select state from run order by created_at")]
    assert states == (
        ["CANCELLED", "CANCELLED", "QUEUED"] if overlap == ScheduleSpec.CANCEL_RUNNING else ["QUEUED"] * len(started)
    )


async def test_a_waiting_occurrence_starts_when_the_open_run_ends(s: Scheduling) -> None:
    await s.create(overlap=ScheduleSpec.QUEUE_ONE)
    for _ in range(3):
        await s.tick(hours=1)
    s.end_runs()
    await s.settle()
    assert s.started() == ["24 13:00", "24 14:00"]  # the one that waited, and not the skipped one
    s.end_runs()
    await s.settle()
    assert s.started() == ["24 13:00", "24 14:00"]


async def test_occurrences_within_the_catch_up_window_run_after_downtime_and_older_ones_do_not(s: Scheduling) -> None:
    await s.create(overlap=ScheduleSpec.ALLOW, catch_up_seconds=7200)
    await s.tick(hours=10, minutes=30)  # nothing ran from 12:00 to 22:30
    assert s.started() == ["24 21:00", "24 22:00"]
    assert await s.outcomes() == ["MISSED", "STARTED", "STARTED"]
    assert [r["outcome"] for r in s.audit("schedule.tick")] == ["missed"]


async def test_a_window_of_zero_runs_only_on_time(s: Scheduling) -> None:
    await s.create(catch_up_seconds=0)
    await s.tick(hours=1)
    await s.tick(hours=1, seconds=1)
    assert s.started() == ["24 13:00"]


async def test_a_paused_schedule_starts_nothing_and_resumes_with_the_next_occurrence(s: Scheduling) -> None:
    await s.create(overlap=ScheduleSpec.ALLOW, catch_up_seconds=86400)
    with acting_for(s.caller):
        paused = await s.operations.pause("s")
        assert paused.state == Schedule.PAUSED and not paused.HasField("next_at")
        await s.tick(hours=5)
        assert s.started() == []
        resumed = await s.operations.resume("s")
        assert resumed.state == Schedule.ACTIVE
    await s.tick(hours=1)
    assert s.started() == ["24 18:00"]
    assert [len(s.audit(f"schedule.{action}")) for action in ("create", "pause", "resume")] == [1, 1, 1]


async def test_a_change_between_selection_and_start_takes_effect(s: Scheduling) -> None:
    await s.create("paused")
    await s.create("deleted")
    s.clock.advance(hours=1)
    prepare = s.scheduler._preparation.prepare

    async def change_first(schedule: str, *args: object) -> object:
        with acting_for(s.caller):
            for name, change in (("paused", s.operations.pause), ("deleted", s.operations.delete)):
                if s.rows("select id from schedule where name = %s and id = %s", name, schedule):
                    await change(name)
        return await prepare(schedule, *args)  # type: ignore[arg-type]

    s.scheduler._preparation.prepare = change_first  # type: ignore[assignment, method-assign]
    await s.settle()
    assert s.started() == []


async def test_two_schedulers_start_one_run(s: Scheduling) -> None:
    for number in range(20):
        await s.create(f"s{number}")
    s.clock.advance(hours=1)
    await asyncio.gather(*(s.scheduler.step() for _ in range(4)))
    await s.settle()
    assert s.started() == ["24 13:00"] * 20
    assert len(s.audit("run.start")) == 20


async def test_a_freeze_window_prevents_runs(profile: Profile, caller: Principal, tmp_path: Path) -> None:
    file = tmp_path / "overrides.toml"
    file.write_text('[[freeze]]\nfrom = 2026-11-24T13:00:00Z\nto = 2026-11-24T14:00:00Z\nreason = "migration"\n')
    async with scheduling(profile, caller, overrides=file) as s:
        await s.create()
        await s.tick(hours=1)
        await s.tick(hours=1)
        assert s.started() == ["24 14:00"]
        assert (await s.get()).ticks[-1].detail == "migration"


async def test_a_changed_session_moves_its_run_and_never_repeats_it(
    profile: Profile, caller: Principal, tmp_path: Path
) -> None:
    file = tmp_path / "overrides.toml"
    session = '[[session]]\ncalendar = "XNYS"\ndate = 2026-11-24\nopen = 2026-11-24T14:30:00Z\nclose = 2026-11-24T{}Z\n'
    file.write_text("")
    async with scheduling(profile, caller, overrides=file) as s:
        await s.create(market="XNYS close", overlap=ScheduleSpec.ALLOW)
        file.write_text(session.format("18:00:00"))  # the exchange closes early today
        await s.tick(hours=6)
        assert s.started() == ["24 18:00"]
        file.write_text(session.format("20:00:00"))  # and was open for longer than announced
        await s.tick(hours=3)
        assert s.started() == ["24 18:00"]
        assert (await s.get()).ticks[0].detail == "it has a run already"
        await s.tick(hours=25)
        assert s.started() == ["24 18:00", "25 21:00"]


async def test_a_schedule_past_the_end_of_its_calendar_says_so_and_continues_with_new_sessions(
    profile: Profile, caller: Principal, tmp_path: Path
) -> None:
    file = tmp_path / "overrides.toml"
    file.write_text("")
    async with scheduling(profile, caller, overrides=file) as s:
        s.clock.moment = datetime(2026, 12, 31, 5, tzinfo=UTC)  # the data for Bombay ends with 2026
        created = await s.create(market="XBOM close", catch_up_seconds=86400)
        assert "'XBOM' ends on 2026-12-31" in created.preview.warning
        await s.tick(hours=8)
        shown = await s.get()
        assert s.started() == ["31 10:00"] and not shown.HasField("next_at")
        assert "'XBOM' has no such time up to its end on 2026-12-31" in shown.detail
        file.write_text(
            '[[session]]\ncalendar = "BSE"\ndate = 2027-01-04\n'
            "open = 2027-01-04T03:45:00Z\nclose = 2027-01-04T10:00:00Z\n"
        )
        await s.settle()
        shown = await s.get()
        assert shown.next_at.ToDatetime(tzinfo=UTC) == datetime(2027, 1, 4, 10, tzinfo=UTC) and shown.detail == ""


async def test_a_template_that_is_missing_or_wants_other_inputs_refuses_the_occurrence(s: Scheduling) -> None:
    with pytest.raises(NotFound, match="no template 'nothing'"):
        await s.create(template="nothing")
    with pytest.raises(InvalidRequest, match="'x' is not an input"):
        await s.create(inputs=json_message({"x": 1}))
    with pytest.raises(Forbidden, match="lacks"):
        reader = Principal("acme", "research", "key_reader", frozenset({"workflows:run"}))
        await s.create(principal=reader)
    await s.create()
    spec = ScheduleSpec(template="gone", cron="0 * * * *", inputs=json_message({"files": ["a"]}))
    s.rows("update schedule set spec = %s", spec.SerializeToString())
    await s.tick(hours=1)
    await s.tick(hours=1)
    assert s.started() == [] and await s.outcomes() == ["REFUSED", "REFUSED"]
    assert "no template 'gone'" in (await s.get()).ticks[0].detail


async def test_an_unavailable_service_delays_the_occurrence(s: Scheduling) -> None:
    await s.create()
    get_template = s.scheduler._preparation._templates.get_template
    s.scheduler._preparation._templates.get_template = _unavailable  # type: ignore[assignment, method-assign]
    await s.tick(hours=1)
    assert s.started() == [] and await s.outcomes() == []
    s.scheduler._preparation._templates.get_template = get_template  # type: ignore[method-assign]
    await s.tick(seconds=6)
    assert s.started() == ["24 13:00"]


async def _unavailable(*_: object, **__: object) -> object:
    raise Unavailable("templates do not answer")


async def test_an_unexpected_error_of_one_schedule_does_not_block_others(s: Scheduling) -> None:
    await s.create("a")
    await s.create("b")
    first = s.rows("select id from schedule order by due_at, id limit 1")[0]["id"]
    prepare = s.scheduler._preparation.prepare

    async def fail_for_the_first(schedule: str, *args: object) -> object:
        if schedule == first:
            raise RuntimeError("unexpected")
        return await prepare(schedule, *args)  # type: ignore[arg-type]

    s.scheduler._preparation.prepare = fail_for_the_first  # type: ignore[assignment, method-assign]
    await s.tick(hours=1)
    assert s.started() == ["24 13:00"]
    s.scheduler._preparation.prepare = prepare  # type: ignore[method-assign]
    await s.tick(seconds=61)
    assert s.started() == ["24 13:00", "24 13:00"]


@pytest.mark.parametrize(
    "active", [kill("WORKFLOW", "digest"), kill("DESK", "research", "acme"), kill("KEY", "key_test", "acme")]
)
async def test_a_kill_holds_the_occurrence_until_it_is_lifted(s: Scheduling, active: Kill) -> None:
    await s.create()
    s.kills._apply(Kills(kills=[active]))
    await s.tick(hours=1)
    assert s.started() == [] and await s.outcomes() == []
    s.kills._apply(Kills())
    await s.tick(seconds=6)
    assert s.started() == ["24 13:00"]


async def test_bounds(profile: Profile, caller: Principal) -> None:
    async with scheduling(profile, caller, max_schedules=2, min_schedule_interval_seconds=300) as s:
        with pytest.raises(InvalidRequest, match="due again after 60 s; the shortest interval is 300 s"):
            await s.create(cron="* * * * *")
        with pytest.raises(InvalidRequest, match="due again after 60 s"):
            await s.create(cron="0,1 9 * * *")
        with pytest.raises(InvalidRequest, match="jitter_seconds is 601; it can be up to 600"):
            await s.create(cron="*/10 * * * *", jitter_seconds=601)
        await s.create("a")
        await s.create("b")
        with pytest.raises(RateLimited, match="has 2 schedules; at most 2"):
            await s.create("c")


async def test_the_same_name_and_contents_return_the_same_schedule(s: Scheduling) -> None:
    first = await s.create()
    assert (await s.create()).id == first.id
    with pytest.raises(Conflict, match="another schedule 's'"):
        await s.create(cron="30 * * * *")


async def test_the_history_is_bounded(s: Scheduling) -> None:
    await s.create()
    for _ in range(105):
        await s.tick(hours=1)
    numbers = [row["number"] for row in s.rows("select number from schedule_tick order by number")]
    assert numbers == list(range(6, 106))


async def test_a_request_id_of_a_caller_cannot_take_the_place_of_an_occurrence(s: Scheduling) -> None:
    await s.create()
    await s.tick(hours=1)
    request_id = s.rows("select request_id from run")[0]["request_id"]
    assert request_id.startswith(" ")  # which the field rules refuse
