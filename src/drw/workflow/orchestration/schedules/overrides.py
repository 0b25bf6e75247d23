"""The override file: an operator's changes to calendars, and freeze windows without runs.

[[session]]                 # closed, or with other times, or an additional session
calendar = "XNYS"
date = 2026-12-24
closed = true

[[session]]
calendar = "CMES"
date = 2026-12-31
open = 2026-12-30T17:00:00-06:00
close = 2026-12-31T12:15:00-06:00
half_day = true

[[freeze]]
from = 2026-12-18T00:00:00Z
to = 2027-01-04T00:00:00Z
reason = "year-end freeze"
calendars = ["XNYS"]        # default: all schedules, also those of cron
org = "acme"                # default: all orgs
desk = "research"           # default: all desks
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from drw.kernel.errors import ConfigError
from drw.kernel.runtime.settings import explain
from drw.workflow.orchestration.schedules.sessions import Calendar, Session

MAX_BYTES = 1024 * 1024


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionOverride(_Strict):
    """One session that is closed, or has other times than the calendar says."""

    calendar: str
    date: date
    closed: bool = False
    open: AwareDatetime | None = None
    close: AwareDatetime | None = None
    half_day: bool = False

    @model_validator(mode="after")
    def _check_times(self) -> SessionOverride:
        if self.closed == (self.open is not None) or (self.open is None) != (self.close is None):
            raise ValueError(f"the session {self.calendar} {self.date} needs either closed = true, or open and close")
        if self.open is not None and self.close is not None and self.open >= self.close:
            raise ValueError(f"the session {self.calendar} {self.date} closes before it opens")
        return self


class FreezeWindow(_Strict):
    """A time without runs of schedules."""

    start: AwareDatetime = Field(alias="from")
    end: AwareDatetime = Field(alias="to")
    reason: str = Field(min_length=1, max_length=200)
    calendars: tuple[str, ...] = ()
    org: str = ""
    desk: str = ""

    @model_validator(mode="after")
    def _check_order(self) -> FreezeWindow:
        if self.start >= self.end:
            raise ValueError(f"the freeze window {self.reason!r} ends before it starts")
        return self


class Overrides(_Strict):
    """The content of the file."""

    session: tuple[SessionOverride, ...] = Field(default=(), max_length=10_000)
    freeze: tuple[FreezeWindow, ...] = Field(default=(), max_length=1000)

    def apply(self, calendar: Calendar) -> Calendar:
        """Return a calendar with the changed, removed and added sessions. Added ones can be later than its last day."""
        changes = {change.date: change for change in self.session if change.calendar in calendar.names}
        if not changes:
            return calendar
        sessions = {session.day: session for session in calendar.sessions}
        for day, change in changes.items():
            sessions.pop(day, None)
            if change.open is not None and change.close is not None:
                opened, closed = change.open.astimezone(UTC), change.close.astimezone(UTC)
                sessions[day] = Session(day, opened, closed, half_day=change.half_day)
        last_day = max(calendar.last_day, *changes)
        return replace(calendar, sessions=[sessions[day] for day in sorted(sessions)], last_day=last_day)

    def freeze_of(self, org: str, desk: str, calendars: frozenset[str], at: datetime) -> str:
        """Return the reason of a freeze window that contains this time; empty: none."""
        for window in self.freeze:
            if (
                window.start <= at < window.end
                and window.org in ("", org)
                and window.desk in ("", desk)
                and (not window.calendars or not calendars.isdisjoint(window.calendars))
            ):
                return window.reason
        return ""


class OverrideFile:
    """Reads the file again when it changes. If the new content is invalid, the old one stays in force.

    Raises:
        ConfigError: the file is invalid at the start.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.error_message = ""
        self.version = ""
        """Changes with the content."""
        self._overrides = Overrides()
        self.current()
        if self.error_message:
            raise ConfigError(self.error_message)

    def current(self) -> Overrides:
        """Return the content, read again if the file changed."""
        if self._path is None:
            return self._overrides
        try:
            status = self._path.stat()
            if (stamp := (status.st_mtime_ns, status.st_size)) != self._stamp:
                self._overrides, self.version = _read(self._path)
                self._stamp = stamp
            self.error_message = ""
        except OSError as error:
            self.error_message = f"the override file {self._path} cannot be read: {error.strerror}"
        except ConfigError as error:
            self.error_message = error.message
        return self._overrides


def _read(path: Path) -> tuple[Overrides, str]:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the override file {path} has more than {MAX_BYTES} bytes")
    try:
        fields: dict[str, Any] = tomllib.loads(content.decode())
        return Overrides.model_validate(fields), hashlib.sha256(content).hexdigest()[:16]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the override file {path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(explain(error, str(path))) from error
