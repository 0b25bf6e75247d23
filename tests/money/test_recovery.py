"""Recovery: losses of Valkey and PostgreSQL, rebuilt counters, clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Policy
from drw.billing.counters.client import Charge, Counters, CountersUnavailable
from drw.billing.counters.rebuild import CounterRebuild
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import Row, settlement_rows
from drw.billing.pricing.policy import CurrentPricing
from drw.billing.reservations.errors import (
    InsufficientQuota,
    LimitReached,
)
from drw.billing.reservations.local_quota import LocalQuota, QuotaShare
from drw.billing.reservations.reaper import post
from drw.billing.subjects import Subject
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection
from drw.models.serving.metering.budget_gate import BudgetGate
from money.metering_cluster import BEAT, LEASE, Call, MeteringCluster, model, report, token, usage
from money.protocol import CALLER, DESK, KEY, ONE, TOKEN, rows, spent


async def test_after_a_loss_of_valkey_calls_fail_until_the_rebuild_and_streams_continue(
    cluster: MeteringCluster,
) -> None:
    gateway = cluster.gateway()
    done = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    await report(done.metered, usage(10, 5))
    await done.metered.finalize()
    live = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=True)
    await report(live.metered, token())
    await cluster.redis.flushdb()
    with pytest.raises(CountersUnavailable, match="being rebuilt") as caught:
        await cluster.open(gateway, CALLER, ONE, prompt=1, max_tokens=1, stream=False)
    assert caught.value.metadata["retry_after"] == "5"
    assert not await cluster.rebuild.tick()  # the process with a reservation has not sent a heartbeat
    cluster.ms += BEAT * 1000
    await gateway.reservations.heartbeat()
    assert await cluster.rebuild.tick()
    assert await spent(cluster) == (15 * TOKEN, 30 * TOKEN)
    await report(live.metered, token())
    await report(live.metered, usage(10, 2))
    await live.metered.finalize()
    assert await spent(cluster) == (27 * TOKEN, 0)


async def test_counters_of_another_ledger_are_deleted(cluster: MeteringCluster) -> None:
    await cluster.redis.set("drw:{meter}:epoch", "another.1")
    await cluster.counters.load({DESK.counter: {"tn": 5}})
    assert await cluster.rebuild.tick()
    assert await spent(cluster) == (0, 0)
    assert [key async for key in cluster.redis.scan_iter(match="drw:{meter}:s:*")] == [DESK.counter.encode()]  # its cap


async def test_a_settlement_during_a_rebuild_counts_once(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=False)
    await cluster.redis.flushdb()
    await gateway.reservations.heartbeat()  # registers its reservations again

    class Interrupted(CounterRebuild):
        async def _from_ledger(
            self, connection: Connection, changes: str, processes: set[str], reservations: set[str]
        ) -> bool:
            if not call.metered.settlement:  # between the survey and the snapshot
                await report(call.metered, usage(10, 5))
                await call.metered.finalize()
            return await super()._from_ledger(connection, changes, processes, reservations)

    assert await cluster.create_rebuild(Interrupted).tick()
    assert await spent(cluster) == (15 * TOKEN, 0)
    await gateway.reservations.heartbeat()
    await cluster.tick()
    assert await spent(cluster) == (15 * TOKEN, 0)


async def test_a_rebuild_completes_while_calls_keep_ending(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway()
    first, second = [await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=False) for _ in range(2)]
    await cluster.redis.flushdb()
    await gateway.reservations.heartbeat()

    async def end(call: Call) -> None:
        await report(call.metered, usage(10, 5))
        await call.metered.finalize()

    open_counters = Counters.open

    async def interrupted(
        counters: Counters, epoch: str, changes: str, settled: Sequence[str], posted: Sequence[str]
    ) -> bool:
        if not second.metered.settlement:  # after the snapshot
            await end(second)
        return await open_counters(counters, epoch, changes, settled, posted)

    class Interrupted(CounterRebuild):
        async def _from_ledger(
            self, connection: Connection, changes: str, processes: set[str], reservations: set[str]
        ) -> bool:
            await end(first)
            return await super()._from_ledger(connection, changes, processes, reservations)

    monkeypatch.setattr(Counters, "open", interrupted)
    assert await cluster.create_rebuild(Interrupted).tick()
    assert await spent(cluster) == (15 * TOKEN, 30 * TOKEN)  # the call that is not in the snapshot is still reserved
    await gateway.reservations.heartbeat()
    assert await spent(cluster) == (30 * TOKEN, 0)
    await cluster.tick()
    assert await spent(cluster) == (30 * TOKEN, 0)


async def test_a_call_whose_reservation_valkey_lost_is_counted_once(cluster: MeteringCluster) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=False)
    await cluster.lose_reservation(call)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    for _ in range(2):
        await cluster.tick()
        assert await spent(cluster) == (15 * TOKEN, 0)
    assert [row["posted"] for row in await rows(cluster)] == [True]


async def test_a_settlement_without_a_response_counts_once(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=20, stream=False)
    await report(call.metered, usage(10, 5))
    settle = Counters.settle

    async def settle_without_response(
        counters: Counters, process: str, id: str, at_ms: float, charges: Iterable[Charge], unposted: Sequence[str] = ()
    ) -> None:
        await settle(counters, process, id, at_ms, charges, unposted)
        raise CountersUnavailable("no answer")

    monkeypatch.setattr(Counters, "settle", settle_without_response)
    await call.metered.finalize()
    monkeypatch.undo()
    await gateway.reservations.heartbeat()
    await cluster.tick()
    assert await spent(cluster) == (15 * TOKEN, 0)


@pytest.mark.parametrize(
    "when", ["before the reaper looks", "before the reaper writes", "after the reaper has settled"]
)
async def test_a_process_paused_before_its_ledger_write_is_counted_once(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=20, stream=False)
    await report(call.metered, usage(10, 5))
    call.metered._end_attempt(delivered=True)
    settlement = call.gateway.reservations.prepare_settlement(call.reservation, "ok", "engine")
    cluster.ms += LEASE * 1000 + 2000
    if when == "before the reaper looks":
        await call.gateway.reservations.commit(settlement)
        assert await post(cluster.counters, cluster.ledger) == 1

    expired = Counters.expired

    async def expired_after_commit(counters: Counters, grace_ms: int) -> list[tuple[str, str, int, int, bytes]]:
        found = await expired(counters, grace_ms)
        await call.gateway.reservations.commit(settlement)
        return found

    if when == "before the reaper writes":
        monkeypatch.setattr(Counters, "expired", expired_after_commit)
    await cluster.tick()
    monkeypatch.undo()
    if when == "after the reaper has settled":
        await call.gateway.reservations.commit(settlement)
    for _ in range(2):
        await cluster.tick()
    assert await spent(cluster) == (sum(row["cost"] for row in await rows(cluster)), 0)


@pytest.mark.parametrize("source", ["settled", "posted"])
async def test_a_clock_ahead_of_valkey_does_not_start_a_new_day(cluster: MeteringCluster, source: str) -> None:
    call = await cluster.open(cluster.gateway(), CALLER, ONE, prompt=10, max_tokens=20, stream=False)
    await cluster.counters.post([("today", cluster.ms, [(DESK, 60 * TOKEN, 60)])], cluster.ms)
    ahead, charges = cluster.ms + 86_400_000, [(DESK, 10 * TOKEN, 10)]
    if source == "settled":
        await cluster.counters.settle(call.reservation.process, call.id, ahead, charges)
    else:
        await cluster.counters.post([("ahead", ahead, charges)], cluster.ms)
        await call.metered.finalize()
    with pytest.raises(InsufficientQuota, match="has 0.00003 USD left of 0.0001 USD for today"):
        await cluster.open(cluster.gateway(), CALLER, ONE, prompt=1, max_tokens=30, stream=False)


async def test_a_row_read_too_long_ago_is_not_posted(cluster: MeteringCluster) -> None:
    with pytest.raises(CountersUnavailable, match="read too long ago"):
        await cluster.counters.post([("row", cluster.ms, [(DESK, TOKEN, 1)])], cluster.ms - 301_000)
    assert await spent(cluster) == (0, 0)


async def test_deduplication_marks_of_posted_rows_expire_early(cluster: MeteringCluster) -> None:
    history = AttemptHistory("acme", "rates", "key_1", "pass", [Attempt("one", started=True)])
    row = settlement_rows(
        "pass_1", history, at_ms=cluster.ms, max_cost=0, outcome="ok", counted_by="engine", posted=False
    )
    await cluster.ledger.put(row)
    await cluster.tick()
    assert [row["posted"] for row in await rows(cluster)] == [True]
    assert 0 < await cluster.redis.ttl("drw:{meter}:posted:pass_1") <= 600


@pytest.mark.parametrize("restored_as", ["a copy of the tables", "an older state"])
async def test_counters_of_a_restored_ledger_are_deleted(cluster: MeteringCluster, restored_as: str) -> None:
    gateway = cluster.gateway()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=5, stream=False)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    if restored_as == "an older state":
        await cluster.database.run("delete from metering.ledger")
        cluster.version -= 1
    else:
        await cluster.database.run("create table metering.copy (like metering.ledger including all)")
        await cluster.database.run("drop table metering.ledger")
        await cluster.database.run("alter table metering.copy rename to ledger")
    assert not await cluster.rebuild.tick()
    await gateway.reservations.heartbeat()
    assert await cluster.rebuild.tick()
    assert await spent(cluster) == (0, 0)
    cluster.caps = [(DESK, "Cdn", TOKEN)]
    await cluster.push_caps()
    with pytest.raises(InsufficientQuota, match="of 0.000001 USD"):
        await cluster.open(cluster.gateway(), CALLER, ONE, prompt=2, max_tokens=1, stream=False)


async def test_without_valkey_priced_calls_fail_and_limits_are_shared_by_processes(
    cluster: MeteringCluster, profile: Profile
) -> None:
    unreachable = Counters("unix:///nowhere", seconds=0.2)
    gateway = cluster.gateway()
    gateway.reservations._counters = unreachable
    with pytest.raises(CountersUnavailable, match="Valkey does not answer") as caught:
        await cluster.open(gateway, CALLER, ONE, prompt=1, max_tokens=1, stream=False)
    assert caught.value.metadata["retry_after"] == "2"
    free = model("free")
    limits = [
        Limit(key="key_1", org="acme", tokens_per_minute=100, concurrent=3, when_lost=Limit.LOCAL_SHARE),
        Limit(subject=Block.DESK, org="acme", desk="strict", concurrent=3, when_lost=Limit.FAIL_CLOSED),
    ]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)
    call = await cluster.open(gateway, CALLER, free, prompt=40, max_tokens=20, stream=False)
    with pytest.raises(LimitReached, match="40 left of 100 for this minute"):
        await cluster.open(gateway, CALLER, free, prompt=40, max_tokens=20, stream=False)
    await report(call.metered, usage(40, 2))
    await call.metered.finalize()
    await cluster.open(gateway, CALLER, free, prompt=38, max_tokens=20, stream=False)
    with pytest.raises(CountersUnavailable):
        await cluster.open(gateway, Principal("acme", "strict", "key_2"), free, prompt=1, max_tokens=1, stream=False)
    without_limits = Principal("acme", "other", "key_3")
    await cluster.open(gateway, without_limits, free, prompt=1, max_tokens=1, stream=False)
    await cluster.tick()
    assert (await cluster.counters.peek([KEY]))[0]["tt"] == 42  # usage without Valkey is posted later
    await unreachable.close()


async def test_a_sliding_window_covers_60_seconds_and_a_fixed_one_a_minute_of_the_clock(
    cluster: MeteringCluster,
) -> None:
    sliding, fixed = Subject(Block.KEY, "acme", "key_1"), Subject(Block.KEY, "acme", "key_2")
    cluster.caps = [
        (sliding, "Cw", 100),
        (sliding, "Cwa", "s"),
        (fixed, "Cw", 100),
        (fixed, "Cwa", "f"),
        (DESK, "Cc", 1),
    ]
    await cluster.push_caps()
    cluster.ms += 20_000  # 23:59:50
    gateway, free = cluster.gateway(), model("free")
    limits = [Limit(key=f"key_{n}", org="acme", tokens_per_minute=100) for n in (1, 2)]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)

    async def call_model(key: str, tokens: int) -> None:
        call = await cluster.open(
            gateway, Principal("acme", "rates", key), free, prompt=tokens, max_tokens=1, stream=False
        )
        await report(call.metered, usage(tokens, 0))
        await call.metered.finalize()

    for key in ("key_1", "key_2"):
        await call_model(key, 90)
        with pytest.raises(LimitReached, match="10 left of 100"):
            await call_model(key, 20)
    cluster.ms += 15_000  # a new minute of the clock, but within 60 seconds
    await call_model("key_2", 90)
    with pytest.raises(LimitReached, match="10 left of 100") as caught:
        await call_model("key_1", 20)
    assert caught.value.metadata["retry_after"] == "50"
    cluster.ms += 50_000
    await gateway.reservations.heartbeat()
    await call_model("key_1", 90)


async def test_a_heartbeat_concurrent_with_a_settlement_charges_once(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway()
    first, second = [await cluster.open(gateway, CALLER, ONE, prompt=3, max_tokens=7, stream=False) for _ in range(2)]
    settlement = []
    for call in (first, second):
        await report(call.metered, usage(3, 7))
        call.metered.history.attempts[-1].completion_tokens = 7
        settlement.append(gateway.reservations.prepare_settlement(call.reservation, "ok", "engine"))

    async def put(self: Ledger, rows: Sequence[Row], record: str = "") -> bool:
        monkeypatch.undo()
        await gateway.reservations.commit(settlement[1])  # while the heartbeat settles pending calls
        return await self.put(rows, record)

    monkeypatch.setattr(Ledger, "put", put)
    await gateway.reservations.heartbeat()
    assert await spent(cluster) == (20 * TOKEN, 0)


async def test_sums_are_exact_up_to_the_precision_of_a_double(cluster: MeteringCluster) -> None:
    nobody = Subject(Block.ORG, "uncapped", "")
    for number, nano in enumerate((2**53 - 1, 1, 1, 1, -1, -2)):
        await cluster.counters.post([(f"row_{number}", cluster.ms, [(nobody, nano, 0)])], cluster.ms)
    assert await cluster.redis.hget(nobody.counter, "tn") == str(2**53 - 1).encode()


def test_a_local_quota_keeps_tokens_in_flight_across_minutes() -> None:
    now = 30.0
    quota, unavailable = LocalQuota(1, lambda: now), CountersUnavailable("away")
    limits = [(KEY, Limit(tokens_per_minute=100, when_lost=Limit.LOCAL_SHARE))]

    def enter() -> QuotaShare:
        share = QuotaShare(quota, limits, 90, unavailable)
        share.enter([KEY])
        return share

    first = enter()
    now = 70.0
    with pytest.raises(LimitReached, match="10 left of 100"):
        enter()
    first.leave(5)
    second = enter()
    with pytest.raises(LimitReached, match="5 left of 100"):
        enter()
    second.leave(90)
    with pytest.raises(LimitReached, match="5 left of 100"):
        enter()


async def test_rows_posted_together_count_like_rows_posted_one_by_one(cluster: MeteringCluster) -> None:
    cluster.caps = [(DESK, "Cw", 1000)]
    await cluster.push_caps()
    first = [(f"row_{n}", cluster.ms - 6000 * n, [(DESK, TOKEN, 2), (KEY, TOKEN, 2)]) for n in (3, 2, 1, 0)]
    assert await cluster.counters.post(first, cluster.ms) == 4
    assert (
        await cluster.counters.post([*first, ("row_4", cluster.ms - 86_400_000, [(DESK, TOKEN, 2)])], cluster.ms) == 1
    )
    desk, key = await cluster.counters.peek([DESK, KEY])
    assert (desk["tn"], desk["dn"], desk["tt"], desk["wt"]) == (5 * TOKEN, 4 * TOKEN, 10, 10)
    assert (key["tn"], key["tt"]) == (4 * TOKEN, 8)
