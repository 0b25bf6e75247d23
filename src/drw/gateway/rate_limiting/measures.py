"""How much of each budget is used, and what the reaper has left to do, for dashboards and alerts."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import Gauge

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget
from drw.gateway.rate_limiting.spend import PERIOD_NAMES
from drw.gateway.rate_limiting.store import PERIODS, Store
from drw.kernel.metering.amounts import NANO
from drw.kernel.metering.counters import Counters, CountersAway
from drw.kernel.metering.subjects import KINDS, Subject

LABELS = ("kind", "org", "name", "period")
SPENT = Gauge("drw_budget_spent_usd", "Spent in the present period, of budgets of desks, orgs and models.", LABELS)
RESERVED = Gauge("drw_budget_reserved_usd", "Held for calls under way: the most that each can cost.", LABELS)
CAP = Gauge("drw_budget_cap_usd", "The most that may be spent in a period.", LABELS)
ABANDONED = Gauge("drw_reservations_abandoned", "Reservations of processes that died, not settled yet.")
FULLNESS = Gauge("drw_counters_memory_used_ratio", "How much of Valkey's memory is used; full, it takes nothing more.")

GRACE_MS = 10_000


async def measure(store: Store, counters: Counters) -> None:
    """Bring the metrics up to date; while the counters are away they stay as they were."""
    found = [budget for budget, _ in await store.budgets() if budget.unit == Budget.USD and budget.subject != Block.KEY]
    subjects = [Subject(budget.subject, budget.org, budget.name) for budget in found]
    with suppress(CountersAway):
        values = await counters.peek(subjects)
        ABANDONED.set(len(await counters.expired(GRACE_MS)))
        for metric in (SPENT, RESERVED, CAP):
            metric.clear()  # of budgets that there were
        for budget, subject, value in zip(found, subjects, values, strict=True):
            labels = (KINDS[subject.kind], budget.org, budget.name, PERIOD_NAMES[budget.period])
            field = f"{PERIODS[Budget.Period.Name(budget.period)]}n"
            SPENT.labels(*labels).set(value[field] / NANO)
            RESERVED.labels(*labels).set(value["n"] / NANO)
            CAP.labels(*labels).set(value.get(f"C{field}", 0) / NANO)
    with suppress(CountersAway):  # by itself: not everybody who may count may ask for it
        FULLNESS.set(await counters.fullness())
