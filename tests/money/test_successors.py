"""Successors: a restarted process returns the lease of its dead predecessor."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from drw.billing.counters.client import CountersUnavailable
from drw.billing.reservations.errors import ReservationLost
from drw.billing.reservations.lease_file import LeaseFile
from drw.kernel.errors import ClientDisconnected, Unavailable
from money.metering_cluster import BLOCK, LEASE, Call, MeteringCluster, report, token
from money.protocol import CALLER, ONE, TOKEN, spent


async def stream(cluster: MeteringCluster, file: Path, tokens: int = 1) -> Call:
    """Open a stream in a new process, and deliver so many tokens."""
    call = await cluster.open(cluster.gateway(file), CALLER, ONE, prompt=10, max_tokens=50, stream=True)
    for _ in range(tokens):
        await report(call.metered, token())
    return call


async def test_reservations_of_a_dead_process_are_settled_when_its_successor_starts(
    cluster: MeteringCluster, tmp_path: Path
) -> None:
    call = await stream(cluster, tmp_path / "lease")
    call.gateway.lease.release()  # as the operating system does when a process dies
    successor = cluster.gateway(tmp_path / "lease")
    await successor.reservations.return_dead_leases()
    await cluster.tick()
    assert await spent(cluster) == ((10 + BLOCK) * TOKEN, 0)
    await cluster.tick()
    assert await cluster.ledger.holders() == set()
    assert successor.lease.dead == []


async def test_counters_lost_with_a_process_are_rebuilt_when_its_successor_starts(
    cluster: MeteringCluster, tmp_path: Path
) -> None:
    call = await stream(cluster, tmp_path / "lease")
    call.gateway.lease.release()
    await cluster.redis.flushdb()
    assert not await cluster.rebuild.tick()  # the process may be alive, and register its reservations again
    await cluster.gateway(tmp_path / "lease").reservations.return_dead_leases()
    assert await cluster.rebuild.tick()
    assert await spent(cluster) == (0, 0)  # the usage was lost with the process and the counters


async def test_a_live_process_has_no_successor(cluster: MeteringCluster, tmp_path: Path) -> None:
    call = await stream(cluster, tmp_path / "lease")
    other = cluster.gateway(tmp_path / "lease")
    assert other.lease.dead == []
    await other.reservations.return_dead_leases()
    await cluster.tick()
    await report(call.metered, token())
    await call.metered.finalize(ClientDisconnected())
    assert await spent(cluster) == (12 * TOKEN, 0)


async def test_a_lease_that_cannot_be_returned_is_left_to_the_next_successor(
    cluster: MeteringCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await stream(cluster, tmp_path / "lease")
    process = call.reservation.process
    call.gateway.lease.release()
    second = cluster.gateway(tmp_path / "lease")

    async def unavailable(process: str) -> None:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(second.reservations._ledger, "remove_holder", unavailable)
    with pytest.raises(Unavailable):
        await second.reservations.return_dead_leases()
    await second.reservations._current_lease()
    second.lease.release()
    assert cluster.gateway(tmp_path / "lease").lease.dead == [process, second.reservations._lease]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_live_process_mistaken_for_dead_is_charged_once(
    cluster: MeteringCluster, tmp_path: Path, lost: bool
) -> None:
    """A wrong assumption about a death ends the calls of a process, but counters and ledger stay consistent."""
    call = await stream(cluster, tmp_path / "lease", tokens=2)
    call.gateway.lease.release()
    await cluster.gateway(tmp_path / "lease").reservations.return_dead_leases()
    if lost:
        await cluster.redis.flushdb()
    await cluster.tick()
    for _ in range(BLOCK - 2):  # written ahead, and so charged already
        await report(call.metered, token())
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    for _ in range(2):
        await cluster.tick()
    assert await spent(cluster) == ((10 + BLOCK) * TOKEN, 0)
    charged = await cluster.database.one("select sum(cost) as cost from metering.ledger")
    assert charged is not None
    assert charged["cost"] == (10 + BLOCK) * TOKEN


async def test_failed_attempts_to_begin_a_lease_do_not_delay_a_rebuild(
    cluster: MeteringCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = cluster.gateway(tmp_path / "lease")

    async def unavailable(*_: object) -> bool:
        raise CountersUnavailable("Valkey does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(gateway.counters, "register", unavailable)
        for _ in range(3):
            with pytest.raises(CountersUnavailable):
                await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=50, stream=True)
    assert await cluster.ledger.holders() == set()
    await cluster.redis.flushdb()
    assert await cluster.rebuild.tick()
    call = await cluster.open(gateway, CALLER, ONE, prompt=10, max_tokens=50, stream=True)
    assert await cluster.ledger.holders() == {call.reservation.process}


async def test_concurrent_callers_share_one_attempt_to_begin_a_lease(
    cluster: MeteringCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, attempts, response = cluster.gateway(), [], asyncio.Event()

    async def unavailable(*_: object) -> bool:
        attempts.append(1)
        await response.wait()
        raise CountersUnavailable("Valkey does not answer")

    monkeypatch.setattr(gateway.counters, "register", unavailable)
    waiting = [asyncio.create_task(gateway.reservations._current_lease()) for _ in range(5)]
    while not attempts:
        await asyncio.sleep(0)
    response.set()
    leases = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in leases] == [CountersUnavailable] * 5
    assert len(attempts) == 1
    with pytest.raises(CountersUnavailable):  # later callers retry
        await gateway.reservations._current_lease()
    assert len(attempts) == 2


async def test_an_ended_lease_delays_a_rebuild_only_until_its_calls_are_in_the_ledger(
    cluster: MeteringCluster, tmp_path: Path
) -> None:
    call = await stream(cluster, tmp_path / "lease")
    gateway, first = call.gateway, call.reservation.process
    assert await cluster.rebuild.tick()
    cluster.ms += 1000 * LEASE
    await cluster.redis.flushdb()
    await gateway.reservations.heartbeat()
    second = gateway.reservations._lease
    assert second != first
    assert await cluster.ledger.holders() == {first, second}
    with pytest.raises(ReservationLost) as caught:
        await report(call.metered, token())
    await call.metered.finalize(caught.value)
    assert not await cluster.rebuild.tick()
    await gateway.reservations.heartbeat()
    assert await cluster.ledger.holders() == {second}
    assert await cluster.rebuild.tick()


def test_a_full_disk_does_not_prevent_a_lease(tmp_path: Path) -> None:
    file = LeaseFile(tmp_path / "lease")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        file.begin("ser_1")
        file.release()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "lease").read_bytes() == b""


def test_the_lock_of_a_lease_file_ends_with_the_process(tmp_path: Path) -> None:
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
    leases = LeaseFile(tmp_path / "lease")
    assert leases.dead == ["ser_1"]
    leases.release()
