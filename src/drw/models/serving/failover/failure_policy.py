"""What each failure of an attempt means: whose fault it is, and whether another attempt may help."""

from __future__ import annotations

from typing import NamedTuple

from drw.billing.reservations.errors import ModelAtCapacity
from drw.kernel.errors import DrwError
from drw.models.serving.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    EngineBusy,
    EngineCoolingDown,
    EngineLimited,
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
    RequestTimedOut,
    ResponseTruncated,
    UpstreamModelNotFound,
    UpstreamQuotaExhausted,
)


class FailureCause(NamedTuple):
    """What a failure means."""

    reason: str
    """In a word, for records and metrics."""
    blames: bool = False
    """Whether it counts against the upstream's circuit."""
    elsewhere: bool = False
    """Whether another place or model may do better."""
    again: bool = False
    """Whether the same place may do better soon."""


CAUSES: dict[type[DrwError], FailureCause] = {
    EngineUnavailable: FailureCause("unavailable", blames=True, elsewhere=True, again=True),
    ResponseTruncated: FailureCause("cut", blames=True, elsewhere=True, again=True),
    EngineStalled: FailureCause("stalled", blames=True, elsewhere=True),  # once more would take as long again
    EngineMisconfigured: FailureCause("misconfigured", blames=True, elsewhere=True),
    EngineLimited: FailureCause("rate_limited", elsewhere=True, again=True),
    UpstreamModelNotFound: FailureCause("misconfigured", elsewhere=True),
    UpstreamQuotaExhausted: FailureCause("insufficient_quota", elsewhere=True),
    EngineBusy: FailureCause("busy", elsewhere=True),
    ModelAtCapacity: FailureCause("busy", elsewhere=True),
    EngineCoolingDown: FailureCause("circuit_open", elsewhere=True),
    ContextLengthExceeded: FailureCause("context_length", elsewhere=True),  # where there is more room
    ContentFiltered: FailureCause("content_filter"),  # never: it is a rule, not a fault
    RequestTimedOut: FailureCause("out_of_time"),
    DrwError: FailureCause("refused"),  # the request or its caller is at fault, and would be anywhere
}


def cause(error: DrwError) -> FailureCause:
    """Return what a failure means; the nearest class counts, and an error of nobody's engine is final."""
    return next(CAUSES[cls] for cls in type(error).__mro__ if cls in CAUSES)
