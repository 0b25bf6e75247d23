"""Cron expressions with a time zone, with the rules of Debian's cron for daylight saving time.

An expression with a fixed minute and hour ("30 2 * * *") runs once a day: in the night without 02:30 at 03:00, in the
night with two 01:30 at the first one. An expression with "*" in the minute or the hour ("0 * * * *") follows elapsed
time: it skips the missing hour and runs in both of the doubled hour.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Timing

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Cron(Timing):
    """The times of a cron expression.

    Raises:
        InvalidRequest: the expression is not valid, or never matches.
    """

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        _check(expression)
        self._expression = expression
        self.zone = zone
        if not self.after(_ANY_TIME, 1):
            raise InvalidRequest(f"the cron expression {expression!r} never matches", param="cron")

    def after(self, moment: datetime, limit: int) -> list[Occurrence]:
        """Implement the port."""
        times: list[datetime] = []
        last = moment.astimezone(UTC)
        for local in CronSim(self._expression, moment.astimezone(self.zone)):
            at = local.astimezone(UTC)
            if at > last:  # times in a missing hour all move to its end
                times.append(at)
                last = at
            if len(times) == limit:
                break
        return [Occurrence(at.strftime("%Y-%m-%dT%H:%MZ"), at) for at in islice(times, limit)]


def time_zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        InvalidRequest: there is none; the message has the nearest names.
    """
    names = available_timezones()
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; as in 'America/Chicago'"
        raise InvalidRequest(f"there is no time zone {name!r}{hint}", param="time_zone")
    return ZoneInfo(name)


def _check(expression: str) -> None:
    parts = expression.split()
    if len(parts) != len(FIELDS):
        raise InvalidRequest(
            f"the cron expression {expression!r} has {len(parts)} fields; it must have 5: {', '.join(FIELDS)}",
            param="cron",
        )
    for number, part in enumerate(parts):
        try:
            CronSim(" ".join(["*"] * number + [part] + ["*"] * (4 - number)), _ANY_TIME)
        except CronSimError:
            column = _column(expression, number)
            raise InvalidRequest(
                f"the cron expression {expression!r} is not valid at column {column}: {part!r} is not a"
                f" {FIELDS[number]}",
                param="cron",
            ) from None
    try:
        CronSim(expression, _ANY_TIME)
    except CronSimError:
        raise InvalidRequest(f"the cron expression {expression!r} never matches", param="cron") from None


def _column(expression: str, number: int) -> int:
    position = 0
    for part in expression.split()[:number]:
        position = expression.index(part, position) + len(part)
    return expression.index(expression.split()[number], position) + 1
