"""Errors of budgets, limits and reservations.

* RateLimited
  + InsufficientQuota      (a budget of money or tokens is used up, or too small for this call)
  + LimitReached           (tokens or requests of this minute, or calls at once)
  + ModelAtCapacity        (either of these, of a model: another model may have room)
* Unavailable
  + ReservationLost        (the reservation has gone over to somebody else: the answer may not go on)
  + EngineOvershot         (the engine wrote more than it was asked for)
"""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.amounts import to_usd
from drw.billing.counters.client import CountersUnavailable, ReservationRefused
from drw.billing.subjects import KINDS
from drw.kernel.errors import NEVER, RateLimited, Unavailable


class InsufficientQuota(RateLimited):
    """A budget does not suffice for this call."""


class LimitReached(RateLimited):
    """A limit of this minute, or of calls at once, is reached."""


class ModelAtCapacity(RateLimited):
    """A budget or limit of one model is exhausted; another model may have room."""


class ReservationLost(Unavailable):
    """The lease of this process ended before the call did."""


class EngineOvershot(Unavailable):
    """The engine wrote more than the longest answer that was requested."""


FINAL = (InsufficientQuota, LimitReached, ReservationLost, EngineOvershot, CountersUnavailable)
"""Errors that end a call: no other engine could help."""
CODE = "insufficient_quota"
"""OpenAI's code for an exhausted budget."""


def quota_error(refused: ReservationRefused, requested_nano: int, requested_tokens: int) -> RateLimited:
    """Return the error for a reservation that does not fit."""
    model = refused.subject.kind == Block.MODEL
    limit_error, budget_error = (ModelAtCapacity, ModelAtCapacity) if model else (LimitReached, InsufficientQuota)
    whose = f"the {KINDS[refused.subject.kind]} {refused.subject.name or refused.subject.org!r}"
    limit = f"{KINDS[refused.subject.kind]}.{refused.measure}.{refused.period or 'now'}"
    if refused.measure == "concurrent":
        message = f"{whose} has {refused.cap} calls under way, as many as it may at once"
        return limit_error(message, limit=limit, retry_after="1")
    if refused.measure == "requests":
        message = f"{whose} has used up its {refused.cap} requests for this minute"
        return limit_error(message, limit=limit, retry_after=_seconds(refused.wait_ms))
    if refused.period == "minute":
        message = (
            f"this call may take {requested_tokens} tokens; {whose} has {refused.left} left of {refused.cap} "
            f"for this minute: {'wait, or ' if requested_tokens <= refused.cap else ''}"
            "ask for a shorter answer with max_tokens"
        )
        return limit_error(message, limit=limit, retry_after=_when(refused, requested_tokens))
    if refused.measure == "tokens":
        requested, left, cap = f"{requested_tokens} tokens", f"{refused.left}", f"{refused.cap} tokens"
    else:
        requested, left, cap = (f"{to_usd(n)} USD" for n in (requested_nano, refused.left, refused.cap))
    until = {"day": "for today (UTC)", "month": "for this month (UTC)", "total": "in all"}[refused.period]
    message = (
        f"this call may cost {requested}; {whose} has {left} left of {cap} {until}: "
        "ask for a shorter answer with max_tokens, or for a larger budget"
    )
    after = _when(refused, requested_tokens if refused.measure == "tokens" else requested_nano)
    return budget_error(message, code=CODE, limit=limit, retry_after=after)


def _when(refused: ReservationRefused, requested: int) -> str:
    """Return the seconds until the period ends; `NEVER` where it has no end, or the request exceeds the cap."""
    return _seconds(refused.wait_ms) if refused.wait_ms and requested <= refused.cap else NEVER


def _seconds(wait_ms: int) -> str:
    return str(max(1, -(-wait_ms // 1000)))
