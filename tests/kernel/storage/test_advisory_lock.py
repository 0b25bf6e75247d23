"""Advisory locks: one holder, released with the connection, and a holder detects the loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from drw.kernel.errors import Unavailable
from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import LockId
from drw.kernel.storage.database import Database

KIND = 0x74657374


@pytest.fixture
async def lock_database(database: str) -> AsyncIterator[Database]:
    service = Database(database, "locks")
    await service.start("drw.kernel.storage")
    yield service
    await service.stop()


async def held_numbers(database: Database) -> list[int]:
    return sorted(row["number"] for row in await database.all(advisory_lock.holders_query(KIND)))


async def test_holders_are_listed_while_they_hold_their_lock(lock_database: Database) -> None:
    async with advisory_lock.acquired(lock_database, LockId(KIND, 7)):
        other_kind = advisory_lock.acquired(lock_database, LockId(KIND + 1, 9))
        async with advisory_lock.acquired(lock_database, LockId(KIND, 8)), other_kind:
            assert await held_numbers(lock_database) == [7, 8]
        assert await held_numbers(lock_database) == [7]
    assert await held_numbers(lock_database) == []


async def test_a_lock_passes_to_the_next_when_its_holder_ends(
    lock_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "POLL_SECONDS", 0.01)
    lock = LockId.named(KIND, "leader")
    events = []

    async def next_holder() -> None:
        async with advisory_lock.acquired(lock_database, lock):
            events.append("second")

    async with advisory_lock.acquired(lock_database, lock):
        waiting = asyncio.create_task(next_holder())
        await until_both_have_polled(lock_database)
        events.append("first")
    await waiting
    assert events == ["first", "second"]


async def until_both_have_polled(database: Database) -> None:
    query = "select count(*) as tries from pg_stat_activity where query like 'select pg_try_advisory_lock%%'"
    async with asyncio.timeout(30):
        while (await database.all(query))[0]["tries"] < 2:
            await asyncio.sleep(0.01)


async def test_work_is_cancelled_when_the_connection_of_the_lock_is_lost(
    lock_database: Database, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "HEARTBEAT_SECONDS", 0.01)
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with advisory_lock.acquired(lock_database, LockId(KIND, 7)) as lock:
        working = asyncio.create_task(lock.run(work()))
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and classid = %s", (KIND,)
            )
        with pytest.raises(Unavailable, match="the database does not answer"):
            await asyncio.wait_for(working, 30)
        assert cancelled.is_set()
        assert await held_numbers(lock_database) == []


def test_the_lock_of_a_name_is_stable() -> None:
    assert LockId.named(KIND, "default") == LockId(KIND, 933818049)
