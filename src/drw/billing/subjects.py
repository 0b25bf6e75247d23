"""Subjects of budgets and limits (keys, desks, orgs, models), and their periods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from urllib.parse import quote

from drw.api.gateway.v1.rate_limiting_pb2 import Block

PREFIX = "drw:{meter}:"
"""Prefix of all keys, with one hash tag, so that a script can use any of them in a Valkey cluster."""

KINDS: dict[Block.Subject, str] = {Block.KEY: "key", Block.DESK: "desk", Block.ORG: "org", Block.MODEL: "model"}
Period = Literal["minute", "day", "month", "total"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A key, a desk, an org or a model."""

    kind: Block.Subject
    org: str
    """Empty for a model, which all orgs share."""
    name: str
    """Empty for an org."""

    @property
    def counter(self) -> str:
        """Key of the subject's counters in Valkey."""
        return _counter(self.kind, self.org, self.name)

    def __str__(self) -> str:
        return f"{KINDS[self.kind]} {self.name or self.org!r}"


@lru_cache(maxsize=4096)
def _counter(kind: Block.Subject, org: str, name: str) -> str:
    return f"{PREFIX}s:{KINDS[kind]}:{quote(org, safe='')}:{quote(name, safe='')}"


@lru_cache(maxsize=4096)
def caller_subjects(org: str, desk: str, key: str) -> tuple[Subject, Subject, Subject]:
    """Return the subjects of a caller: its key, desk and org."""
    return Subject(Block.KEY, org, key), Subject(Block.DESK, org, desk), Subject(Block.ORG, org, "")


@lru_cache(maxsize=4096)
def model_subject(model: str) -> Subject:
    """Return the subject of a model."""
    return Subject(Block.MODEL, "", model)


def day_of(at: datetime) -> int:
    """Return the days since 1970, UTC."""
    return int(at.timestamp()) // 86400


def month_of(at: datetime) -> int:
    """Return the months since the year 0, UTC."""
    at = at.astimezone(UTC)
    return at.year * 12 + at.month - 1


def period_end(period: str, at: datetime) -> datetime | None:
    """Return the end of the period that contains a moment, in UTC; None for a period without an end."""
    at = at.astimezone(UTC)
    if period == "minute":
        return at.replace(second=0, microsecond=0) + timedelta(minutes=1)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    if period == "month":
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return None


def period_start(period: str, at: datetime) -> datetime:
    """Return the start of the period that contains a moment, in UTC."""
    at = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return at
    return at.replace(day=1) if period == "month" else datetime(1970, 1, 1, tzinfo=UTC)
