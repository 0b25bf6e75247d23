"""A process that is started again hands back the lease of the one that died: nobody waits, nothing counts twice."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Policy, Price
from drw.billing.counters.client import CountersUnavailable
from drw.billing.reservations.errors import ReservationLost
from drw.billing.reservations.lease_file import LeaseFile
from drw.billing.subjects import Subject
from drw.kernel.errors import ClientGone, Unavailable
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from money.world import BLOCK, LEASE, World, model, report, token, world

WHO = Principal("acme", "rates", "key_1")
DESK, ONE = Subject(Block.DESK, "acme", "rates"), model("one")
POLICY = Policy(prices=[Price(model="one", prompt_usd_per_million="1", completion_usd_per_million="1")])
TOKEN = 1000


@pytest.fixture
async def on(profile: Profile) -> AsyncIterator[World]:
    async with world(profile, POLICY, [(DESK, "Cdn", 100 * TOKEN)]) as made:
        yield made


async def spent(on: World) -> tuple[int, int]:
    (found,) = await on.counters.peek([DESK])
    return found["tn"], found["n"]


async def stream(on: World, file, tokens: int = 1):
    """Return a stream of a new process, of which so many tokens are given."""
    call = await on.open(on.gateway(file), WHO, ONE, prompt=10, most=50, stream=True)
    for _ in range(tokens):
        await report(call.metered, token())
    return call


async def test_what_the_dead_held_is_settled_as_soon_as_its_successor_runs(on: World, tmp_path: Path) -> None:
    call = await stream(on, tmp_path / "lease")
    call.gateway.lease.release()  # as the kernel does where a process dies
    successor = on.gateway(tmp_path / "lease")
    await successor.reservations.hand_back()
    await on.tick()
    assert await spent(on) == ((10 + BLOCK) * TOKEN, 0)
    await on.tick()
    assert await on.ledger.holders() == set()
    assert successor.lease.dead == []


async def test_counters_lost_with_the_process_are_open_as_soon_as_its_successor_runs(on: World, tmp_path: Path) -> None:
    call = await stream(on, tmp_path / "lease")
    call.gateway.lease.release()
    await on.redis.flushdb()
    assert not await on.rebuild.tick()  # it may be alive, and bring back what it holds
    await on.gateway(tmp_path / "lease").reservations.hand_back()
    assert await on.rebuild.tick()
    assert await spent(on) == (0, 0)  # what nobody wrote down


async def test_a_process_that_lives_is_nobodys_predecessor(on: World, tmp_path: Path) -> None:
    call = await stream(on, tmp_path / "lease")
    other = on.gateway(tmp_path / "lease")
    assert other.lease.dead == []
    await other.reservations.hand_back()
    await on.tick()
    await report(call.metered, token())
    await call.metered.finalize(ClientGone())
    assert await spent(on) == (12 * TOKEN, 0)


async def test_what_cannot_be_handed_back_yet_is_kept_for_the_next_one(
    on: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await stream(on, tmp_path / "lease")
    process = call.reservation.process
    call.gateway.lease.release()
    second = on.gateway(tmp_path / "lease")

    async def away(process: str) -> None:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(second.reservations._ledger, "remove_holder", away)
    with pytest.raises(Unavailable):
        await second.reservations.hand_back()
    await second.reservations._registered()
    second.lease.release()
    assert on.gateway(tmp_path / "lease").lease.dead == [process, second.reservations._process]


@pytest.mark.parametrize("lost", [False, True])
async def test_one_that_was_taken_for_dead_and_lives_is_charged_once_for_what_it_gave(
    on: World, tmp_path: Path, lost: bool
) -> None:
    """No lock is perfect: whoever is wrong about a death stops a process, and breaks no book."""
    call = await stream(on, tmp_path / "lease", tokens=2)
    call.gateway.lease.release()
    await on.gateway(tmp_path / "lease").reservations.hand_back()
    if lost:
        await on.redis.flushdb()
    await on.tick()
    for _ in range(BLOCK - 2):  # these are written ahead, and so charged already, or come late
        await report(call.metered, token())
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    for _ in range(2):
        await on.tick()
    assert await spent(on) == ((10 + BLOCK) * TOKEN, 0)
    charged = await on.database.one("select sum(cost) as cost from metering.ledger")
    assert charged is not None
    assert charged["cost"] == (10 + BLOCK) * TOKEN


async def test_attempts_to_begin_a_lease_while_valkey_is_away_hold_no_rebuild_up(
    on: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = on.gateway(tmp_path / "lease")

    async def away(*_: object) -> bool:
        raise CountersUnavailable("Valkey does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.counters, "register", away)
        for _ in range(3):
            with pytest.raises(CountersUnavailable):
                await on.open(gateway, WHO, ONE, prompt=10, most=50, stream=True)
    assert await on.ledger.holders() == set()
    await on.redis.flushdb()
    assert await on.rebuild.tick()
    call = await on.open(gateway, WHO, ONE, prompt=10, most=50, stream=True)
    assert await on.ledger.holders() == {call.reservation.process}


async def test_callers_that_wait_at_one_moment_wait_for_one_attempt_to_begin_a_lease(
    on: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, attempts, answer = on.gateway(), [], asyncio.Event()

    async def away(*_: object) -> bool:
        attempts.append(1)
        await answer.wait()
        raise CountersUnavailable("Valkey does not answer")

    monkeypatch.setattr(gateway.counters, "register", away)
    waiting = [asyncio.create_task(gateway.reservations._registered()) for _ in range(5)]
    while not attempts:
        await asyncio.sleep(0)
    answer.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [CountersUnavailable] * 5
    assert len(attempts) == 1
    with pytest.raises(CountersUnavailable):  # whoever comes later tries again
        await gateway.reservations._registered()
    assert len(attempts) == 2


async def test_a_lease_that_is_over_holds_a_rebuild_up_only_while_a_call_under_it_is_not_paid(
    on: World, tmp_path: Path
) -> None:
    call = await stream(on, tmp_path / "lease")
    gateway, first = call.gateway, call.reservation.process
    assert await on.rebuild.tick()
    on.ms += 1000 * LEASE
    await on.redis.flushdb()
    await gateway.reservations.beat()
    second = gateway.reservations._process
    assert second != first
    assert await on.ledger.holders() == {first, second}
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    assert not await on.rebuild.tick()
    await gateway.reservations.beat()
    assert await on.ledger.holders() == {second}
    assert await on.rebuild.tick()


def test_a_full_disk_stops_no_call(tmp_path: Path) -> None:
    file = LeaseFile(tmp_path / "lease")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))
    try:
        file.begin("ser_1")
        file.release()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert (tmp_path / "lease").read_bytes() == b""


def test_the_lock_ends_with_the_process_and_not_before(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, signal\n"
        "from drw.billing.reservations.lease_file import LeaseFile\n"
        "file = LeaseFile(pathlib.Path(sys.argv[1])); file.begin('ser_1')\n"
        "print(flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lease")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert LeaseFile(tmp_path / "lease").dead == []
        process.kill()
    found = LeaseFile(tmp_path / "lease")
    assert found.dead == ["ser_1"]
    found.release()
