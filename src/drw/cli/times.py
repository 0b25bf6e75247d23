"""Times and durations on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from drw.kernel.errors import InvalidRequest

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d{1,9})([smhd])")


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as 30d.

    Raises:
        InvalidRequest: it is not a duration.
    """
    if not (match := DURATION.fullmatch(text)):
        raise InvalidRequest(f"{text!r} is not a duration: use for example 30d, 12h, 15m or 90s")
    return int(match[1]) * UNITS[match[2]]


def parse_time(text: str) -> str:
    """Return a time such as 2026-11-03T14:31Z in RFC 3339, as the API takes it. Without a zone it is UTC.

    Raises:
        InvalidRequest: it is not a time.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a time: use for example 2026-11-03T14:31Z") from error
    return _rfc3339(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))


def parse_future(text: str) -> str:
    """Return a date, a time, or the time after a duration from now, in RFC 3339.

    Raises:
        InvalidRequest: it is none of them.
    """
    if DURATION.fullmatch(text):
        try:
            return _rfc3339(datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=parse_duration(text)))
        except OverflowError as error:
            raise InvalidRequest(f"{text!r} is too long") from error
    try:
        return parse_time(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{text!r} is not a date or duration: use for example 2027-06-30 or 180d") from error


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()
