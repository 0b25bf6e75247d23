"""Audit writer: group commit, errors and cancellation; concurrent migrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import psycopg
import pytest

from drw.kernel import storage
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.storage import group_commit
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from support.json_types import JsonObject


@pytest.fixture
async def audit_database(database: str) -> AsyncIterator[Database]:
    audit_database = Database(database, "audit", pool_size=2)
    await audit_database.start("drw.kernel.storage")
    yield audit_database
    await audit_database.stop()


async def records(audit_database: Database) -> list[JsonObject]:
    return [orjson.loads(row["record"]) for row in await audit_database.all("select record from inbox order by id")]


async def commits(audit_database: Database) -> int:
    """Return the number of transactions that wrote the records."""
    (row,) = await audit_database.all("select count(distinct xmin::text) as n from inbox")
    return row["n"]


async def test_a_record_contains_the_actor_and_the_action(audit_database: Database, caller: Principal) -> None:
    with acting_for(caller):
        await AuditWriter(audit_database, "serving").record(
            "model.chat", "model/m", outcome="NotFound", details={"n": 1}
        )
    await AuditWriter(audit_database, "health").record("platform.start", "platform")
    mine, platform = await records(audit_database)
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


async def test_waiting_items_are_written_together(audit_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_BATCH", 50)
    writer = AuditWriter(audit_database, "serving")
    await asyncio.gather(*(writer.record("a", str(i)) for i in range(120)))
    assert [r["resource"] for r in await records(audit_database)] == [str(i) for i in range(120)]
    assert await commits(audit_database) == 3


async def test_a_record_in_a_transaction_is_committed_or_rolled_back_with_it(audit_database: Database) -> None:
    writer = AuditWriter(audit_database, "serving")
    with pytest.raises(ZeroDivisionError):
        async with audit_database.transaction() as connection:
            await writer.record("a", "rolled back", connection=connection)
            raise ZeroDivisionError
    async with audit_database.transaction() as connection:
        await writer.record("a", "committed", connection=connection)
        assert await records(audit_database) == []
    assert [r["resource"] for r in await records(audit_database)] == ["committed"]


async def test_a_failed_commit_fails_all_waiting_items(audit_database: Database) -> None:
    writer = AuditWriter(audit_database, "serving")
    await audit_database.stop()
    results = await asyncio.gather(*(writer.record("a", str(i)) for i in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 5


async def test_writing_continues_after_a_failure(audit_database: Database, database: str) -> None:
    writer = AuditWriter(audit_database, "serving")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("alter table audit.inbox rename to elsewhere")
        with pytest.raises(Unavailable, match="cannot be written"):
            await writer.record("a", "lost, and its caller knows")
        other.execute("alter table audit.elsewhere rename to inbox")
    await writer.record("a", "kept")
    assert [r["resource"] for r in await records(audit_database)] == ["kept"]


async def test_a_cancelled_caller_does_not_cancel_others(audit_database: Database) -> None:
    writer = AuditWriter(audit_database, "serving")
    first, second = (asyncio.create_task(writer.record("a", name)) for name in ("first", "second"))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert "second" in [r["resource"] for r in await records(audit_database)]


async def test_a_record_too_large_for_the_log_is_rejected(audit_database: Database) -> None:
    with pytest.raises(InvalidRequest, match="an audit record of .* at most 60000"):
        await AuditWriter(audit_database, "serving").record("a", "x" * 60_000)


async def test_several_processes_can_migrate_concurrently(database: str) -> None:
    databases = [Database(database, "audit", pool_size=1) for _ in range(6)]
    await asyncio.gather(*(opened.start("drw.kernel.storage") for opened in databases))
    rows = await databases[0].all("select name from migration order by name")
    migrations = Path(storage.__file__).with_name("migrations")
    assert [row["name"] for row in rows] == sorted(path.name for path in migrations.glob("*.sql"))
    for opened in databases:
        await opened.stop()
