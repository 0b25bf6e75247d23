"""Requests-per-minute limits, in the format of the native filter.

native_filter/limiter.c enforces them over any 60-second window.
"""

from __future__ import annotations

from collections.abc import Callable

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits

MAX_LIMITS = 1 << 17
"""Capacity for limits, lowest first. Keys beyond it get the default limit; desks and orgs get none."""
SUBJECT_KINDS = {Block.KEY: "key", Block.DESK: "desk", Block.ORG: "org", Block.MODEL: "model"}


def subject(kind: Block.Subject, org: str, name: str) -> str:
    """Return the hash input of a subject; filter.c builds the same from request headers."""
    return f"{SUBJECT_KINDS.get(kind, 'key')}\n{org}\n{name}"


def header_line(limits: Limits, seed: bytes, count: int) -> str:
    """Return the header line: hash seed, default limit of keys, number of limits."""
    seed_hex = "".join(f"{int.from_bytes(seed[at : at + 8], 'little'):016x}" for at in (0, 8))
    return f"{seed_hex}{_share(limits, limits.default_requests_per_minute):08x}{count:08x}\n"


def limit_lines(limits: Limits, hashed: Callable[[str], str]) -> list[str]:
    """Return one line per limit of a key, desk or org: subject, requests, and scope of the count.

    Each data plane enforces its share.
    """
    applicable = [limit for limit in limits.limits if limit.requests_per_minute and limit.subject != Block.MODEL]
    applicable.sort(key=lambda limit: limit.requests_per_minute)
    return sorted(_line(limit, _share(limits, limit.requests_per_minute), hashed) for limit in applicable[:MAX_LIMITS])


def _line(limit: Limit, share: int, hashed: Callable[[str], str]) -> str:
    name = {Block.DESK: limit.desk, Block.ORG: ""}.get(limit.subject, limit.key)
    hashed_subject = hashed(subject(limit.subject, limit.org, name))
    counter = hashed(subject(Block.KEY, limit.org, limit.counted_as)) if limit.counted_as else hashed_subject
    return f"{hashed_subject}{share:08x}{counter}\n"


def _share(limits: Limits, per_minute: int) -> int:
    return per_minute and max(1, per_minute // (limits.data_planes or 1))
