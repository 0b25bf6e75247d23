"""Cron expressions: daylight saving time, jitter, errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.schedules.cron import Cron, time_zone
from drw.workflow.orchestration.schedules.occurrence import Occurrence

NEW_YORK = "America/New_York"
SPRING, AUTUMN = datetime(2027, 3, 14, 4, 30, tzinfo=UTC), datetime(2027, 11, 7, 3, 30, tzinfo=UTC)
"""Half an hour before midnight in New York, in the nights in which an hour is missing and doubled."""


def times(expression: str, zone: str, after: datetime, limit: int) -> list[str]:
    cron = Cron(expression, ZoneInfo(zone))
    return [o.at.astimezone(cron.zone).strftime("%d %H:%M %Z") for o in cron.after(after, limit)]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # A time in the missing hour moves to its end, once.
        ("30 2 * * *", SPRING, ["14 03:00 EDT", "15 02:30 EDT"]),
        ("0,15 2 * * *", SPRING, ["14 03:00 EDT", "15 02:00 EDT", "15 02:15 EDT"]),
        ("0 2,3 * * *", SPRING, ["14 03:00 EDT", "15 02:00 EDT", "15 03:00 EDT"]),
        # "*" follows elapsed time.
        ("0 * * * *", SPRING, ["14 00:00 EST", "14 01:00 EST", "14 03:00 EDT"]),
        ("*/30 * * * *", SPRING + timedelta(hours=2), ["14 03:00 EDT", "14 03:30 EDT"]),
        # A time in the doubled hour runs the first time only.
        ("30 1 * * *", AUTUMN, ["07 01:30 EDT", "08 01:30 EST"]),
        ("0 * * * *", AUTUMN, ["07 00:00 EDT", "07 01:00 EDT", "07 01:00 EST", "07 02:00 EST"]),
        ("30 2 * * *", AUTUMN, ["07 02:30 EST", "08 02:30 EST"]),
    ],
)
def test_missing_and_doubled_hours(expression: str, after: datetime, expected: list[str]) -> None:
    assert times(expression, NEW_YORK, after, len(expected)) == expected


def test_a_start_between_the_two_doubled_hours_does_not_repeat_a_fixed_time() -> None:
    between = datetime(2027, 11, 7, 6, 10, tzinfo=UTC)  # 01:10 EST
    assert times("30 1 * * *", NEW_YORK, between, 1) == ["08 01:30 EST"]


@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "0 1-3 * * SUN", "15 */2 * * *", "5 2,3 29 2 *", "0 0 L * *"]),
    st.sampled_from([NEW_YORK, "Europe/London", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
)
def test_occurrences_grow_and_do_not_depend_on_where_the_search_starts(
    expression: str, zone: str, after: datetime
) -> None:
    cron = Cron(expression, ZoneInfo(zone))
    found = cron.after(after, 5)
    assert after < found[0].at
    assert all(a.at < b.at for a, b in zip(found, found[1:], strict=False))
    one_by_one: list[Occurrence] = []
    for _ in range(5):
        one_by_one += cron.after(one_by_one[-1].at if one_by_one else after, 1)
    assert one_by_one == found


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("* * * *", "has 4 fields; it must have 5: minute, hour, day of the month, month, day of the week"),
        ("0 0 * * * *", "has 6 fields"),
        ("0 25 * * *", "not valid at column 3: '25' is not a hour"),
        ("0 9 * * MONDAY", "not valid at column 9: 'MONDAY' is not a day of the week"),
        ("0 0 31 2 *", "never matches"),
        ("*/0 * * * *", "not valid at column 1"),
    ],
)
def test_errors_name_the_position(expression: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match="cron expression") as raised:
        Cron(expression, ZoneInfo("UTC"))
    assert message in raised.value.message


@pytest.mark.parametrize(("name", "near"), [("America/Chigaco", "America/Chicago"), ("europe/london", "Europe/London")])
def test_an_unknown_time_zone_is_answered_with_near_names(name: str, near: str) -> None:
    with pytest.raises(InvalidRequest, match=near):
        time_zone(name)


def test_jitter_depends_only_on_schedule_and_occurrence() -> None:
    found = Cron("* * * * *", ZoneInfo("UTC")).after(datetime(2026, 1, 1, tzinfo=UTC), 200)
    delays = [o.start_at("sch_1", 30) - o.at for o in found]
    assert delays == [o.start_at("sch_1", 30) - o.at for o in found]
    assert all(timedelta() <= delay <= timedelta(seconds=30) for delay in delays)
    assert max(delays) - min(delays) > timedelta(seconds=25)
    assert delays != [o.start_at("sch_2", 30) - o.at for o in found]
    assert {o.start_at("sch_1", 0) - o.at for o in found} == {timedelta()}
