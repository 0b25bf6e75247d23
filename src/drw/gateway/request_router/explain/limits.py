"""Limits and budgets of an explained request: of its key, desk, org and models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import Bound
from drw.billing.subjects import Subject, caller_subjects, model_subject
from drw.kernel.rpc.context import Principal

REQUESTS, TOKENS, CONCURRENT = "requests a minute", "tokens a minute", "calls at once"
LIMIT_KINDS = (REQUESTS, TOKENS, CONCURRENT)


def effective_limits(
    limits: Limits, principal: Principal, models: Collection[str], *, pass_through: bool
) -> list[Bound]:
    """Return all limits of the caller and the models, the lowest of each kind first.

    `pass_through`: requests and concurrent calls of models are not counted for a pass-through request.
    """
    subjects = _subjects(principal, models)
    matching = [limit for limit in limits.limits if _subject(limit) in subjects]
    bounds = [bound for limit in matching for bound in _bounds(limit, pass_through=pass_through)]
    if not any(bound.subject == Block.KEY and bound.what == REQUESTS for bound in bounds):
        bounds.append(Bound(subject=Block.KEY, what=REQUESTS, max=limits.default_requests_per_minute))
    bounds.sort(key=lambda bound: (LIMIT_KINDS.index(bound.what), bound.max, bound.subject))
    for bound in bounds:
        bound.tightest = bound.max == min(other.max for other in bounds if other.what == bound.what)
    return bounds


def applicable_budgets(budgets: Iterable[Budget], principal: Principal, models: Collection[str]) -> list[Budget]:
    """Return the budgets that apply to a request of the caller to one of these models."""
    subjects = _subjects(principal, models)
    return [b for b in budgets if Subject(b.subject, b.org, b.name) in subjects]


def _bounds(limit: Limit, *, pass_through: bool) -> Iterator[Bound]:
    name = _subject(limit).name or limit.org
    counted = not (pass_through and limit.subject == Block.MODEL)
    amounts = {
        REQUESTS: limit.requests_per_minute if counted else 0,
        TOKENS: limit.tokens_per_minute,
        CONCURRENT: 0 if pass_through else limit.concurrent,
    }
    for kind, maximum in amounts.items():
        if maximum:
            yield Bound(subject=limit.subject or Block.KEY, name=name, what=kind, max=maximum)


def _subject(limit: Limit) -> Subject:
    """Return the subject of a limit. A limit without a subject is a key's, and can contain the key's desk."""
    kind = limit.subject or Block.KEY
    name = {Block.KEY: limit.key, Block.DESK: limit.desk, Block.MODEL: limit.model}.get(kind, "")
    return Subject(kind, "" if kind == Block.MODEL else limit.org, name)


def _subjects(principal: Principal, models: Collection[str]) -> set[Subject]:
    return {*caller_subjects(principal.org, principal.desk, principal.key), *map(model_subject, models)}
