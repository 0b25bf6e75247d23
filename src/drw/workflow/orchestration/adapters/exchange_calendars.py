"""Market calendars of the library exchange-calendars.

The library needs pandas: 46 MB, and over a second to import. Only a process that evaluates a market time imports it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from typing import Any
from zoneinfo import ZoneInfo

from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.schedules.sessions import Calendar, MarketCalendars, Session

DAYS_BACK = 730
DAYS_AHEAD = 730
"""How far calendars reach that are computed from rules. Others end with the last year that the library records."""


class ExchangeCalendars(MarketCalendars):
    """Implement the port."""

    def version(self) -> str:
        """Implement the port."""
        return f"{version('exchange-calendars')} tzdata {version('tzdata')}"

    def names(self) -> Collection[str]:
        """Implement the port."""
        import exchange_calendars

        names: Collection[str] = exchange_calendars.get_calendar_names(include_aliases=True)
        return names

    def calendar(self, name: str, today: date) -> Calendar:
        """Implement the port."""
        import exchange_calendars

        canonical = exchange_calendars.resolve_alias(name)
        first_day, last_day = today - timedelta(days=DAYS_BACK), today + timedelta(days=DAYS_AHEAD)
        try:
            factory = exchange_calendars.calendar_utils._default_calendar_factories[canonical]
            if (bound := factory.bound_max()) is not None:
                last_day = min(last_day, bound.date())
            loaded = exchange_calendars.get_calendar(canonical, start=first_day, end=last_day)
        except (ValueError, KeyError, NotImplementedError, exchange_calendars.errors.CalendarError) as error:
            raise InvalidRequest(
                f"the installed exchange-calendars cannot build the calendar {canonical!r}: {str(error)[:100]}",
                param="market",
            ) from error
        half_days = {stamp.date() for stamp in loaded.early_closes}
        sessions = [_session(row, half_days) for row in loaded.schedule.itertuples()]
        aliases = exchange_calendars.calendar_utils._default_calendar_aliases
        names = frozenset(
            {canonical, *(alias for alias in aliases if exchange_calendars.resolve_alias(alias) == canonical)}
        )
        return Calendar(names, ZoneInfo(str(loaded.tz.key)), sessions, first_day, last_day)


def _session(row: Any, half_days: set[date]) -> Session:
    day = row.Index.date()
    times = [_datetime(value) for value in (row.open, row.close, row.break_start, row.break_end)]
    assert times[0] is not None and times[1] is not None
    return Session(day, times[0], times[1], times[2], times[3], day in half_days)


def _datetime(value: Any) -> datetime | None:
    import pandas

    return None if pandas.isna(value) else value.to_pydatetime().astimezone(UTC)
