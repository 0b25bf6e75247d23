"""What the tests of the metering protocol share: the caller, prices, and reads of counters and ledger."""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Policy, Price
from drw.billing.ledger.rows import Row
from drw.billing.subjects import Subject
from drw.kernel.rpc.context import Principal
from money.world import Call, model

WHO = Principal("acme", "rates", "key_1")
KEY, DESK = Subject(Block.KEY, "acme", "key_1"), Subject(Block.DESK, "acme", "rates")
ONE, TWO = model("one"), model("two")
POLICY = Policy(
    prices=[
        Price(model="one", prompt_usd_per_million="1", completion_usd_per_million="1"),
        Price(model="two", prompt_usd_per_million="2", completion_usd_per_million="4"),
    ]
)
TOKEN = 1000
"""Nano-dollars that a token of the model `one` costs."""


async def spent(on) -> tuple[int, int]:
    (found,) = await on.counters.peek([DESK])
    return found["tn"], found["n"]


async def rows(on) -> list[dict]:
    return await on.database.all("select * from metering.ledger order by id")


def settled_rows(call: Call) -> list[Row]:
    """Return the ledger rows of a settled call."""
    assert call.metered.settlement is not None
    return list(call.metered.settlement.rows)
