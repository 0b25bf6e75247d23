"""What was spent: the ledger summed up, and what is left of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, GetSpendRequest, GetSpendResponse
from drw.billing.amounts import to_usd
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.ledger import sums
from drw.billing.subjects import begins, ends
from drw.gateway.rate_limiting import validation
from drw.gateway.rate_limiting.store import PERIODS, UNITS, LimitStore, amount, subject_of
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context

MAX_LINES = 1000
PERIOD_NAMES = {Budget.DAY: "day", Budget.MONTH: "month", Budget.TOTAL: "total"}
METRICS = ("platform:read", "platform:admin")


async def spend(store: LimitStore, request: GetSpendRequest) -> GetSpendResponse:
    """Return the sums of the named org, or of the caller's desk where it may not see others."""
    caller, org = context.caller(), tenancy.named_org(request.org)
    by = request.by or "desk"
    if by not in sums.BY:
        raise InvalidRequest(f"by is {by!r}; it can be {', '.join(sums.BY)}", param="by")
    since = request.since.ToDatetime(UTC) if request.HasField("since") else begins("month", datetime.now(UTC))
    desk = None if tenancy.whole_org(org) else caller.desk
    async with store.database.transaction() as connection:
        rows = await sums.report(connection, by=by, org=org, desk=desk, since=since, max_lines=MAX_LINES)
    response = GetSpendResponse(by=by, usd=to_usd(int(rows[0]["all_nano"]) if rows else 0))
    response.since.FromDatetime(since)
    for row in rows:
        response.lines.add(
            name=row["name"],
            calls=row["calls"],
            prompt_tokens=int(row["prompt"]),
            completion_tokens=int(row["completion"]),
            usd=to_usd(int(row["nano"])),
        )
    return response


async def budgets(store: LimitStore, counters: Counters, named_org: str) -> list[Budget]:
    """Return the budgets of an org and of models that the caller may see, with what is left where that is known.

    What a model has spent is what all orgs have: it is for those who may see the platform's metrics.
    """
    org = tenancy.named_org(named_org)
    seen = [
        budget
        for budget, desk in await store.budgets()
        if budget.org in ("", org) and validation.may_see(subject_of(budget), desk)
    ]
    if context.caller().scopes.isdisjoint(METRICS):
        own = await with_spent([budget for budget in seen if budget.subject != Block.MODEL], counters)
        return own + [budget for budget in seen if budget.subject == Block.MODEL]
    return await with_spent(seen, counters)


async def with_spent(budgets: Sequence[Budget], counters: Counters) -> list[Budget]:
    """Return budgets with what is spent, reserved and left of each, where the counters answer."""
    subjects = [subject_of(budget) for budget in budgets]
    now = datetime.fromtimestamp(counters.now_ms() / 1000, UTC)
    for budget in budgets:
        if (end := ends(PERIOD_NAMES[budget.period], now)) is not None:
            budget.resets_at.FromDatetime(end)
    try:
        counted = await counters.peek(subjects)
    except CountersUnavailable:
        return list(budgets)
    for budget, values in zip(budgets, counted, strict=True):
        unit_name = Budget.Unit.Name(budget.unit)
        unit = UNITS[unit_name]
        field = f"{PERIODS[Budget.Period.Name(budget.period)]}{unit}"
        spent, reserved, cap = values[field], values[unit], values.get(f"C{field}")
        budget.spent, budget.reserved = amount(unit_name, spent), amount(unit_name, reserved)
        if cap is not None:
            budget.left = amount(unit_name, max(0, cap - spent - reserved))
    return list(budgets)
