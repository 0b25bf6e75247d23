"""Settlement: failed writes, dead processes, leases, zombies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drw.billing.ledger.ledger import Ledger
from drw.billing.ledger.rows import settlement_rows, total
from drw.billing.reservations.errors import (
    ReservationLost,
)
from drw.kernel.errors import ClientGone, Unavailable
from money.protocol import DESK, ONE, TOKEN, WHO, rows, settled_rows, spent
from money.world import BLOCK, LEASE, World, report, token, usage


class Away(Ledger):
    """Goes away before the rows are written, or after."""

    def __init__(self, on, *, written: bool) -> None:
        super().__init__(on.database)
        self.written = written

    async def put(self, rows, record="") -> bool:
        if self.written:
            await super().put(rows, record)
        raise Unavailable("the database does not answer")


@pytest.mark.parametrize(
    ("written", "stream", "paid"),
    [(False, False, ("failed", 0)), (False, True, ("failed", 12)), (True, False, ("ok", 12)), (True, True, ("ok", 12))],
)
async def test_an_answer_that_could_not_be_paid_is_not_owed_as_one_that_was_given(
    on: World, written: bool, stream: bool, paid: Any
) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=stream)
    for chunk in (token(), token(), usage(10, 2)):
        await report(call.metered, chunk)
    gateway.reservations._ledger = Away(on, written=written)
    with pytest.raises(Unavailable) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    assert await spent(on) == (0, 30 * TOKEN)  # held until it is known
    gateway.reservations._ledger = on.ledger
    await gateway.reservations.beat()
    assert [(row["outcome"], row["cost"] // TOKEN) for row in await rows(on)] == [paid]
    assert await spent(on) == (paid[1] * TOKEN, 0)


async def test_a_row_that_cannot_be_written_is_no_other_calls_business(on: World) -> None:
    gateway = on.gateway()
    bad, good = [await on.open(gateway, WHO, ONE, prompt=3, most=7, stream=False) for _ in range(2)]
    good.metered.history.attempts[-1].completion_tokens = 7
    bad.metered.history.attempts[-1].completion_tokens = 10**29
    wrong, _ = [gateway.reservations.owe(call.reservation, "ok", "engine").rows for call in (bad, good)]
    other = settlement_rows("another", good.metered.history, at_ms=on.ms, max_cost=0, outcome="ok", counted_by="engine")
    ledger = gateway.reservations._ledger
    refused, written = await asyncio.gather(ledger.put(wrong), ledger.put(other), return_exceptions=True)
    assert isinstance(refused, TypeError) and written is True
    await gateway.reservations.beat()
    assert [row["id"] for row in await rows(on)] == sorted(["another", good.id])
    assert list(gateway.reservations._owed) == [bad.id]
    assert await spent(on) == (10 * TOKEN, 10 * TOKEN)


async def test_a_ledger_that_hangs_ends_no_lease(on: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = on.gateway(heartbeat_seconds=0.001)
    live, done = [await on.open(gateway, WHO, ONE, prompt=10, most=20, stream=stream) for stream in (True, False)]
    hangs, never, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    renew = gateway.counters.renew

    async def put(self, rows, record="") -> bool:
        hangs.set()
        return await never.wait()

    async def renews(*args) -> bool:
        answer = await renew(*args)
        renewed.set()
        return answer

    monkeypatch.setattr(Ledger, "put", put)
    monkeypatch.setattr(gateway.counters, "renew", renews)
    done.metered.history.attempts[-1].completion_tokens = 5
    gateway.reservations.owe(done.reservation, "ok", "engine")
    beating = asyncio.create_task(gateway.reservations.run())
    await hangs.wait()
    for _ in range(3):
        on.ms += LEASE * 600
        for _ in range(2):  # one may have begun before the clock went on
            renewed.clear()
            await renewed.wait()
        await report(live.metered, token())
    beating.cancel()
    monkeypatch.undo()
    await gateway.reservations.beat()
    await live.metered.finalize(ClientGone())
    assert await spent(on) == (28 * TOKEN, 0)


async def test_settling_twice_is_settling_once(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=5, most=5, stream=False)
    await report(call.metered, usage(5, 5))
    await call.metered.finalize()
    await call.metered.finalize()
    assert await on.counters.settle("", call.id, on.ms, total(settled_rows(call))) == "elsewhere"
    assert await spent(on) == (10 * TOKEN, 0)
    for _ in range(2):
        await on.ledger.put(settled_rows(call))
    assert len(await rows(on)) == 1


async def test_a_process_that_died_is_settled_at_what_it_wrote_ahead(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    for _ in range(BLOCK + 1):
        await report(call.metered, token())
    on.ms += LEASE * 1000 - 1
    await on.tick()
    assert await spent(on) == (0, 70 * TOKEN)  # not yet
    on.ms += 2000
    await on.tick()
    (row,) = await rows(on)
    assert (row["completion_tokens"], row["outcome"], row["counted_by"]) == (2 * BLOCK, "abandoned", "written_ahead")
    assert await spent(on) == ((10 + 2 * BLOCK) * TOKEN, 0)


async def recorded(on, call, *chunks) -> None:
    """Leave the call as it is when its process dies between the ledger and the counters."""
    for chunk in chunks:
        await report(call.metered, chunk)
    call.metered._end_attempt(given=True, whole=True)
    most = call.reservation.nano
    await on.ledger.put(
        settlement_rows(call.id, call.metered.history, at_ms=on.ms, max_cost=most, outcome="ok", counted_by="engine")
    )


async def test_a_process_that_died_after_its_row_is_settled_by_its_row(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await recorded(on, call, token(), usage(8, 1))
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    assert await spent(on) == (9 * TOKEN, 0)
    assert len(await rows(on)) == 1


async def test_what_was_in_the_ledger_at_a_loss_is_not_held_again(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=60, stream=True)
    await recorded(on, call, token(), usage(8, 1))
    await on.redis.flushdb()
    await gateway.reservations.beat()
    assert await on.rebuild.tick()
    assert await spent(on) == (9 * TOKEN, 0)
    assert await on.counters.settle("", call.id, on.ms, [(DESK, 9 * TOKEN, 9)]) == "elsewhere"
    assert await spent(on) == (9 * TOKEN, 0)


async def test_a_process_that_was_paused_may_not_go_on_and_is_not_charged_twice(on: World) -> None:
    gateway = on.gateway()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 + 2000
    await on.tick()  # the reaper charges a whole block
    assert await spent(on) == ((10 + BLOCK) * TOKEN, 0)
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    await on.tick()
    assert [(row["id"], row["completion_tokens"], row["counted_by"]) for row in await rows(on)] == [
        (call.id, BLOCK, "written_ahead"),
        (f"{call.id}/late", 1 - BLOCK, "chunks"),
    ]
    assert await spent(on) == (11 * TOKEN, 0)
    again = await on.open(gateway, WHO, ONE, prompt=1, most=1, stream=True)  # under a new lease
    await again.metered.finalize(ClientGone())


async def test_a_process_that_comes_back_while_it_is_settled_for_counts_what_the_ledger_has(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 + 2000
    settle = on.counters.settle

    async def late(*args) -> Any:
        await call.metered.finalize(ReservationLost("lost"))  # between the reaper's row and its word to the counters
        return await settle(*args)

    monkeypatch.setattr(on.counters, "settle", late)
    await on.tick()
    await on.tick()
    assert [row["completion_tokens"] for row in await rows(on)] == [BLOCK, 1 - BLOCK]
    assert await spent(on) == (11 * TOKEN, 0)


async def test_a_whole_answer_whose_reservation_is_gone_is_given_to_nobody(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=False)
    await report(call.metered, usage(10, 50))
    on.ms += LEASE * 1000 + 2000
    await on.tick()
    with pytest.raises(ReservationLost) as caught:
        await call.metered.finalize()
    await call.metered.finalize(caught.value)
    await on.tick()
    assert await spent(on) == (0, 0)


async def test_a_lease_that_only_its_own_process_takes_for_over_is_settled_once(on: World) -> None:
    call = await on.open(on.gateway(), WHO, ONE, prompt=10, most=60, stream=True)
    await report(call.metered, token())
    on.ms += LEASE * 1000 - 1000  # over by its own clock, which is careful; not by Valkey's
    await call.metered.finalize(ClientGone())
    assert await spent(on) == (11 * TOKEN, 0)
    await on.tick()
    assert await spent(on) == (11 * TOKEN, 0)
    assert [row["posted"] for row in await rows(on)] == [True]
