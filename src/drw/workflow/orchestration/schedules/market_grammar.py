"""Parser of market times, as in "XNYS close + 15 min", "every XNYS half day 5 min before close", "CME session open".

    time     = ["every"] CALENDAR [days] ( event [sign duration] | duration relation event )
    days     = "session" | "day" | "half day" | "full day"
    event    = "open" | "close" | "break start" | "break end"
    sign     = "+" | "-"
    relation = "before" | "after"
    duration = number unit, repeated, as in "1 h 30 min"

Words are not case-sensitive.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NoReturn

from drw.kernel.errors import InvalidRequest

MAX_OFFSET = timedelta(hours=24)
UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
}
DAYS = ("session", "day", "half day", "full day")
EVENTS = ("open", "close", "break start", "break end")

Days = Literal["session", "half day", "full day"]
Event = Literal["open", "close", "break start", "break end"]


@dataclass(frozen=True, slots=True)
class MarketTime:
    """An event of the sessions of a calendar, with an offset."""

    calendar: str
    days: Days
    event: Event
    offset: timedelta


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    column: int


def parse(text: str, calendars: Collection[str]) -> MarketTime:
    """Parse a market time; `calendars` are the valid names.

    Raises:
        InvalidRequest: it is not valid; the message has the column and the nearest names.
    """
    return _Parser(text, calendars).parse()


class _Parser:
    def __init__(self, text: str, calendars: Collection[str]) -> None:
        self._text = text
        self._calendars = {name.lower(): name for name in calendars}
        self._tokens = [_Token(m[0], m.start() + 1) for m in re.finditer(r"\d+|[A-Za-z_/][\w/]*|\S", text)]
        if text.strip().startswith(("24/5", "24/7")):  # the only calendars whose names start with a digit
            self._tokens = [_Token(text.split()[0], 1), *(t for t in self._tokens if t.column > 4)]
        self._position = 0

    def parse(self) -> MarketTime:
        self._skip("every")
        calendar = self._calendar()
        days = self._days()
        offset, event = self._before_or_after() if self._word().isdigit() else self._plus_or_minus()
        if self._word():
            self._fail("the end of the text")
        if abs(offset) > MAX_OFFSET:
            raise InvalidRequest(f"the market time {self._text!r} is more than 24 h from its event", param="market")
        return MarketTime(calendar, days, event, offset)

    def _calendar(self) -> str:
        name = self._calendars.get(self._word())
        if name is None:
            self._fail("the code of an exchange, such as XNYS", self._calendars)
        self._position += 1
        return name

    def _days(self) -> Days:
        for first, days in (("half", "half day"), ("full", "full day")):
            if self._skip(first):
                if not self._skip("day", "days"):
                    self._fail("'day'", ("day",))
                return "half day" if days == "half day" else "full day"
        self._skip("session", "sessions", "day")
        return "session"

    def _before_or_after(self) -> tuple[timedelta, Event]:
        offset = self._duration()
        if self._skip("before"):
            return -offset, self._event()
        if self._skip("after"):
            return offset, self._event()
        return self._fail("'before' or 'after'", ("before", "after"))

    def _plus_or_minus(self) -> tuple[timedelta, Event]:
        event = self._event()
        if self._skip("+"):
            return self._duration(), event
        if self._skip("-", "\N{MINUS SIGN}"):
            return -self._duration(), event
        return timedelta(), event

    def _event(self) -> Event:
        if self._skip("open"):
            return "open"
        if self._skip("close"):
            return "close"
        if self._skip("break"):
            if self._skip("start"):
                return "break start"
            if self._skip("end"):
                return "break end"
            self._fail("'start' or 'end'", ("start", "end"))
        return self._fail("'open', 'close', 'break start' or 'break end'", ("open", "close", "break", *DAYS))

    def _duration(self) -> timedelta:
        seconds = 0
        while not seconds or self._word().isdigit():
            if not (number := self._word()).isdigit() or len(number) > 6:
                self._fail("a number, as in '15 min'")
            self._position += 1
            if (unit := UNITS.get(self._word())) is None:
                self._fail("'s', 'min' or 'h'", UNITS)
            self._position += 1
            seconds += int(number) * unit
            if not seconds:
                break
        return timedelta(seconds=seconds)

    def _word(self) -> str:
        """Return the current token in lower case; empty at the end."""
        return self._tokens[self._position].text.lower() if self._position < len(self._tokens) else ""

    def _skip(self, *words: str) -> bool:
        if self._word() not in words or not self._word():
            return False
        self._position += 1
        return True

    def _fail(self, expected: str, names: Collection[str] = ()) -> NoReturn:
        if self._position < len(self._tokens):
            token = self._tokens[self._position]
            found, column = repr(token.text[:40]), token.column
        else:
            found, column = "the end of the text", len(self._text) + 1
        near = difflib.get_close_matches(self._word(), list(names), 3, 0.5)
        shown = [self._calendars.get(name, name) for name in near]
        hint = f"; did you mean {' or '.join(map(repr, shown))}?" if shown else ""
        raise InvalidRequest(
            f"the market time {self._text!r} is not valid at column {column}: {found}, expected {expected}{hint}",
            param="market",
        )
