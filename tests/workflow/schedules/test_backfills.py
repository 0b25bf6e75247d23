"""Back-fills: bounded concurrency, one run for each occurrence, bounds, permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drw.api.workflow.v1.schedules_pb2 import Backfill
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, TooLarge
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow.schedules.scheduling import START, Scheduling, scheduling

DAY = timedelta(days=1)


@pytest.fixture
async def s(profile: Profile, caller: Principal) -> AsyncIterator[Scheduling]:
    async with scheduling(profile, caller, max_backfill_runs=10) as built:
        yield built


def open_runs(s: Scheduling) -> int:
    return int(s.rows("select count(*) from run where state = 'QUEUED'")[0]["count"])


async def test_a_range_runs_in_order_with_bounded_concurrency(s: Scheduling) -> None:
    await s.create(cron="0 9 * * *")
    backfill = await s.backfill(START - 5 * DAY, START, max_concurrent=2)
    assert (backfill.occurrences, backfill.handled) == (5, 0)
    await s.settle()
    assert open_runs(s) == 2 and s.started() == ["20 09:00", "21 09:00"]
    s.end_runs()
    await s.settle()
    assert open_runs(s) == 2
    s.end_runs()
    await s.settle()
    assert s.started() == [f"{day} 09:00" for day in (20, 21, 22, 23, 24)]
    shown = (await s.get()).backfills[0]
    assert (shown.state, shown.handled, shown.existing) == (Backfill.DONE, 5, 0)
    assert [r["outcome"] for r in s.audit("schedule.backfill.end")] == ["done"]


async def test_market_sessions_are_back_filled_with_their_holidays(s: Scheduling) -> None:
    await s.create(market="XNYS close + 15 min")
    s.clock.moment = datetime(2026, 11, 28, 12, tzinfo=UTC)
    await s.backfill(datetime(2026, 11, 25, tzinfo=UTC), s.clock.moment, max_concurrent=5)
    await s.settle()
    assert s.started()[-2:] == ["25 21:15", "27 18:15"]


async def test_an_occurrence_never_has_two_runs(s: Scheduling) -> None:
    await s.create()
    await s.tick(hours=1)
    s.end_runs()
    for _ in range(2):
        await s.backfill(START - timedelta(hours=1), s.clock.moment, max_concurrent=5)
        await s.settle()
        s.end_runs()
        await s.settle()
    assert sorted(s.started()) == ["24 11:00", "24 12:00", "24 13:00"]
    assert [b.existing for b in (await s.get()).backfills] == [3, 1]


async def test_a_back_fill_does_not_count_as_an_overlap(s: Scheduling) -> None:
    await s.create()
    await s.backfill(START - timedelta(hours=1), START)
    await s.settle()
    await s.tick(hours=1)
    assert s.started()[-1] == "24 13:00"


async def test_repeating_a_range_returns_the_running_back_fill(s: Scheduling) -> None:
    await s.create()
    first = await s.backfill(START - timedelta(hours=2), START)
    assert (await s.backfill(START - timedelta(hours=2), START)).id == first.id
    with pytest.raises(Conflict, match="is running"):
        await s.backfill(START - timedelta(hours=3), START)


async def test_ranges_are_bounded(s: Scheduling) -> None:
    await s.create()
    with pytest.raises(TooLarge, match="more than 10 occurrences"):
        await s.backfill(START - DAY, START)
    with pytest.raises(InvalidRequest, match="in the past"):
        await s.backfill(START, START + DAY)
    with pytest.raises(InvalidRequest, match="no occurrence"):
        await s.backfill(START - timedelta(minutes=30), START - timedelta(minutes=20))
    await s.create("m", market="XNYS close")
    with pytest.raises(InvalidRequest, match="starts on 2024-11-24"):
        await s.backfill(START - 1000 * DAY, START - 999 * DAY, name="m")


async def test_a_key_without_the_scopes_of_the_template_cannot_use_those_of_the_creator(s: Scheduling) -> None:
    await s.create()
    s.caller = replace(s.caller, key="key_weak", scopes=frozenset({"workflows:run"}))
    with pytest.raises(Forbidden, match="'key_weak' lacks"):
        await s.backfill(START - timedelta(hours=2), START)
    with acting_for(s.caller):
        await s.operations.pause("s")
        with pytest.raises(Forbidden, match="'key_weak' lacks"):
            await s.operations.resume("s")


async def test_a_pause_holds_a_back_fill_and_deletion_ends_it(s: Scheduling) -> None:
    await s.create()
    await s.backfill(START - timedelta(hours=2), START)
    with acting_for(s.caller):
        await s.operations.pause("s")
        await s.settle()
        assert s.started() == []
        await s.operations.resume("s")
        await s.settle()
        assert s.started() == ["24 10:00"]
        await s.operations.delete("s")
    s.end_runs()
    await s.settle()
    assert s.started() == ["24 10:00"] and s.rows("select id from backfill") == []
