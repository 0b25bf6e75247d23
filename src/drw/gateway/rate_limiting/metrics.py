"""Metrics: used budgets, pass-through usage, and reservations that the reaper has left."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress

from prometheus_client import Gauge

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget
from drw.billing.amounts import NANO
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.ledger.rows import Row
from drw.billing.subjects import KINDS, Subject
from drw.gateway.rate_limiting.spend import PERIOD_NAMES
from drw.gateway.rate_limiting.store import PERIODS, LimitStore
from drw.kernel.observability import gen_ai

LABELS = ("kind", "org", "name", "period")
SPENT = Gauge("drw_budget_spent_usd", "Spent in the present period, of budgets of desks, orgs and models.", LABELS)
RESERVED = Gauge("drw_budget_reserved_usd", "Held for calls under way: the most that each can cost.", LABELS)
CAP = Gauge("drw_budget_cap_usd", "The most that may be spent in a period.", LABELS)
ABANDONED = Gauge("drw_reservations_abandoned", "Reservations of processes that died, not settled yet.")
FULLNESS = Gauge("drw_counters_memory_used_ratio", "How much of Valkey's memory is used; full, it takes nothing more.")

GRACE_MS = 10_000
PASS_THROUGH = "pass_through"
"""The operation of pass-through requests, whose bodies are not inspected."""


def record_usage(row: Row, priced: Container[str]) -> None:
    """Record the metrics of a pass-through request.

    Only models with a price are named, since other names are input of callers.
    """
    model = row.model if row.model in priced else ""
    labels = PASS_THROUGH, row.upstream, model, model
    for count, kind in ((row.prompt_tokens, "input"), (row.completion_tokens, "output")):
        if count:
            gen_ai.CLIENT_TOKENS.labels(*labels, kind).observe(count)
    if row.cost:
        gen_ai.cost_counter(row.org, row.desk, model).inc(row.cost / NANO)


async def measure(store: LimitStore, counters: Counters) -> None:
    """Bring the metrics up to date; while the counters are away they stay as they were."""
    budgets = [
        budget for budget, _ in await store.budgets() if budget.unit == Budget.USD and budget.subject != Block.KEY
    ]
    subjects = [Subject(budget.subject, budget.org, budget.name) for budget in budgets]
    with suppress(CountersUnavailable):
        values = await counters.peek(subjects)
        ABANDONED.set(len(await counters.expired(GRACE_MS)))
        for metric in (SPENT, RESERVED, CAP):
            metric.clear()  # of budgets that there were
        for budget, subject, value in zip(budgets, subjects, values, strict=True):
            labels = (KINDS[subject.kind], budget.org, budget.name, PERIOD_NAMES[budget.period])
            field = f"{PERIODS[Budget.Period.Name(budget.period)]}n"
            SPENT.labels(*labels).set(value[field] / NANO)
            RESERVED.labels(*labels).set(value["n"] / NANO)
            CAP.labels(*labels).set(value.get(f"C{field}", 0) / NANO)
    with suppress(CountersUnavailable):  # by itself: not everybody who may count may ask for it
        FULLNESS.set(await counters.fullness())
