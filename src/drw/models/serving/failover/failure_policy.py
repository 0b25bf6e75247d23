"""Failure classification: whether a failure counts against the circuit, and whether failover or a retry may help."""

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


class FailureClass(NamedTuple):
    """The class of a failure."""

    reason: str
    """The name of the class in records and metrics."""
    blames_upstream: bool = False
    """Whether the failure counts against the circuit of the replica."""
    try_elsewhere: bool = False
    """Whether another replica or model may succeed."""
    retry: bool = False
    """Whether a retry at the same replica may succeed."""


FAILURES: dict[type[DrwError], FailureClass] = {
    EngineUnavailable: FailureClass("unavailable", blames_upstream=True, try_elsewhere=True, retry=True),
    ResponseTruncated: FailureClass("cut", blames_upstream=True, try_elsewhere=True, retry=True),
    EngineStalled: FailureClass(
        "stalled", blames_upstream=True, try_elsewhere=True
    ),  # a retry would take as long again
    EngineMisconfigured: FailureClass("misconfigured", blames_upstream=True, try_elsewhere=True),
    EngineLimited: FailureClass("rate_limited", try_elsewhere=True, retry=True),
    UpstreamModelNotFound: FailureClass("misconfigured", try_elsewhere=True),
    UpstreamQuotaExhausted: FailureClass("insufficient_quota", try_elsewhere=True),
    EngineBusy: FailureClass("busy", try_elsewhere=True),
    ModelAtCapacity: FailureClass("busy", try_elsewhere=True),
    EngineCoolingDown: FailureClass("circuit_open", try_elsewhere=True),
    ContextLengthExceeded: FailureClass("context_length", try_elsewhere=True),  # at a model with a longer context
    ContentFiltered: FailureClass("content_filter"),  # a rule of the operator, not a failure
    RequestTimedOut: FailureClass("out_of_time"),
    DrwError: FailureClass("refused"),  # an error of the request or the caller
}


def classify(error: DrwError) -> FailureClass:
    """Return the class of a failure by the nearest error class; other errors are final."""
    return next(FAILURES[cls] for cls in type(error).__mro__ if cls in FAILURES)
