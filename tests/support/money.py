"""Waits for the counters of money: until they are open nobody says what is spent, and nothing can be spent."""

from __future__ import annotations

import asyncio

from drw.api.gateway.v1.rate_limiting_pb2 import Budget, ListBudgetsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.counters.client import Counters
from drw.kernel.runtime.settings import Profile


async def counters_open(profile: Profile) -> None:
    """Return as soon as the counters are open."""
    counters = Counters(profile.valkey)
    async with asyncio.timeout(30):
        while not await counters.is_open():
            await asyncio.sleep(0.02)
    await counters.close()


async def counted_budgets(client: RateLimitingClient) -> list[Budget]:
    """Return the budgets that the caller sees, as soon as all of them say what is spent."""
    async with asyncio.timeout(30):
        while True:
            found = list((await client.list_budgets(ListBudgetsRequest())).budgets)
            if all(budget.spent for budget in found):
                return found
            await asyncio.sleep(0.02)
