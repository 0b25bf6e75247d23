"""Requests-per-minute limits, in the format of the native filter.

cutter/limiter.c enforces them over any 60-second window.
"""

from __future__ import annotations

from collections.abc import Callable

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits

MOST = 1 << 17
"""Capacity for limits, lowest first. Keys beyond it get the default limit; desks and orgs get none."""
KINDS = {Block.KEY: "key", Block.DESK: "desk", Block.ORG: "org", Block.MODEL: "model"}


def subject(kind: Block.Subject, org: str, name: str) -> str:
    """Return the hash input of a subject; cutter.c builds the same from request headers."""
    return f"{KINDS.get(kind, 'key')}\n{org}\n{name}"


def head(limits: Limits, seed: bytes, count: int) -> str:
    """Return the header line: hash seed, default limit of keys, number of limits."""
    words = "".join(f"{int.from_bytes(seed[at : at + 8], 'little'):016x}" for at in (0, 8))
    return f"{words}{_share(limits, limits.default_requests_per_minute):08x}{count:08x}\n"


def lines(limits: Limits, hashed: Callable[[str], str]) -> list[str]:
    """Return one line per limit of a key, desk or org: subject, requests, and scope of the count.

    Each data plane enforces its share.
    """
    bound = [limit for limit in limits.limits if limit.requests_per_minute and limit.subject != Block.MODEL]
    bound.sort(key=lambda limit: limit.requests_per_minute)
    return sorted(_line(limit, _share(limits, limit.requests_per_minute), hashed) for limit in bound[:MOST])


def _line(limit: Limit, share: int, hashed: Callable[[str], str]) -> str:
    name = {Block.DESK: limit.desk, Block.ORG: ""}.get(limit.subject, limit.key)
    hashed_subject = hashed(subject(limit.subject, limit.org, name))
    counted = hashed(subject(Block.KEY, limit.org, limit.counted_as)) if limit.counted_as else hashed_subject
    return f"{hashed_subject}{share:08x}{counted}\n"


def _share(limits: Limits, per_minute: int) -> int:
    return per_minute and max(1, per_minute // (limits.data_planes or 1))
