"""The end of a call: one settlement, written once together with its audit record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Policy, Price
from drw.billing.ledger.ledger import Ledger
from drw.billing.reservations.reservation import Settlement
from drw.billing.subjects import Subject
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import ClientGone, Unavailable
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from money.world import World, model, report, token, usage, world

WHO = Principal("acme", "rates", "key_1")
DESK = Subject(Block.DESK, "acme", "rates")
ONE, FREE = model("one"), model("free")
POLICY = Policy(prices=[Price(model="one", prompt_usd_per_million="1", completion_usd_per_million="1")])
TOKEN = 1000
"""Nano-dollars that a token of the model `one` costs."""
LINE = orjson.dumps({"action": "test.call"}).decode()


class DoubleRecord:
    """Remembers what a settlement does to an audit record, in order."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def charge(self, settlement: Settlement) -> None:
        self.events.append(settlement.cost)

    @contextmanager
    def closing(self) -> Iterator[str]:
        self.events.append("closing")
        try:
            yield LINE
        except Unavailable:
            self.events.append("not written")
            raise
        self.events.append("written")


@pytest.fixture
async def on(profile: Profile) -> AsyncIterator[World]:
    """A desk that may spend what 100 tokens of the model `one` cost."""
    inbox = Database(profile.postgres, "audit")
    await inbox.start("drw.kernel.storage")
    async with world(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as made:
        yield made
    await inbox.stop()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """The ids of the rows and the audit line of each write of the ledger."""
    made: list[tuple[list[str], str]] = []
    put = Ledger.put

    async def noted(self, rows, record="") -> bool:
        made.append(([row.id for row in rows], record))
        return await put(self, rows, record)

    monkeypatch.setattr(Ledger, "put", noted)
    return made


@pytest.mark.parametrize("priced", [ONE, FREE])
async def test_a_settlement_and_its_audit_record_are_one_commit(
    on: World, commits: list[tuple[list[str], str]], priced: Any
) -> None:
    call = await on.open(on.gateway(), WHO, priced, prompt=10, most=5, stream=False)
    await report(call.metered, usage(10, 5))
    record = DoubleRecord()
    settlement = await call.metered.finalize(record=record)
    assert commits == [([settlement.id], LINE)]
    assert await on.database.all("select record from audit.inbox") == [{"record": LINE}]
    assert record.events == [settlement.cost, "closing", "written"]
    assert settlement.cost == (15 * TOKEN if priced is ONE else 0)
    assert await call.metered.finalize(record=record) is settlement
    assert len(commits) == 1 and len(record.events) == 3


async def test_a_call_that_failed_is_settled_without_closing_its_record(
    on: World, commits: list[tuple[list[str], str]]
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=True)
    await report(call.metered, token())
    record = DoubleRecord()
    settlement = await call.metered.finalize(ClientGone(), record)
    assert commits == [([settlement.id], "")]
    assert record.events == [11 * TOKEN]


async def test_a_settlement_that_cannot_be_written_charges_its_record_once(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=5, stream=False)
    await report(call.metered, usage(10, 5))
    record = DoubleRecord()

    async def away(self, rows, record="") -> bool:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(Ledger, "put", away)
    with pytest.raises(Unavailable) as caught:
        await call.metered.finalize(record=record)
    await call.metered.finalize(caught.value, record)
    assert record.events == [15 * TOKEN, "closing", "not written"]
    monkeypatch.undo()
    await call.gateway.reservations.beat()
    found = await on.database.all("select outcome, cost from metering.ledger")
    assert found == [{"outcome": "failed", "cost": 0}]  # nobody got the answer as whole


async def test_usage_without_chunks_is_metered(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=0, stream=False)
    await call.metered.progress(UsageUpdate(input_tokens=7, output_tokens=0, final=True, characters=30))
    settlement = await call.metered.finalize()
    (row,) = settlement.rows
    assert (row.prompt_tokens, row.completion_tokens, row.counted_by, row.cost) == (7, 0, "engine", 7 * TOKEN)
    assert settlement.details == {"characters": 30}
