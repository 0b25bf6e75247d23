"""Settlement: failed writes, dead processes, leases, zombies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from drw.billing.counters.client import Charge, SettleResult
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settlement_rows, total_charges
from drw.billing.reservations.errors import (
    ReservationLost,
)
from drw.kernel.errors import ClientDisconnected, Unavailable
from money.metering_cluster import BLOCK, LEASE, Call, MeteringCluster, report, token, usage
from money.protocol import CALLER, DESK, ONE, TOKEN, rows, settled_rows, spent
from support.json_types import JsonObject


class UnavailableLedger(Ledger):
    """Fails before the rows are written, or after."""

    def __init__(self, cluster: MeteringCluster, *, written: bool) -> None:
        super().__init__(cluster.database)
        self.written = written

    async def put(self, rows: Sequence[Row], record: str = "") -> bool:
        if self.written:
            await super().put(rows, record)
        raise Unavailable("the database does not answer")


@pytest.mark.parametrize(
    ("written", "stream", "charged"),
    [(False, False, ("failed", 0)), (False, True, ("failed", 12)), (True, False, ("ok", 12)), (True, True, ("ok", 12))],
)
async def test_an_answer_that_could_not_be_charged_is_settled_as_failed(
    cluster: MeteringCluster, written: bool, stream: bool, charged: tuple[str, int]
) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=stream)
    for chunk in (token(), token(), usage(10, 2)):
        await report(call.metered, chunk)
    gateway.reservations._ledger = UnavailableLedger(cluster, written=written)
    with pytest.raises(Unavailable) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    assert await spent(cluster) == (0, 30 * TOKEN)  # reserved until the ledger responds
    gateway.reservations._ledger = cluster.ledger
    await gateway.reservations.heartbeat()
    assert [(row["outcome"], row["cost"] // TOKEN) for row in await rows(cluster)] == [charged]
    assert await spent(cluster) == (charged[1] * TOKEN, 0)


async def test_an_invalid_row_does_not_affect_other_calls(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    invalid_call, valid_call = [
        await cluster.open(gateway, CALLER, ONE, prompt=3, max_tokens=7, stream=False) for _ in range(2)
    ]
    valid_call.metered.history.attempts[-1].completion_tokens = 7
    invalid_call.metered.history.attempts[-1].completion_tokens = 10**29
    invalid_rows, _ = [
        gateway.reservations.prepare_settlement(call.reservation, "ok", "engine").rows
        for call in (invalid_call, valid_call)
    ]
    valid_rows = settlement_rows(
        "another", valid_call.metered.history, at_ms=cluster.ms, max_cost=0, outcome="ok", counted_by="engine"
    )
    ledger = gateway.reservations._ledger
    rejected, written = await asyncio.gather(ledger.put(invalid_rows), ledger.put(valid_rows), return_exceptions=True)
    assert isinstance(rejected, TypeError) and written is True
    await gateway.reservations.heartbeat()
    assert [row["id"] for row in await rows(cluster)] == sorted(["another", valid_call.id])
    assert list(gateway.reservations._pending) == [invalid_call.id]
    assert await spent(cluster) == (10 * TOKEN, 10 * TOKEN)


async def test_a_hanging_ledger_does_not_end_the_lease(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway(heartbeat_seconds=0.001)
    live, done = [
        await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=stream) for stream in (True, False)
    ]
    hanging, never, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    renew = gateway.counters.renew

    async def put(self: Ledger, rows: Sequence[Row], record: str = "") -> bool:
        hanging.set()
        return await never.wait()

    async def renews(process: str, ttl_ms: int) -> bool:
        answer = await renew(process, ttl_ms)
        renewed.set()
        return answer

    monkeypatch.setattr(Ledger, "put", put)
    monkeypatch.setattr(gateway.counters, "renew", renews)
    done.metered.history.attempts[-1].completion_tokens = 5
    gateway.reservations.prepare_settlement(done.reservation, "ok", "engine")
    heartbeats = asyncio.create_task(gateway.reservations.run())
    await hanging.wait()
    for _ in range(3):
        cluster.ms += LEASE * 600
        for _ in range(2):  # one may have begun before the clock was advanced
            renewed.clear()
            await renewed.wait()
        await report(live.metered, token())
    heartbeats.cancel()
    monkeypatch.undo()
    await gateway.reservations.heartbeat()
    await live.metered.finalize(ClientDisconnected())
    assert await spent(cluster) == (28 * TOKEN, 0)


async def test_settling_is_idempotent(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=5, max_tokens=5, stream=False)
    await report(call.metered, usage(5, 5))
    await call.metered.finalize()
    await call.metered.finalize()
    assert await cluster.counters.settle("", call.id, cluster.ms, total_charges(settled_rows(call))) == "elsewhere"
    assert await spent(cluster) == (10 * TOKEN, 0)
    for _ in range(2):
        await cluster.ledger.put(settled_rows(call))
    assert len(await rows(cluster)) == 1


async def test_a_dead_process_is_settled_with_the_usage_it_wrote_ahead(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    for _ in range(BLOCK + 1):
        await report(call.metered, token())
    cluster.ms += LEASE * 1000 - 1
    await cluster.tick()
    assert await spent(cluster) == (0, 70 * TOKEN)  # not yet
    cluster.ms += 2000
    await cluster.tick()
    (row,) = await rows(cluster)
    assert (row["completion_tokens"], row["outcome"], row["counted_by"]) == (2 * BLOCK, "abandoned", "written_ahead")
    assert await spent(cluster) == ((10 + 2 * BLOCK) * TOKEN, 0)


async def record_in_ledger(cluster: MeteringCluster, call: Call, *chunks: JsonObject) -> None:
    """Leave the call as if its process died after the ledger write and before the counters are updated."""
    for chunk in chunks:
        await report(call.metered, chunk)
    call.metered._end_attempt(delivered=True, complete=True)
    max_cost = call.reservation.nano
    await cluster.ledger.put(
        settlement_rows(
            call.id, call.metered.history, at_ms=cluster.ms, max_cost=max_cost, outcome="ok", counted_by="engine"
        )
    )


async def test_a_process_that_died_after_its_ledger_write_is_settled_by_its_row(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await record_in_ledger(cluster, call, token(), usage(8, 1))
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()
    assert await spent(cluster) == (9 * TOKEN, 0)
    assert len(await rows(cluster)) == 1


async def test_a_call_in_the_ledger_is_not_reserved_again_after_a_loss(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await record_in_ledger(cluster, call, token(), usage(8, 1))
    await cluster.redis.flushdb()
    await gateway.reservations.heartbeat()
    assert await cluster.rebuild.tick()
    assert await spent(cluster) == (9 * TOKEN, 0)
    assert await cluster.counters.settle("", call.id, cluster.ms, [(DESK, 9 * TOKEN, 9)]) == "elsewhere"
    assert await spent(cluster) == (9 * TOKEN, 0)


async def test_a_process_paused_beyond_its_lease_cannot_continue_and_is_charged_once(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await report(call.metered, token())
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()  # the reaper charges a whole block
    assert await spent(cluster) == ((10 + BLOCK) * TOKEN, 0)
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    await cluster.tick()
    assert [(row["id"], row["completion_tokens"], row["counted_by"]) for row in await rows(cluster)] == [
        (call.id, BLOCK, "written_ahead"),
        (f"{call.id}/late", 1 - BLOCK, "chunks"),
    ]
    assert await spent(cluster) == (11 * TOKEN, 0)
    next_call = await cluster.open(gateway, CALLER, ONE, prompt=1, max_tokens=1, stream=True)  # under a new lease
    await next_call.metered.finalize(ClientDisconnected())


async def test_a_process_that_resumes_during_its_settlement_is_charged_once(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await report(call.metered, token())
    cluster.ms += LEASE * 1000 + 2000
    settle = cluster.counters.settle

    async def settle_late(
        process: str, id: str, at_ms: float, charges: Iterable[Charge], unposted: Sequence[str] = ()
    ) -> SettleResult:
        await call.metered.finalize(ReservationLost("lost"))  # between the reaper's ledger write and its settlement
        return await settle(process, id, at_ms, charges, unposted)

    monkeypatch.setattr(cluster.counters, "settle", settle_late)
    await cluster.tick()
    await cluster.tick()
    assert [row["completion_tokens"] for row in await rows(cluster)] == [BLOCK, 1 - BLOCK]
    assert await spent(cluster) == (11 * TOKEN, 0)


async def test_a_complete_answer_without_its_reservation_is_not_delivered(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=False)
    await report(call.metered, usage(10, 50))
    cluster.ms += LEASE * 1000 + 2000
    await cluster.tick()
    with pytest.raises(ReservationLost) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    await cluster.tick()
    assert await spent(cluster) == (0, 0)


async def test_a_lease_that_ended_only_by_the_clock_of_its_process_is_settled_once(cluster: MeteringCluster) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=60, stream=True)
    await report(call.metered, token())
    cluster.ms += LEASE * 1000 - 1000  # ended by the clock of the process, which has a margin, not by Valkey's
    await call.metered.finalize(ClientDisconnected())
    assert await spent(cluster) == (11 * TOKEN, 0)
    await cluster.tick()
    assert await spent(cluster) == (11 * TOKEN, 0)
    assert [row["posted"] for row in await rows(cluster)] == [True]
