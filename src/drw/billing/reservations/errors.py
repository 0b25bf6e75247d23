"""Errors of budgets, limits and reservations.

* RateLimited
  + InsufficientQuota      (a budget of money or tokens is exhausted, or too small for this call)
  + LimitReached           (tokens or requests per minute, or concurrent calls)
  + ModelAtCapacity        (a budget or limit of one model: another model may be available)
* Unavailable
  + ReservationLost        (the lease has ended: the answer must not continue)
  + EngineOvershot         (the engine generated more tokens than requested)
"""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.amounts import to_usd
from drw.billing.counters.client import CountersUnavailable, ReservationDenied
from drw.billing.subjects import KINDS
from drw.kernel.errors import NEVER, RateLimited, Unavailable


class InsufficientQuota(RateLimited):
    """The budget does not suffice for this call."""


class LimitReached(RateLimited):
    """A limit per minute, or of concurrent calls, is reached."""


class ModelAtCapacity(RateLimited):
    """A budget or limit of one model is exhausted; another model may be available."""


class ReservationLost(Unavailable):
    """The lease of this process ended before the call."""


class EngineOvershot(Unavailable):
    """The engine generated more tokens than the request allows."""


FINAL_ERRORS = (InsufficientQuota, LimitReached, ReservationLost, EngineOvershot, CountersUnavailable)
"""Errors that end a call, because another engine would fail too."""
INSUFFICIENT_QUOTA = "insufficient_quota"
"""OpenAI's code for an exhausted budget."""


def quota_error(denied: ReservationDenied, requested_nano: int, requested_tokens: int) -> RateLimited:
    """Return the error for a denied reservation."""
    model = denied.subject.kind == Block.MODEL
    limit_error, budget_error = (ModelAtCapacity, ModelAtCapacity) if model else (LimitReached, InsufficientQuota)
    subject = f"the {denied.subject}"
    limit = f"{KINDS[denied.subject.kind]}.{denied.measure}.{denied.period or 'now'}"
    if denied.measure == "concurrent":
        message = f"{subject} has {denied.cap} calls in progress, its limit of concurrent calls"
        return limit_error(message, limit=limit, retry_after="1")
    if denied.measure == "requests":
        message = f"{subject} has used up its {denied.cap} requests for this minute"
        return limit_error(message, limit=limit, retry_after=_seconds(denied.wait_ms))
    if denied.period == "minute":
        message = (
            f"this call may take {requested_tokens} tokens; {subject} has {denied.left} left of {denied.cap} "
            f"for this minute: {'wait, or ' if requested_tokens <= denied.cap else ''}"
            "ask for a shorter answer with max_tokens"
        )
        return limit_error(message, limit=limit, retry_after=_retry_after(denied, requested_tokens))
    if denied.measure == "tokens":
        requested, left, cap = f"{requested_tokens} tokens", f"{denied.left}", f"{denied.cap} tokens"
    else:
        requested, left, cap = (f"{to_usd(n)} USD" for n in (requested_nano, denied.left, denied.cap))
    until = {"day": "for today (UTC)", "month": "for this month (UTC)", "total": "in all"}[denied.period]
    message = (
        f"this call may cost {requested}; {subject} has {left} left of {cap} {until}: "
        "ask for a shorter answer with max_tokens, or for a larger budget"
    )
    after = _retry_after(denied, requested_tokens if denied.measure == "tokens" else requested_nano)
    return budget_error(message, code=INSUFFICIENT_QUOTA, limit=limit, retry_after=after)


def _retry_after(denied: ReservationDenied, requested: int) -> str:
    """Return the seconds until the period ends; `NEVER` if it has no end, or if the request exceeds the cap."""
    return _seconds(denied.wait_ms) if denied.wait_ms and requested <= denied.cap else NEVER


def _seconds(wait_ms: int) -> str:
    return str(max(1, -(-wait_ms // 1000)))
