"""Recovery: losses of Valkey and PostgreSQL, rebuilt counters, clocks."""

from __future__ import annotations

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Policy
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.counters.rebuild import CounterRebuild
from drw.billing.ledger.attempts import Attempt, AttemptHistory
from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import settlement_rows
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
from drw.models.serving.metering.budget_gate import BudgetGate
from money.protocol import DESK, KEY, ONE, TOKEN, WHO, rows, spent
from money.world import BEAT, LEASE, World, model, report, token, usage


async def test_a_lost_valkey_refuses_until_the_books_are_whole_and_live_streams_go_on(on: World) -> None:
    gateway = on.gateway()
    done = await on.open(gateway, WHO, ONE, prompt=10, most=5, stream=False)
    await report(done.metered, usage(10, 5))
    await done.metered.finalize()
    live = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=True)
    await report(live.metered, token())
    await on.redis.flushdb()
    with pytest.raises(CountersUnavailable, match="being rebuilt") as caught:
        await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=False)
    assert caught.value.metadata["retry_after"] == "5"
    assert not await on.rebuild.tick()  # the process that calls something has not shown itself
    on.ms += BEAT * 1000
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (15 * TOKEN, 30 * TOKEN)
    await report(live.metered, token())
    await report(live.metered, usage(10, 2))
    await live.metered.finalize()
    assert await spent(on) == (27 * TOKEN, 0)


async def test_counters_of_another_ledger_are_dropped(on: World) -> None:
    await on.redis.set("drw:{meter}:epoch", "another.1")
    await on.counters.load({DESK.counter: {"tn": 5}})
    assert await on.rebuild.tick()
    assert await spent(on) == (0, 0)
    assert [key async for key in on.redis.scan_iter(match="drw:{meter}:s:*")] == [DESK.counter.encode()]  # its cap


async def test_what_is_settled_while_the_books_are_rebuilt_counts_once(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await on.redis.flushdb()
    await gateway.reservations.beat()  # registers what it calls

    class Interrupted(CounterRebuild):
        async def _from_ledger(self, *args):
            if not call.metered.settlement:  # between the survey and the snapshot
                await report(call.metered, usage(10, 5))
                await call.metered.finalize()
            return await super()._from_ledger(*args)

    assert await on.rebuilding(Interrupted).tick()
    assert await spent(on) == (15 * TOKEN, 0)
    await gateway.reservations.beat()
    await on.tick()
    assert await spent(on) == (15 * TOKEN, 0)


async def test_calls_that_end_all_the_time_do_not_keep_the_books_from_being_rebuilt(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = on.gateway()
    first, second = [await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False) for _ in range(2)]
    await on.redis.flushdb()
    await gateway.reservations.beat()

    async def end(call) -> None:
        await report(call.metered, usage(10, 5))
        await call.metered.finalize()

    whole = Counters.open

    async def interrupted(*args) -> bool:
        if not second.metered.settlement:  # after the snapshot
            await end(second)
        return await whole(*args)

    class Interrupted(CounterRebuild):
        async def _from_ledger(self, *args):
            await end(first)
            return await super()._from_ledger(*args)

    monkeypatch.setattr(Counters, "open", interrupted)
    assert await on.rebuilding(Interrupted).tick()
    assert await spent(on) == (15 * TOKEN, 30 * TOKEN)  # what the snapshot has not is still held
    await gateway.reservations.beat()
    assert await spent(on) == (30 * TOKEN, 0)
    await on.tick()
    assert await spent(on) == (30 * TOKEN, 0)


async def test_a_reservation_that_went_with_the_last_second_of_valkey_is_counted_once(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await on.lose(call)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    for _ in range(2):
        await on.tick()
        assert await spent(on) == (15 * TOKEN, 0)
    assert [row["posted"] for row in await rows(on)] == [True]


async def test_a_settlement_whose_answer_is_lost_counts_once(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=False)
    await report(call.metered, usage(10, 5))
    settle = Counters.settle

    async def unheard(*args) -> None:
        await settle(*args)
        raise CountersUnavailable("no answer")

    monkeypatch.setattr(Counters, "settle", unheard)
    await call.metered.finalize()
    monkeypatch.undo()
    await gateway.reservations.beat()
    await on.tick()
    assert await spent(on) == (15 * TOKEN, 0)


@pytest.mark.parametrize(
    "when", ["before the reaper looks", "before the reaper writes", "after the reaper has settled"]
)
async def test_a_process_that_was_paused_between_its_charge_and_the_ledger_is_counted_once(
    on: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=False)
    await report(call.metered, usage(10, 5))
    call.metered._end_attempt(given=True)
    owed = call.gateway.reservations.owe(call.reservation, "ok", "engine")
    on.ms += LEASE * 1000 + 2000
    if when == "before the reaper looks":
        await call.gateway.reservations.commit(owed)
        assert await post(on.counters, on.ledger) == 1

    expired = Counters.expired

    async def resumed(*args):
        found = await expired(*args)
        await call.gateway.reservations.commit(owed)
        return found

    if when == "before the reaper writes":
        monkeypatch.setattr(Counters, "expired", resumed)
    await on.tick()
    monkeypatch.undo()
    if when == "after the reaper has settled":
        await call.gateway.reservations.commit(owed)
    for _ in range(2):
        await on.tick()
    assert await spent(on) == (sum(row["cost"] for row in await rows(on)), 0)


@pytest.mark.parametrize("how", ["settled", "posted"])
async def test_a_clock_that_is_ahead_does_not_begin_another_day(on: World, how: str) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=20, stream=False)
    await on.counters.post([("today", on.ms, [(DESK, 60 * TOKEN, 60)])], on.ms)
    ahead, charges = on.ms + 86_400_000, [(DESK, 10 * TOKEN, 10)]
    if how == "settled":
        await on.counters.settle(call.reservation.process, call.id, ahead, charges)
    else:
        await on.counters.post([("ahead", ahead, charges)], on.ms)
        await call.metered.finalize()
    with pytest.raises(InsufficientQuota, match="has 0.00003 USD left of 0.0001 USD for today"):
        await on.open(on.gateway(), WHO, ONE, prompt=1, most=30, stream=False)


async def test_a_row_that_was_read_long_ago_is_not_counted(on: World) -> None:
    with pytest.raises(CountersUnavailable, match="read too long ago"):
        await on.counters.post([("row", on.ms, [(DESK, TOKEN, 1)])], on.ms - 301_000)
    assert await spent(on) == (0, 0)


async def test_what_the_ledger_says_is_counted_is_not_remembered_for_long(on: World) -> None:
    history = AttemptHistory("acme", "rates", "key_1", "pass", [Attempt("one", started=True)])
    row = settlement_rows("pass_1", history, at_ms=on.ms, max_cost=0, outcome="ok", counted_by="engine", posted=False)
    await on.ledger.put(row)
    await on.tick()
    assert [row["posted"] for row in await rows(on)] == [True]
    assert 0 < await on.redis.ttl("drw:{meter}:posted:pass_1") <= 600


@pytest.mark.parametrize("how", ["a copy of the tables", "an older state"])
async def test_counters_of_a_ledger_that_was_put_back_are_dropped(on: World, how: str) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=5, stream=False)
    await report(call.metered, usage(10, 5))
    await call.metered.finalize()
    if how == "an older state":
        await on.database.run("delete from metering.ledger")
        on.version -= 1
    else:
        await on.database.run("create table metering.copy (like metering.ledger including all)")
        await on.database.run("drop table metering.ledger")
        await on.database.run("alter table metering.copy rename to ledger")
    assert not await on.rebuild.tick()
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (0, 0)
    on.caps = [(DESK, "Cdn", TOKEN)]
    await on.push_caps()
    with pytest.raises(InsufficientQuota, match="of 0.000001 USD"):
        await on.open(on.gateway(), WHO, ONE, prompt=2, most=1, stream=False)


async def test_a_valkey_that_is_gone_refuses_money_at_once_and_shares_limits(on: World, profile: Profile) -> None:
    gone = Counters("unix:///nowhere", seconds=0.2)
    gateway = on.gateway()
    gateway.reservations._counters = gone
    with pytest.raises(CountersUnavailable, match="Valkey does not answer") as caught:
        await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=False)
    assert caught.value.metadata["retry_after"] == "2"
    free = model("free")
    limits = [
        Limit(key="key_1", org="acme", tokens_per_minute=100, concurrent=3, when_lost=Limit.LOCAL_SHARE),
        Limit(subject=Block.DESK, org="acme", desk="strict", concurrent=3, when_lost=Limit.FAIL_CLOSED),
    ]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)
    call = await on.open(gateway, WHO, free, prompt=40, most=20, stream=False)
    with pytest.raises(LimitReached, match="40 left of 100 for this minute"):
        await on.open(gateway, WHO, free, prompt=40, most=20, stream=False)
    await report(call.metered, usage(40, 2))
    await call.metered.finalize()
    await on.open(gateway, WHO, free, prompt=38, most=20, stream=False)
    with pytest.raises(CountersUnavailable):
        await on.open(gateway, Principal("acme", "strict", "key_2"), free, prompt=1, most=1, stream=False)
    await on.open(
        gateway, Principal("acme", "other", "key_3"), free, prompt=1, most=1, stream=False
    )  # bound by nothing
    await on.tick()
    assert (await on.counters.peek([KEY]))[0]["tt"] == 42  # what Valkey did not see it is told later
    await gone.close()


async def test_sliding_windows_and_fixed_ones(on: World) -> None:
    sliding, fixed = Subject(Block.KEY, "acme", "key_1"), Subject(Block.KEY, "acme", "key_2")
    on.caps = [(sliding, "Cw", 100), (sliding, "Cwa", "s"), (fixed, "Cw", 100), (fixed, "Cwa", "f"), (DESK, "Cc", 1)]
    await on.push_caps()
    on.ms += 20_000  # 23:59:50
    gateway, free = on.gateway(), model("free")
    limits = [Limit(key=f"key_{n}", org="acme", tokens_per_minute=100) for n in (1, 2)]
    gateway.metering = BudgetGate(CurrentPricing.fixed(Policy(limits=limits)), gateway.reservations)

    async def ask(key: str, tokens: int) -> None:
        call = await on.open(gateway, Principal("acme", "rates", key), free, prompt=tokens, most=1, stream=False)
        await report(call.metered, usage(tokens, 0))
        await call.metered.finalize()

    for key in ("key_1", "key_2"):
        await ask(key, 90)
        with pytest.raises(LimitReached, match="10 left of 100"):
            await ask(key, 20)
    on.ms += 15_000  # the minute of the clock is over, the last 60 seconds are not
    await ask("key_2", 90)
    with pytest.raises(LimitReached, match="10 left of 100") as caught:
        await ask("key_1", 20)
    assert caught.value.metadata["retry_after"] == "50"
    on.ms += 50_000
    await gateway.reservations.beat()
    await ask("key_1", 90)


async def test_a_beat_and_calls_that_pay_at_the_same_time(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway()
    first, second = [await on.open(gateway, WHO, ONE, prompt=3, most=7, stream=False) for _ in range(2)]
    owed = []
    for call in (first, second):
        await report(call.metered, usage(3, 7))
        call.metered.history.attempts[-1].completion_tokens = 7
        owed.append(gateway.reservations.owe(call.reservation, "ok", "engine"))

    async def put(self, rows, record="") -> bool:
        monkeypatch.undo()
        await gateway.reservations.commit(owed[1])  # between the beat's look at what is owed and its turn
        return await self.put(rows, record)

    monkeypatch.setattr(Ledger, "put", put)
    await gateway.reservations.beat()
    assert await spent(on) == (20 * TOKEN, 0)


async def test_sums_are_exact_beyond_what_a_double_holds(on: World) -> None:
    nobody = Subject(Block.ORG, "uncapped", "")
    for number, nano in enumerate((2**53 - 1, 1, 1, 1, -1, -2)):
        await on.counters.post([(f"row_{number}", on.ms, [(nobody, nano, 0)])], on.ms)
    assert await on.redis.hget(nobody.counter, "tn") == str(2**53 - 1).encode()


def test_a_share_holds_what_is_under_way_over_the_end_of_a_minute() -> None:
    now = 30.0
    shares, away = LocalQuota(1, lambda: now), CountersUnavailable("away")
    limits = [(KEY, Limit(tokens_per_minute=100, when_lost=Limit.LOCAL_SHARE))]

    def enter() -> QuotaShare:
        share = QuotaShare(shares, limits, 90, away)
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


async def test_rows_that_are_counted_together_count_as_one_after_the_other(on: World) -> None:
    on.caps = [(DESK, "Cw", 1000)]
    await on.push_caps()
    first = [(f"row_{n}", on.ms - 6000 * n, [(DESK, TOKEN, 2), (KEY, TOKEN, 2)]) for n in (3, 2, 1, 0)]
    assert await on.counters.post(first, on.ms) == 4
    assert await on.counters.post([*first, ("row_4", on.ms - 86_400_000, [(DESK, TOKEN, 2)])], on.ms) == 1
    desk, key = await on.counters.peek([DESK, KEY])
    assert (desk["tn"], desk["dn"], desk["tt"], desk["wt"]) == (5 * TOKEN, 4 * TOKEN, 10, 10)
    assert (key["tn"], key["tt"]) == (4 * TOKEN, 8)
