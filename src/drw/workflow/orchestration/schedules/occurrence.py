"""Occurrences: the times at which a schedule is due."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time of a schedule."""

    key: str
    """Identifies it within its schedule: the session of an exchange, so that a changed closing time does not start a
    second run of the session; otherwise the time."""
    at: datetime
    """In UTC."""
    session: date | None = None

    def run_id(self, schedule: str) -> str:
        """Return the id of the run that this occurrence of a schedule starts."""
        return f"run_{hashlib.sha256(f'{schedule}|{self.key}'.encode()).hexdigest()[:32]}"

    def start_at(self, schedule: str, jitter_seconds: int) -> datetime:
        """Return the time of its run: up to `jitter_seconds` later, always the same for a schedule and occurrence."""
        if not jitter_seconds:
            return self.at
        number = int.from_bytes(hashlib.sha256(f"jitter|{schedule}|{self.key}".encode()).digest()[:8])
        return self.at + timedelta(milliseconds=number % (jitter_seconds * 1000 + 1))


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The next occurrence, or why there is none."""

    first: Occurrence | None
    detail: str = ""


class Timing(ABC):
    """The times of a schedule."""

    zone: ZoneInfo
    """The time zone in which they are shown."""
    calendar: str = ""
    """The calendar of a market schedule."""
    calendar_names: frozenset[str] = frozenset()
    """Its code and aliases."""

    @abstractmethod
    def after(self, moment: datetime, limit: int) -> list[Occurrence]:
        """Return the first occurrences later than a moment, at most `limit`; fewer if there are no more."""

    def days(self) -> tuple[date, date] | None:
        """Return the first and the last day of the calendar; None: the times have no end."""
        return None
