"""Subjects, permissions and validation of limits, budgets and prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Limit, Price
from drw.billing.amounts import MAX_NANO, MAX_TOKENS, from_usd
from drw.billing.subjects import KINDS, Subject
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.context import MAX_ID
from drw.kernel.tenancy import PLATFORM, Owner

MAX_USD_PER_MILLION = 1_000_000
CLOCK_TOLERANCE = timedelta(minutes=1)
LIMITS_SCOPE = "limits:write"


def subject_of_limit(limit: Limit) -> Subject:
    """Return the subject of a limit."""
    kind = limit.subject or Block.KEY
    name = {Block.KEY: limit.key, Block.DESK: limit.desk, Block.MODEL: limit.model}.get(kind, "")
    param = {Block.KEY: "key", Block.DESK: "desk", Block.MODEL: "model"}.get(kind, "org")
    return subject(kind, limit.org, name, param)


def subject(kind: Block.Subject, org: str, name: str, param: str = "name") -> Subject:
    """Return a key, desk or org of an org, by default the caller's, or a model.

    Raises:
        InvalidRequest: the name is missing, or an org has a name beside `org`.
        Forbidden: the org is not the caller's.
    """
    kind = kind or Block.KEY
    if kind == Block.MODEL:
        return Subject(kind, "", _checked_name(name, param, "a model"))
    org = tenancy.requested_org(org)
    if kind == Block.ORG:
        if name:
            raise InvalidRequest(f"name is {name!r}; an org has none beside org", param=param)
        return Subject(kind, org, "")
    return Subject(kind, org, _checked_name(name, param, f"a {KINDS[kind]}"))


def owner(subject: Subject) -> Owner:
    """Return the tenant that owns a desk or an org; the platform owns models."""
    if subject.kind == Block.MODEL:
        return PLATFORM
    return Owner(subject.org, subject.name if subject.kind == Block.DESK else "")


def check_change(subject: Subject) -> None:
    """Check that the caller can change limits and budgets of this desk, org or model.

    Raises:
        Forbidden: it belongs to another org or desk, or the caller lacks a scope.
    """
    tenancy.check_change(owner(subject))
    if subject.kind != Block.MODEL:
        context.caller().require_scope(LIMITS_SCOPE)


def may_see(subject: Subject, desk: str) -> bool:
    """Return whether the caller can see limits of this subject; `desk` is the desk of a key, or empty."""
    if subject.kind != Block.KEY:
        return tenancy.may_read(owner(subject))
    principal = context.caller()
    return (subject.org, subject.name) == (principal.org, principal.key) or tenancy.may_change(Owner(subject.org, desk))


def check_limit(limit: Limit) -> None:
    """Raise `InvalidRequest` if a limit has no values."""
    if not (limit.requests_per_minute or limit.tokens_per_minute or limit.concurrent):
        raise InvalidRequest(
            "give one of requests_per_minute, tokens_per_minute and concurrent; limits:remove removes a limit",
            param="requests_per_minute",
        )


def check_budget(budget: Budget) -> int:
    """Return the amount of a budget in nano-dollars or tokens.

    Raises:
        InvalidRequest: the amount is invalid.
    """
    if budget.unit != Budget.TOKENS:
        return from_usd(budget.amount, "amount")
    if not (budget.amount.isascii() and budget.amount.isdigit() and int(budget.amount[:20]) <= MAX_TOKENS):
        raise InvalidRequest(
            f"amount is {budget.amount!r}; tokens are a whole number, at most {MAX_TOKENS}", param="amount"
        )
    return int(budget.amount)


def check_price(price: Price, now: datetime) -> tuple[datetime, int, int]:
    """Return the start of a price, and its nano-dollars per million prompt and completion tokens.

    Raises:
        InvalidRequest: the start is in the past, an amount is invalid, or there is none.
    """
    if not price.prompt_usd_per_million and not price.completion_usd_per_million:
        message = 'prompt_usd_per_million and completion_usd_per_million are missing; "0" makes the model free'
        raise InvalidRequest(message, param="prompt_usd_per_million")
    start = price.effective_from.ToDatetime(UTC) if price.HasField("effective_from") else now
    if start < now - CLOCK_TOLERANCE:
        raise InvalidRequest(
            f"effective_from is {start.isoformat()}; prices cannot change in the past: give a future time, or none",
            param="effective_from",
        )
    amounts = []
    for name in ("prompt_usd_per_million", "completion_usd_per_million"):
        amounts.append(nano := from_usd(getattr(price, name) or "0", name))
        if nano > MAX_NANO * MAX_USD_PER_MILLION // 9_000_000:
            raise InvalidRequest(f"{name} is {getattr(price, name)!r}; at most {MAX_USD_PER_MILLION}", param=name)
    return start, amounts[0], amounts[1]


def _checked_name(name: str, param: str, subject_text: str) -> str:
    if not 0 < len(name) <= MAX_ID:
        raise InvalidRequest(
            f"{param} is {name[:50]!r}; the name of {subject_text} has 1 to {MAX_ID} characters", param=param
        )
    return name
