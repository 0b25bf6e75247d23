"""The audit writer: one commit for all who wait, nobody acknowledged without it, and migrations by many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import psycopg
import pytest

from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.storage import group_commit
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database


@pytest.fixture
async def ours(database: str) -> AsyncIterator[Database]:
    made = Database(database, "audit", pool_size=2)
    await made.start("drw.kernel.storage")
    yield made
    await made.stop()


async def records(ours):
    return [orjson.loads(row["record"]) for row in await ours.all("select record from inbox order by id")]


async def commits(ours):
    """How many transactions wrote what is there."""
    (row,) = await ours.all("select count(distinct xmin::text) as n from inbox")
    return row["n"]


async def test_a_record_contains_the_actor_and_the_action(ours: Database, caller: Principal) -> None:
    with acting_for(caller):
        await AuditWriter(ours, "serving").record("model.chat", "model/m", outcome="NotFound", details={"n": 1})
    await AuditWriter(ours, "health").record("platform.start", "platform")
    mine, platform = await records(ours)
    assert mine.pop("at").endswith("Z")
    assert mine == {
        "service": "serving",
        "action": "model.chat",
        "org": "acme",
        "desk": "research",
        "actor": "key_test",
        "resource": "model/m",
        "outcome": "NotFound",
        "trace_id": "",
        "details": {"n": 1},
    }
    assert (platform["org"], platform["actor"]) == ("", "platform")


async def test_waiting_items_are_written_together(ours: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_BATCH", 50)
    writer = AuditWriter(ours, "serving")
    await asyncio.gather(*(writer.record("a", str(i)) for i in range(120)))
    assert [r["resource"] for r in await records(ours)] == [str(i) for i in range(120)]
    assert await commits(ours) == 3


async def test_in_a_transaction_it_shares_its_fate(ours: Database) -> None:
    writer = AuditWriter(ours, "serving")
    with pytest.raises(ZeroDivisionError):
        async with ours.transaction() as connection:
            await writer.record("a", "rolled back", connection=connection)
            raise ZeroDivisionError
    async with ours.transaction() as connection:
        await writer.record("a", "committed", connection=connection)
        assert await records(ours) == []
    assert [r["resource"] for r in await records(ours)] == ["committed"]


async def test_a_failed_commit_fails_all_waiting_items(ours: Database) -> None:
    writer = AuditWriter(ours, "serving")
    await ours.stop()
    answers = await asyncio.gather(*(writer.record("a", str(i)) for i in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 5


async def test_writing_continues_after_a_failure(ours: Database, database: str) -> None:
    writer = AuditWriter(ours, "serving")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("alter table audit.inbox rename to elsewhere")
        with pytest.raises(Unavailable, match="cannot be written"):
            await writer.record("a", "lost, and its caller knows")
        other.execute("alter table audit.elsewhere rename to inbox")
    await writer.record("a", "kept")
    assert [r["resource"] for r in await records(ours)] == ["kept"]


async def test_a_cancelled_caller_does_not_cancel_others(ours: Database) -> None:
    writer = AuditWriter(ours, "serving")
    first, second = (asyncio.create_task(writer.record("a", name)) for name in ("first", "second"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert "second" in [r["resource"] for r in await records(ours)]


async def test_a_record_too_large_for_the_log_is_refused_at_once(ours: Database) -> None:
    with pytest.raises(InvalidRequest, match="an audit record of .* at most 60000"):
        await AuditWriter(ours, "serving").record("a", "x" * 60_000)


async def test_several_processes_can_migrate_concurrently(database: str) -> None:
    many = [Database(database, "audit", pool_size=1) for _ in range(6)]
    await asyncio.gather(*(each.start("drw.kernel.storage") for each in many))
    rows = await many[0].all("select name from migration order by name")
    assert [row["name"] for row in rows] == ["0001_inbox.sql", "0002_inbox_notifies.sql"]
    for each in many:
        await each.stop()
