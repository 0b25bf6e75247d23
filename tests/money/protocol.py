"""Shared by the tests of the metering protocol: the caller, prices, and queries of counters and ledger."""

from __future__ import annotations

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Policy, Price
from drw.billing.ledger.rows import Row
from drw.billing.subjects import Subject
from drw.kernel.rpc.context import Principal
from money.metering_cluster import Call, MeteringCluster, model
from support.json_types import JsonObject

CALLER = Principal("acme", "rates", "key_1")
KEY, DESK = Subject(Block.KEY, "acme", "key_1"), Subject(Block.DESK, "acme", "rates")
ONE, TWO = model("one"), model("two")
POLICY = Policy(
    prices=[
        Price(model="one", prompt_usd_per_million="1", completion_usd_per_million="1"),
        Price(model="two", prompt_usd_per_million="2", completion_usd_per_million="4"),
    ]
)
TOKEN = 1000
"""Price of a token of the model `one` in nano-dollars."""


async def spent(cluster: MeteringCluster) -> tuple[int, int]:
    """Return the nano-dollars that the desk has spent and reserved."""
    (counters,) = await cluster.counters.peek([DESK])
    return counters["tn"], counters["n"]


async def rows(cluster: MeteringCluster) -> list[JsonObject]:
    """Return all rows of the ledger."""
    return await cluster.database.all("select * from metering.ledger order by id")


def settled_rows(call: Call) -> list[Row]:
    """Return the ledger rows of a settled call."""
    assert call.metered.settlement is not None
    return list(call.metered.settlement.rows)
