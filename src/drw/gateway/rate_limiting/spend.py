"""Spending: sums of the ledger, and the spent, reserved and remaining amount of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, GetSpendRequest, GetSpendResponse
from drw.billing.amounts import to_usd
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.ledger import sums
from drw.billing.subjects import period_end, period_start
from drw.gateway.rate_limiting import validation
from drw.gateway.rate_limiting.store import PERIOD_LETTERS, UNIT_LETTERS, LimitStore, format_amount, subject_of
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context

MAX_LINES = 1000
PERIOD_NAMES = {Budget.DAY: "day", Budget.MONTH: "month", Budget.TOTAL: "total"}
METRICS_SCOPES = ("platform:read", "platform:admin")


async def spend(store: LimitStore, request: GetSpendRequest) -> GetSpendResponse:
    """Return the spending of an org, or of the caller's desk if the caller cannot see other desks.

    Raises:
        InvalidRequest: `by` is not a column of the ledger's reports.
        Forbidden: the org is not the caller's.
    """
    caller, org = context.caller(), tenancy.requested_org(request.org)
    by = request.by or "desk"
    if by not in sums.GROUPINGS:
        raise InvalidRequest(f"by is {by!r}; it can be {', '.join(sums.GROUPINGS)}", param="by")
    since = request.since.ToDatetime(UTC) if request.HasField("since") else period_start("month", datetime.now(UTC))
    desk = None if tenancy.may_act_for_org(org) else caller.desk
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


async def visible_budgets(store: LimitStore, counters: Counters, requested_org: str) -> list[Budget]:
    """Return the budgets of an org and of models that the caller can see, with their spending.

    The spending of a model is that of all orgs. Only callers who can read the platform's metrics see it.
    """
    org = tenancy.requested_org(requested_org)
    visible = [
        budget
        for budget, desk in await store.budgets()
        if budget.org in ("", org) and validation.may_see(subject_of(budget), desk)
    ]
    if context.caller().scopes.isdisjoint(METRICS_SCOPES):
        with_amounts = await with_spending([budget for budget in visible if budget.subject != Block.MODEL], counters)
        return with_amounts + [budget for budget in visible if budget.subject == Block.MODEL]
    return await with_spending(visible, counters)


async def with_spending(budgets: Sequence[Budget], counters: Counters) -> list[Budget]:
    """Return budgets with their end, and with the spent, reserved and remaining amounts if the counters are available.

    The budgets are changed in place.
    """
    subjects = [subject_of(budget) for budget in budgets]
    now = datetime.fromtimestamp(counters.now_ms() / 1000, UTC)
    for budget in budgets:
        if (end := period_end(PERIOD_NAMES[budget.period], now)) is not None:
            budget.resets_at.FromDatetime(end)
    try:
        usage = await counters.peek(subjects)
    except CountersUnavailable:
        return list(budgets)
    for budget, values in zip(budgets, usage, strict=True):
        unit = Budget.Unit.Name(budget.unit)
        letter = UNIT_LETTERS[unit]
        field = f"{PERIOD_LETTERS[Budget.Period.Name(budget.period)]}{letter}"
        spent, reserved, cap = values[field], values[letter], values.get(f"C{field}")
        budget.spent, budget.reserved = format_amount(unit, spent), format_amount(unit, reserved)
        if cap is not None:
            budget.left = format_amount(unit, max(0, cap - spent - reserved))
    return list(budgets)
