"""Warnings that a budget is nearly spent: one event for each budget, period and amount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from drw.api.events.v1.gateway_pb2 import BudgetNearlySpent
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.billing.subjects import Subject, period_start
from drw.events.publisher import Publisher
from drw.gateway.rate_limiting.store import PERIOD_LETTERS, UNIT_LETTERS, format_amount, subject_columns
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner

WARNING_PERCENT = 80
EVENTS = Publisher("rate_limiting")

WARN = """
insert into budget_warning as warned (kind, org, name, period, unit, period_start, amount)
select kind, org, name, period, unit, %(period_start)s, amount from budget
where (kind, org, name, period, unit, amount) = (%(kind)s, %(org)s, %(name)s, %(period)s, %(unit)s, %(amount)s)
on conflict (kind, org, name, period, unit) do update
set period_start = excluded.period_start, amount = excluded.amount
where (warned.period_start, warned.amount) <> (excluded.period_start, excluded.amount)
returning (select desk from budget where (budget.kind, budget.org, budget.name, budget.period, budget.unit)
    = (warned.kind, warned.org, warned.name, warned.period, warned.unit)) as desk
"""
DELETE_STALE = """
delete from budget_warning where (kind, org, name, period, unit) not in
    (select kind, org, name, period, unit from budget)
"""


class BudgetWarnings:
    """Publishes warnings. Remembers them, so that a check of unchanged budgets needs no query."""

    def __init__(self) -> None:
        self._warned: dict[tuple[Subject, str, str], tuple[datetime, int]] = {}

    async def publish(
        self,
        connection: Connection,
        capped: Mapping[Subject, Mapping[str, int]],
        spent: Mapping[Subject, Mapping[str, int]],
        now: datetime,
    ) -> list[tuple[Subject, str, str, datetime, int]]:
        """Publish an event for each newly nearly spent budget, as part of a transaction.

        Returns:
            The warnings of these budgets, for `remember` after the commit.
        """
        warnings = []
        for subject, values in spent.items():
            for period, period_letter in PERIOD_LETTERS.items():
                for unit, unit_letter in UNIT_LETTERS.items():
                    field = f"{period_letter}{unit_letter}"
                    amount = capped[subject].get(f"C{field}")
                    if not amount or values[field] * 100 < amount * WARNING_PERCENT:
                        continue
                    start = period_start(period.lower(), now)
                    if self._warned.get((subject, period, unit)) != (start, amount):
                        await self._publish(connection, subject, period, unit, start, amount, values[field])
                        warnings.append((subject, period, unit, start, amount))
        return warnings

    def remember(self, warnings: Sequence[tuple[Subject, str, str, datetime, int]]) -> None:
        """Remember committed warnings."""
        for subject, period, unit, start, amount in warnings:
            self._warned[subject, period, unit] = start, amount

    async def delete_stale(self, connection: Connection, capped: Mapping[Subject, Any]) -> None:
        """Delete the warnings of budgets that no longer exist."""
        self._warned = {key: value for key, value in self._warned.items() if key[0] in capped}
        await connection.execute(DELETE_STALE)

    async def _publish(
        self,
        connection: Connection,
        subject: Subject,
        period: str,
        unit: str,
        start: datetime,
        amount: int,
        spent: int,
    ) -> None:
        columns = subject_columns(subject)
        cursor = await connection.execute(
            WARN, columns | {"period": period, "unit": unit, "period_start": start, "amount": amount}
        )
        if (row := await cursor.fetchone()) is None:  # another process has warned, or the budget has changed
            return
        # Without a desk, only the org's administrators see an event about a key.
        desk = row["desk"] or (subject.name if subject.kind in (Block.KEY, Block.DESK) else "")
        event = BudgetNearlySpent(
            subject=columns["kind"],
            name=subject.name or subject.org,
            period=period.lower(),
            period_start="" if period == "TOTAL" else start.isoformat().replace("+00:00", "Z"),
            unit=unit,
            # The spending of a model is that of all orgs, which only the platform's administrators see.
            spent="" if subject.kind == Block.MODEL else format_amount(unit, spent),
            budget=format_amount(unit, amount),
        )
        resource = f"budget/{columns['kind'].lower()}/{subject.name or subject.org}"
        await EVENTS.publish(connection, event, resource, Owner(subject.org, desk if subject.org else ""))
