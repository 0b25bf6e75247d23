"""Reads budgets once their counters are open: until then nobody says what is spent of them."""

from __future__ import annotations

import asyncio

from drw.api.gateway.v1.rate_limiting_pb2 import Budget, ListBudgetsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient


async def counted_budgets(client: RateLimitingClient) -> list[Budget]:
    """Return the budgets that the caller sees, as soon as all of them say what is spent."""
    async with asyncio.timeout(30):
        while True:
            found = list((await client.list_budgets(ListBudgetsRequest())).budgets)
            if all(budget.spent for budget in found):
                return found
            await asyncio.sleep(0.02)
