"""What was spent: the ledger summed up, and what is left of each budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, GetSpendRequest, GetSpendResponse
from drw.gateway.rate_limiting.store import PERIODS, UNITS, Store, amount
from drw.kernel import call
from drw.kernel.errors import InvalidRequest
from drw.kernel.metering.amounts import to_usd
from drw.kernel.metering.counters import Counters, CountersAway
from drw.kernel.metering.subjects import Subject, begins, ends

MAX_LINES = 1000
PERIOD_NAMES = {Budget.DAY: "day", Budget.MONTH: "month", Budget.TOTAL: "total"}
LINES = """
select case %(by)s when 'key' then key when 'desk' then desk else model end as name, count(*) as calls,
       sum(prompt_tokens) as prompt, sum(completion_tokens) as completion, sum(cost) as nano,
       sum(sum(cost)) over () as all_nano
from metering.ledger where org = %(org)s and (desk = %(desk)s or %(all)s) and at >= %(since)s
group by 1 order by nano desc, name limit %(most)s
"""
BY = ("key", "desk", "model")


async def spend(store: Store, request: GetSpendRequest) -> GetSpendResponse:
    """Return the sums of the caller's org, or of its desk where it may not see others."""
    who = call.caller()
    by = request.by or "desk"
    if by not in BY:
        raise InvalidRequest(f"by is {by!r}; it can be {', '.join(BY)}", param="by")
    since = request.since.ToDatetime(UTC) if request.HasField("since") else begins("month", datetime.now(UTC))
    args = {"by": by, "org": who.org, "desk": who.desk, "all": "org:admin" in who.scopes, "since": since}
    async with store.database.transaction() as connection:
        rows = await (await connection.execute(LINES, args | {"most": MAX_LINES})).fetchall()
    found = GetSpendResponse(by=by, usd=to_usd(int(rows[0]["all_nano"]) if rows else 0))
    found.since.FromDatetime(since)
    for row in rows:
        found.lines.add(
            name=row["name"],
            calls=row["calls"],
            prompt_tokens=int(row["prompt"]),
            completion_tokens=int(row["completion"]),
            usd=to_usd(int(row["nano"])),
        )
    return found


async def budgets(store: Store, counters: Counters) -> list[Budget]:
    """Return the budgets that the caller may see, each with what is left of it where that is known."""
    who = call.caller()
    everything = "org:admin" in who.scopes
    seen = [
        budget
        for budget, desk in await store.budgets()
        if budget.subject == Block.MODEL
        or (budget.org == who.org and (everything or budget.subject == Block.ORG or desk == who.desk))
    ]
    return await with_spent(seen, counters)


async def with_spent(budgets: Sequence[Budget], counters: Counters) -> list[Budget]:
    """Return budgets with what is spent, reserved and left of each, where the counters answer."""
    subjects = [Subject(budget.subject, budget.org, budget.name) for budget in budgets]
    now = datetime.fromtimestamp(counters.now_ms() / 1000, UTC)
    for budget in budgets:
        if (end := ends(PERIOD_NAMES[budget.period], now)) is not None:
            budget.resets_at.FromDatetime(end)
    try:
        found = await counters.peek(subjects)
    except CountersAway:
        return list(budgets)
    for budget, values in zip(budgets, found, strict=True):
        said = Budget.Unit.Name(budget.unit)
        unit = UNITS[said]
        field = f"{PERIODS[Budget.Period.Name(budget.period)]}{unit}"
        spent, reserved, cap = values[field], values[unit], values.get(f"C{field}")
        budget.spent, budget.reserved = amount(said, spent), amount(said, reserved)
        if cap is not None:
            budget.left = amount(said, max(0, cap - spent - reserved))
    return list(budgets)
