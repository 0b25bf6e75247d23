"""Market times: grammar, real calendars, overrides, freeze windows, the end of a calendar."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.kernel.errors import ConfigError, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration.adapters.exchange_calendars import ExchangeCalendars
from drw.workflow.orchestration.schedules.market_grammar import MarketTime, parse
from drw.workflow.orchestration.schedules.overrides import OverrideFile
from drw.workflow.orchestration.schedules.sessions import Calendar, MarketCalendars, Session
from drw.workflow.orchestration.schedules.timetable import Timetable

NAMES = ("XNYS", "XNAS", "CME", "XLON", "XHKG", "24/7")
THANKSGIVING = datetime(2026, 11, 24, 12, tzinfo=UTC)


def minutes(number: int) -> timedelta:
    return timedelta(minutes=number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("XNYS close + 15 min", MarketTime("XNYS", "session", "close", minutes(15))),
        ("XNYS close+15min", MarketTime("XNYS", "session", "close", minutes(15))),
        ("every XNYS half day 5 min before close", MarketTime("XNYS", "half day", "close", minutes(-5))),
        ("CME session open", MarketTime("CME", "session", "open", minutes(0))),
        ("xnys OPEN - 1 h 30 minutes", MarketTime("XNYS", "session", "open", minutes(-90))),
        ("every XLON full day 2 hours after open", MarketTime("XLON", "full day", "open", minutes(120))),
        ("XHKG break end", MarketTime("XHKG", "session", "break end", minutes(0))),
        ("24/7 open", MarketTime("24/7", "session", "open", minutes(0))),
    ],
)
def test_the_grammar(text: str, expected: MarketTime) -> None:
    assert parse(text, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("XNYZ close", "column 1: 'XNYZ', expected the code of an exchange, such as XNYS; did you mean 'XNYS'"),
        ("every half day 5 min before close", "column 7: 'half', expected the code of an exchange"),
        (
            "XNYS cloze + 5 min",
            "column 6: 'cloze', expected 'open', 'close', 'break start' or 'break end'; did you mean",
        ),
        ("XNYS close + 5", "column 15: the end of the text, expected 's', 'min' or 'h'"),
        ("XNYS close + five min", "column 14: 'five', expected a number"),
        ("XNYS close + 5 mims", "column 16: 'mims', expected 's', 'min' or 'h'; did you mean 'mins'"),
        ("XNYS close + 5 min please", "column 20: 'please', expected the end of the text"),
        ("XNYS half close", "column 11: 'close', expected 'day'"),
        ("XNYS 5 min close", "column 12: 'close', expected 'before' or 'after'"),
        ("XNYS close + 25 h", "more than 24 h"),
        ("", "column 1: the end of the text"),
    ],
)
def test_errors_name_the_column_and_near_names(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match="market time") as raised:
        parse(text, NAMES)
    assert message in raised.value.message


def timetable(now: datetime, overrides: Path | None = None, calendars: MarketCalendars | None = None) -> Timetable:
    return Timetable(calendars or ExchangeCalendars(), OverrideFile(overrides), lambda: now)


async def preview(table: Timetable, market: str, caller: Principal) -> list[str]:
    result = await table.preview(ScheduleSpec(template="digest", market=market), caller, 60)
    return [f"{o.local}{f' ({o.frozen})' if o.frozen else ''}" for o in result.occurrences]


async def test_a_holiday_has_no_session_and_a_half_day_closes_early(caller: Principal) -> None:
    found = await preview(timetable(THANKSGIVING), "XNYS close + 15 min", caller)
    assert found[:4] == [
        "2026-11-24 16:15 EST",
        "2026-11-25 16:15 EST",
        "2026-11-27 13:15 EST",  # Thursday is Thanksgiving
        "2026-11-30 16:15 EST",
    ]
    assert len(found) == 10


async def test_half_days_and_full_days_are_separate(caller: Principal) -> None:
    table = timetable(THANKSGIVING)
    half_days = await preview(table, "every XNYS half day 5 min before close", caller)
    assert half_days[:2] == ["2026-11-27 12:55 EST", "2026-12-24 12:55 EST"]
    full_days = await preview(table, "every XNYS full day 5 min before close", caller)
    assert "2026-11-27 15:55 EST" not in full_days and full_days[2] == "2026-11-30 15:55 EST"


async def test_a_session_that_opens_on_the_evening_before_has_the_date_of_its_day(caller: Principal) -> None:
    spec = ScheduleSpec(template="digest", market="CME session open")
    first = (await timetable(THANKSGIVING).preview(spec, caller, 60)).occurrences[0]
    assert (first.local, first.session) == ("2026-11-24 17:00 CST", "2026-11-25")


async def test_daylight_saving_of_the_exchange_moves_the_utc_time(caller: Principal) -> None:
    before = datetime(2027, 3, 12, 12, tzinfo=UTC)
    spec = ScheduleSpec(template="digest", market="XNYS open", time_zone="Europe/London")
    found = (await timetable(before).preview(spec, caller, 60)).occurrences
    assert [o.at.ToDatetime().hour for o in found[:2]] == [14, 13]
    assert [o.local for o in found[:2]] == ["2027-03-12 14:30 GMT", "2027-03-15 13:30 GMT"]


OVERRIDES = """
[[session]]
calendar = "NYSE"
date = 2026-11-25
closed = true

[[session]]
calendar = "XNYS"
date = 2026-11-28
open = 2026-11-28T10:00:00-05:00
close = 2026-11-28T12:00:00-05:00
half_day = true

[[freeze]]
from = 2026-11-30T00:00:00Z
to = 2026-12-02T00:00:00Z
reason = "month end"
calendars = ["XNYS"]
"""


async def test_the_override_file_removes_adds_and_freezes_sessions(tmp_path: Path, caller: Principal) -> None:
    file = tmp_path / "overrides.toml"
    file.write_text(OVERRIDES)
    found = await preview(timetable(THANKSGIVING, file), "NYSE close", caller)
    assert found[:6] == [
        "2026-11-24 16:00 EST",
        "2026-11-27 13:00 EST",
        "2026-11-28 12:00 EST",
        "2026-11-30 16:00 EST (month end)",
        "2026-12-01 16:00 EST (month end)",
        "2026-12-02 16:00 EST",
    ]
    assert "2026-11-28 12:00 EST" in await preview(timetable(THANKSGIVING, file), "XNYS half day close", caller)
    assert not any("month end" in o for o in await preview(timetable(THANKSGIVING, file), "XLON close", caller))


async def test_a_freeze_window_of_another_desk_has_no_effect(tmp_path: Path, caller: Principal) -> None:
    file = tmp_path / "overrides.toml"
    window = '[[freeze]]\nfrom = 2026-11-01T00:00:00Z\nto = 2026-12-31T00:00:00Z\nreason = "audit"\norg = "acme"\n'
    for desk, frozen in (("research", True), ("trading", False)):
        file.write_text(f'{window}desk = "{desk}"\n')
        found = await preview(timetable(THANKSGIVING, file), "XNYS close", caller)
        assert all(o.endswith("(audit)") == frozen for o in found)


async def test_an_edit_of_the_override_file_applies_at_once_and_an_invalid_one_is_reported(
    tmp_path: Path, caller: Principal
) -> None:
    file = tmp_path / "overrides.toml"
    file.write_text("")
    table = timetable(THANKSGIVING, file)
    assert (await preview(table, "XNYS close", caller))[1] == "2026-11-25 16:00 EST"
    first = table.version()
    file.write_text(OVERRIDES)
    assert (await preview(table, "XNYS close", caller))[1] == "2026-11-27 13:00 EST"
    assert table.version() != first and table.error_message == ""
    file.write_text('[[session]]\ncalendar = "XNYS"\ndate = 2026-11-25\n')
    assert "needs either closed = true, or open and close" in table.error_message
    assert (await preview(table, "XNYS close", caller))[1] == "2026-11-27 13:00 EST"  # the last valid content
    with pytest.raises(ConfigError, match="needs either closed"):
        OverrideFile(file)


def test_the_override_file_of_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/use/schedules.md").read_text()
    file = tmp_path / "overrides.toml"
    file.write_text("[[session]]" + page.partition("```\n[[session]]")[2].partition("```")[0])
    content = OverrideFile(file).current()
    assert (len(content.session), len(content.freeze)) == (2, 1)


def test_the_market_times_of_the_documentation_are_valid() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/use/schedules.md").read_text()
    block = page.partition("```\nXNYS close + 15 min")[2].partition("```")[0]
    texts = ["XNYS close + 15 min", *block.split("\n")[1:-1]]
    assert len(texts) == 6 and all(parse(text, NAMES) for text in texts)


class DoubleCalendars(MarketCalendars):
    """One exchange with a session on each weekday up to its end."""

    def __init__(self, last_day: date) -> None:
        self.last_day = last_day

    def version(self) -> str:
        return str(self.last_day)

    def names(self) -> tuple[str, ...]:
        return ("XDBL",)

    def calendar(self, name: str, today: date) -> Calendar:
        days = [today + timedelta(days=n) for n in range((self.last_day - today).days + 1)]
        opening = [datetime(d.year, d.month, d.day, 9, tzinfo=UTC) for d in days if d.weekday() < 5]
        sessions = [Session(o.date(), o, o + timedelta(hours=7)) for o in opening]
        return Calendar(frozenset({"XDBL"}), ZoneInfo("UTC"), sessions, today, self.last_day)


@pytest.mark.parametrize(("days", "warned"), [(89, True), (90, False)])
async def test_a_calendar_that_ends_within_90_days_is_a_warning(caller: Principal, days: int, warned: bool) -> None:
    last_day = THANKSGIVING.date() + timedelta(days=days)
    spec = ScheduleSpec(template="digest", market="XDBL close")
    result = await timetable(THANKSGIVING, calendars=DoubleCalendars(last_day)).preview(spec, caller, 60)
    assert (f"ends on {last_day}; nothing starts after that" in result.warning) == warned


async def test_times_past_the_end_of_a_calendar_are_refused(caller: Principal) -> None:
    calendars = DoubleCalendars(date(2026, 11, 25))
    found = await preview(timetable(THANKSGIVING, calendars=calendars), "XDBL close", caller)
    assert found == ["2026-11-24 16:00 UTC", "2026-11-25 16:00 UTC"]  # and never a guess
    late = datetime(2026, 11, 25, 17, tzinfo=UTC)
    with pytest.raises(InvalidRequest, match="no such time up to its end on 2026-11-25; nothing starts after that"):
        await preview(timetable(late, calendars=calendars), "XDBL close", caller)


async def test_recorded_calendars_end_with_their_last_recorded_year(caller: Principal) -> None:
    calendars = ExchangeCalendars()
    bombay = calendars.calendar("XBOM", date(2026, 11, 24))
    assert bombay.last_day == date(2026, 12, 31) and bombay.sessions[-1].day <= bombay.last_day
    spec = ScheduleSpec(template="digest", market="XBOM close")
    assert "ends on 2026-12-31" in (await timetable(THANKSGIVING).preview(spec, caller, 60)).warning
    assert calendars.calendar("XNYS", date(2026, 11, 24)).last_day == date(2028, 11, 23)


async def test_an_override_extends_a_calendar_past_its_end(tmp_path: Path, caller: Principal) -> None:
    file = tmp_path / "overrides.toml"
    file.write_text(
        '[[session]]\ncalendar = "XDBL"\ndate = 2026-12-01\nopen = 2026-12-01T09:00:00Z\nclose = 2026-12-01T10:00:00Z\n'
    )
    table = timetable(THANKSGIVING, file, DoubleCalendars(date(2026, 11, 25)))
    assert (await preview(table, "XDBL close", caller))[-1] == "2026-12-01 10:00 UTC"


def test_pandas_is_imported_only_when_a_market_time_is_evaluated() -> None:
    code = """
import asyncio, sys
from datetime import UTC, datetime
import drw.workflow.orchestration.service
from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.workflow.orchestration.adapters.exchange_calendars import ExchangeCalendars
from drw.workflow.orchestration.schedules.overrides import OverrideFile
from drw.workflow.orchestration.schedules.timetable import Timetable
table = Timetable(ExchangeCalendars(), OverrideFile(None), lambda: datetime(2026, 11, 24, tzinfo=UTC))
table.version()
asyncio.run(table.timing(ScheduleSpec(cron="0 9 * * *")))
print("pandas" in sys.modules)
asyncio.run(table.timing(ScheduleSpec(market="XNYS close")))
print("pandas" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.split() == ["False", "True"]
