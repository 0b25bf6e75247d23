"""Finalizing a call: one settlement, written once together with its audit record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import orjson
import pytest

from drw.billing.ledger.ledger import InCommit, Ledger
from drw.billing.ledger.rows import Row
from drw.billing.reservations.reservation import Settlement
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import ClientDisconnected, Unavailable
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.models.serving.routing.candidates import ChatModel
from money.metering_cluster import MeteringCluster, model, report, running_cluster, token, usage
from money.protocol import CALLER, DESK, ONE, POLICY, TOKEN

FREE = model("free")
AUDIT_LINE = orjson.dumps({"action": "test.call"}).decode()


class DoubleRecord:
    """Records the calls of a settlement to an audit record, in order."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.in_commit: InCommit | None = None

    def charge(self, settlement: Settlement) -> None:
        self.events.append(settlement.cost)

    @contextmanager
    def closing(self) -> Iterator[str]:
        self.events.append("closing")
        try:
            yield AUDIT_LINE
        except Unavailable:
            self.events.append("not written")
            raise
        self.events.append("written")


@pytest.fixture
async def cluster(profile: Profile) -> AsyncIterator[MeteringCluster]:
    """A cluster with an audit inbox, and a desk with a budget of 100 tokens of the model `one`."""
    inbox = Database(profile.postgres, "audit")
    await inbox.start("drw.kernel.storage")
    async with running_cluster(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as writes:
        yield writes
    await inbox.stop()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """The row ids and the audit line of each write of the ledger."""
    writes: list[tuple[list[str], str]] = []
    put = Ledger.put

    async def put_and_record(self: Ledger, rows: Sequence[Row], record: str = "") -> bool:
        writes.append(([row.id for row in rows], record))
        return await put(self, rows, record)

    monkeypatch.setattr(Ledger, "put", put_and_record)
    return writes


@pytest.mark.parametrize("priced", [ONE, FREE])
async def test_a_settlement_and_its_audit_record_are_one_commit(
    cluster: MeteringCluster, commits: list[tuple[list[str], str]], priced: ChatModel
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, priced, prompt=10, max_tokens=5, stream=False)
    await report(call.metered, usage(10, 5))
    record = DoubleRecord()
    settlement = await call.metered.finalize(record=record)
    assert commits == [([settlement.id], AUDIT_LINE)]
    assert await cluster.database.all("select record from audit.inbox") == [{"record": AUDIT_LINE}]
    assert record.events == [settlement.cost, "closing", "written"]
    assert settlement.cost == (15 * TOKEN if priced is ONE else 0)
    assert await call.metered.finalize(record=record) is settlement
    assert len(commits) == 1 and len(record.events) == 3


async def test_a_call_that_failed_is_settled_without_closing_its_record(
    cluster: MeteringCluster, commits: list[tuple[list[str], str]]
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=True)
    await report(call.metered, token())
    record = DoubleRecord()
    settlement = await call.metered.finalize(ClientDisconnected(), record)
    assert commits == [([settlement.id], "")]
    assert record.events == [11 * TOKEN]


async def test_a_settlement_that_cannot_be_written_is_charged_once_in_its_record(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    await report(call.metered, usage(10, 5))
    record = DoubleRecord()

    async def unavailable(self: Ledger, rows: Sequence[Row], record: str = "") -> bool:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(Ledger, "put", unavailable)
    with pytest.raises(Unavailable) as caught:
        await call.metered.finalize(record=record)
    await call.metered.finalize(caught.value, record)
    assert record.events == [15 * TOKEN, "closing", "not written"]
    monkeypatch.undo()
    await call.gateway.reservations.heartbeat()
    stored = await cluster.database.all("select outcome, cost from metering.ledger")
    assert stored == [{"outcome": "failed", "cost": 0}]  # the answer was not delivered


async def test_usage_without_chunks_is_metered(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=0, stream=False)
    await call.metered.progress(UsageUpdate(input_tokens=7, output_tokens=0, final=True, characters=30))
    settlement = await call.metered.finalize()
    (row,) = settlement.rows
    assert (row.prompt_tokens, row.completion_tokens, row.counted_by, row.cost) == (7, 0, "engine", 7 * TOKEN)
    assert settlement.details == {"characters": 30}
