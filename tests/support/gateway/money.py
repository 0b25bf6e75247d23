"""Waits for the counters of money, without which nothing can be reserved and no spending is shown."""

from __future__ import annotations

import asyncio

from drw.api.gateway.v1.rate_limiting_pb2 import Budget, ListBudgetsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.counters.client import Counters
from drw.kernel.runtime.settings import Profile


async def until_counters_open(profile: Profile) -> None:
    """Wait until the counters are open."""
    counters = Counters(profile.valkey)
    async with asyncio.timeout(30):
        while not await counters.is_open():
            await asyncio.sleep(0.02)
    await counters.close()


async def counted_budgets(client: RateLimitingClient) -> list[Budget]:
    """Return the budgets that the caller sees, once all of them have their spending."""
    async with asyncio.timeout(30):
        while True:
            budgets = list((await client.list_budgets(ListBudgetsRequest())).budgets)
            if all(budget.spent for budget in budgets):
                return budgets
            await asyncio.sleep(0.02)
