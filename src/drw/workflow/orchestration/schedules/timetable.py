"""The timetable: evaluates the times of schedules with calendars, overrides and freeze windows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime

from drw.api.workflow.v1.schedules_pb2 import Occurrence as OccurrenceMessage
from drw.api.workflow.v1.schedules_pb2 import Preview, ScheduleSpec
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration.messages import timestamp
from drw.workflow.orchestration.schedules import market_grammar
from drw.workflow.orchestration.schedules.cron import Cron, time_zone
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Timing, Upcoming
from drw.workflow.orchestration.schedules.overrides import OverrideFile
from drw.workflow.orchestration.schedules.sessions import Calendar, Market, MarketCalendars

PREVIEWED = 10
CHECKED = 100
"""Occurrences whose intervals are checked before a schedule is saved."""
WARNING_DAYS = 90
"""A schedule has a warning when its calendar ends within this number of days."""

Now = Callable[[], datetime]


class Timetable:
    """Evaluates times. `now` is the clock."""

    def __init__(self, calendars: MarketCalendars, overrides: OverrideFile, now: Now) -> None:
        self._calendars = calendars
        self._overrides = overrides
        self._loaded: dict[str, tuple[date, Calendar]] = {}
        self.now = now

    def version(self) -> str:
        """Return the version of calendars, time zones and overrides. If it changes, times may have changed."""
        self._overrides.current()
        return hashlib.sha256(f"{self._calendars.version()}|{self._overrides.version}".encode()).hexdigest()[:16]

    @property
    def error_message(self) -> str:
        """Why the override file is not in force as it is; empty: it is."""
        self._overrides.current()
        return self._overrides.error_message

    async def timing(self, spec: ScheduleSpec) -> Timing:
        """Return the times of a schedule.

        Raises:
            InvalidRequest: they are not valid.
        """
        if bool(spec.cron) == bool(spec.market):
            raise InvalidRequest("a schedule has either cron or market, as in market: 'XNYS close + 15 min'")
        zone = time_zone(spec.time_zone) if spec.time_zone else None
        if spec.cron:
            return Cron(spec.cron, zone or time_zone("UTC"))
        names = await asyncio.to_thread(self._calendars.names)
        time = market_grammar.parse(spec.market, names)
        return Market(time, self._overrides.current().apply(await self._calendar(time.calendar)), zone)

    async def preview(self, spec: ScheduleSpec, owner: Principal, min_interval_seconds: int) -> Preview:
        """Return the next occurrences of a schedule.

        Raises:
            InvalidRequest: the times are not valid, too close to each other, or all past the end of the calendar.
        """
        timing = await self.timing(spec)
        upcoming = timing.after(self.now(), CHECKED)
        if not upcoming:
            raise InvalidRequest(self._no_next(timing), param="market")
        gaps = [(later.at - earlier.at).total_seconds() for earlier, later in zip(upcoming, upcoming[1:], strict=False)]
        if gaps and min(gaps) < min_interval_seconds:
            raise InvalidRequest(
                f"the schedule is due again after {min(gaps):g} s; the shortest interval is {min_interval_seconds} s",
                param="cron",
            )
        if gaps and spec.jitter_seconds > min(gaps):
            raise InvalidRequest(
                f"jitter_seconds is {spec.jitter_seconds}; it can be up to {min(gaps):g}, the shortest interval",
                param="jitter_seconds",
            )
        return self.describe(timing, owner, upcoming[:PREVIEWED])

    def describe(self, timing: Timing, owner: Principal, upcoming: list[Occurrence]) -> Preview:
        """Return occurrences as a message, with a warning if the calendar ends soon."""
        return Preview(
            occurrences=[
                OccurrenceMessage(
                    at=timestamp(occurrence.at),
                    local=occurrence.at.astimezone(timing.zone).strftime("%Y-%m-%d %H:%M %Z"),
                    session=occurrence.session.isoformat() if occurrence.session else "",
                    frozen=self.frozen(timing, owner, occurrence),
                )
                for occurrence in upcoming
            ],
            time_zone=str(timing.zone),
            warning=self._warning(timing, len(upcoming)),
        )

    def frozen(self, timing: Timing, owner: Principal, occurrence: Occurrence) -> str:
        """Return the reason of the freeze window of an occurrence; empty: none."""
        return self._overrides.current().freeze_of(owner.org, owner.desk, timing.calendar_names, occurrence.at)

    def upcoming(self, timing: Timing, moment: datetime) -> Upcoming:
        """Return the first occurrence after a moment."""
        found = timing.after(moment, 1)
        return Upcoming(found[0]) if found else Upcoming(None, self._no_next(timing))

    def _no_next(self, timing: Timing) -> str:
        if (days := timing.days()) is None:
            return "the cron expression does not match any more"
        return (
            f"the calendar {timing.calendar!r} has no such time up to its end on {days[1]}; nothing starts after that:"
            " install a newer exchange-calendars, or add the sessions to the override file"
        )

    async def days_left(self, calendar: str) -> int:
        """Return the number of days to the end of a calendar."""
        loaded = self._overrides.current().apply(await self._calendar(calendar))
        return (loaded.last_day - self.now().date()).days

    def _warning(self, timing: Timing, found: int) -> str:
        days = timing.days()
        if days is None or ((days[1] - self.now().date()).days >= WARNING_DAYS and found >= PREVIEWED):
            return ""
        return (
            f"the calendar {timing.calendar!r} ends on {days[1]}; nothing starts after that:"
            " install a newer exchange-calendars, or add the sessions to the override file"
        )

    async def _calendar(self, name: str) -> Calendar:
        today = self.now().astimezone(UTC).date()
        cached = self._loaded.get(name)
        if cached is None or cached[0] != today:
            cached = self._loaded[name] = today, await asyncio.to_thread(self._calendars.calendar, name, today)
        return cached[1]
