"""Metrics: spent budgets, pass-through usage, abandoned reservations and memory of the counters."""

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
from drw.gateway.rate_limiting.store import PERIOD_LETTERS, LimitStore
from drw.kernel.observability import gen_ai

LABELS = ("kind", "org", "name", "period")
SPENT = Gauge("drw_budget_spent_usd", "Spent in the current period, of budgets of desks, orgs and models.", LABELS)
RESERVED = Gauge("drw_budget_reserved_usd", "Reserved for active calls: the maximum cost of each.", LABELS)
CAP = Gauge("drw_budget_cap_usd", "Maximum spending in a period.", LABELS)
ABANDONED = Gauge("drw_reservations_abandoned", "Reservations of processes that died, not settled yet.")
MEMORY_USED = Gauge("drw_counters_memory_used_ratio", "Share of Valkey's memory in use; at 1 it rejects writes.")

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
    """Update the metrics; they keep their values while the counters are unavailable."""
    budgets = [
        budget for budget, _ in await store.budgets() if budget.unit == Budget.USD and budget.subject != Block.KEY
    ]
    subjects = [Subject(budget.subject, budget.org, budget.name) for budget in budgets]
    with suppress(CountersUnavailable):
        values = await counters.peek(subjects)
        ABANDONED.set(len(await counters.expired(GRACE_MS)))
        for metric in (SPENT, RESERVED, CAP):
            metric.clear()  # of deleted budgets
        for budget, subject, value in zip(budgets, subjects, values, strict=True):
            labels = (KINDS[subject.kind], budget.org, budget.name, PERIOD_NAMES[budget.period])
            field = f"{PERIOD_LETTERS[Budget.Period.Name(budget.period)]}n"
            SPENT.labels(*labels).set(value[field] / NANO)
            RESERVED.labels(*labels).set(value["n"] / NANO)
            CAP.labels(*labels).set(value.get(f"C{field}", 0) / NANO)
    with suppress(CountersUnavailable):  # separate, since a user of Valkey can lack permission for this command alone
        MEMORY_USED.set(await counters.memory_usage())
