"""What each failure of an attempt means: whose fault it is, and whether another attempt may help."""

from __future__ import annotations

from typing import NamedTuple

from drw.kernel.errors import DrwError
from drw.models.serving.errors import (
    AnswerCut,
    ContentFiltered,
    ContextLengthExceeded,
    EngineBusy,
    EngineLimited,
    EngineMisconfigured,
    EngineResting,
    EngineStalled,
    EngineUnavailable,
    OutOfTime,
    UpstreamModelNotFound,
    UpstreamQuotaUsedUp,
)


class Cause(NamedTuple):
    """What a failure means."""

    reason: str
    """In a word, for records and metrics."""
    blames: bool = False
    """Whether it counts against the upstream's circuit."""
    elsewhere: bool = False
    """Whether another place or model may do better."""
    again: bool = False
    """Whether the same place may do better soon."""


CAUSES: dict[type[DrwError], Cause] = {
    EngineUnavailable: Cause("unavailable", blames=True, elsewhere=True, again=True),
    AnswerCut: Cause("cut", blames=True, elsewhere=True, again=True),
    EngineStalled: Cause("stalled", blames=True, elsewhere=True),  # once more would take as long again
    EngineMisconfigured: Cause("misconfigured", blames=True, elsewhere=True),
    EngineLimited: Cause("rate_limited", elsewhere=True, again=True),
    UpstreamModelNotFound: Cause("misconfigured", elsewhere=True),
    UpstreamQuotaUsedUp: Cause("insufficient_quota", elsewhere=True),
    EngineBusy: Cause("busy", elsewhere=True),
    EngineResting: Cause("circuit_open", elsewhere=True),
    ContextLengthExceeded: Cause("context_length", elsewhere=True),  # where there is more room
    ContentFiltered: Cause("content_filter"),  # never: it is a rule, not a fault
    OutOfTime: Cause("out_of_time"),
    DrwError: Cause("refused"),  # the request or its caller is at fault, and would be anywhere
}


def cause(error: DrwError) -> Cause:
    """Return what a failure means; the nearest class counts, and an error of nobody's engine is final."""
    return next(CAUSES[cls] for cls in type(error).__mro__ if cls in CAUSES)
