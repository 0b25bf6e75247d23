"""Trading sessions of exchanges: the port of calendars, and the times of a market schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from drw.workflow.orchestration.schedules.market_grammar import MAX_OFFSET, MarketTime
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Timing


@dataclass(frozen=True, slots=True)
class Session:
    """One trading session. Times are in UTC."""

    day: date
    open: datetime
    close: datetime
    break_start: datetime | None = None
    break_end: datetime | None = None
    half_day: bool = False
    """It closes earlier than usual."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """The sessions of an exchange up to a last day."""

    names: frozenset[str]
    """Its code and aliases."""
    zone: ZoneInfo
    sessions: Sequence[Session]
    """By day."""
    first_day: date
    last_day: date
    """Later sessions are unknown."""


class MarketCalendars(ABC):
    """Published calendars of exchanges. Calls block for up to seconds: call them in a thread."""

    @abstractmethod
    def version(self) -> str:
        """Return the version of the data, without loading it."""

    @abstractmethod
    def names(self) -> Collection[str]:
        """Return the codes of exchanges and their aliases."""

    @abstractmethod
    def calendar(self, name: str, today: date) -> Calendar:
        """Return a calendar from about two years before today.

        Raises:
            InvalidRequest: the data has no such calendar, or cannot build it.
        """


class Market(Timing):
    """The times of an event of the sessions of a calendar."""

    def __init__(self, time: MarketTime, calendar: Calendar, zone: ZoneInfo | None = None) -> None:
        self.zone = zone or calendar.zone
        self.calendar = time.calendar
        self.calendar_names = calendar.names
        self._time = time
        self._calendar = calendar
        self._days = [session.day for session in calendar.sessions]

    def after(self, moment: datetime, limit: int) -> list[Occurrence]:
        """Implement the port."""
        # A session can open on the evening before its day, and an offset can move it by a day.
        first_day = (moment.astimezone(UTC) - MAX_OFFSET - timedelta(days=2)).date()
        found = []
        for session in self._calendar.sessions[bisect_right(self._days, first_day) :]:
            at = self._at(session)
            if at is not None and at > moment:
                found.append(Occurrence(session.day.isoformat(), at, session.day))
            if len(found) == limit:
                break
        return found

    def days(self) -> tuple[date, date]:
        """Implement the port."""
        return self._calendar.first_day, self._calendar.last_day

    def _at(self, session: Session) -> datetime | None:
        if self._time.days != "session" and session.half_day != (self._time.days == "half day"):
            return None
        event = {
            "open": session.open,
            "close": session.close,
            "break start": session.break_start,
            "break end": session.break_end,
        }[self._time.event]
        return None if event is None else event + self._time.offset
