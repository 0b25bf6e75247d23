"""Limits of requests a minute, as the module inside Envoy reads them.

cutter/limiter.c counts: no 60 seconds, wherever they begin, have more requests than the limit.
"""

from __future__ import annotations

from collections.abc import Callable

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits

MOST = 1 << 17
"""Limits that the module has room for, the tightest first; a key beyond has the default, a desk or org none."""
KINDS = {Block.KEY: "key", Block.DESK: "desk", Block.ORG: "org", Block.MODEL: "model"}


def subject(kind: Block.Subject, org: str, name: str) -> str:
    """Return the words whose hash stands for a subject; cutter.c makes the same of a request's headers."""
    return f"{KINDS.get(kind, 'key')}\n{org}\n{name}"


def head(limits: Limits, seed: bytes, count: int) -> str:
    """Return the first line: the seed of the hashes, the limit of keys without their own, how many limits follow."""
    words = "".join(f"{int.from_bytes(seed[at : at + 8], 'little'):016x}" for at in (0, 8))
    return f"{words}{_share(limits, limits.default_requests_per_minute):08x}{count:08x}\n"


def lines(limits: Limits, hashed: Callable[[str], str]) -> list[str]:
    """Return a line for each limit of a key, desk or org: whose it is, how many requests, and who they count for.

    Each data plane lets its share through.
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
