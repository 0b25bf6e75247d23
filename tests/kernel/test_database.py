"""The pool of connections: one that the server closed is never handed out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from drw.kernel.audit import AuditWriter
from drw.kernel.database import PATIENT_SECONDS, Database
from drw.kernel.errors import Unavailable


async def test_a_connection_that_the_server_closed_is_replaced(database):
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel")
    (before,) = await ours.all("select pg_backend_pid() as pid")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (before["pid"],))
    await AuditWriter(ours, "serving").record("chat", 'model/"x"\\')
    (found,) = await ours.all("select record::jsonb ->> 'resource' as resource, pg_backend_pid() as pid from inbox")
    assert found["resource"] == 'model/"x"\\'
    assert found["pid"] != before["pid"]
    await ours.stop()


async def test_one_statement_alone_is_committed_at_once(database):
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")
    with psycopg.connect(database) as other:
        assert other.execute("select count(*) from audit.inbox").fetchone() == (1,)
    async with ours.transaction() as connection:
        assert not connection.autocommit
    await ours.stop()


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop the process at the other end of a connection: the connection stays, as with a host that died."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_database_that_has_stopped_answering_is_not_waited_for(database):
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel")
    (alone,) = await ours.fetch("select pg_backend_pid() as pid")
    ours._alone.seconds = 0.2
    with stopped(alone["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        await ours.run("select 1")
    async with ours.transaction() as connection:
        pooled = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    with stopped(pooled["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        async with ours.transaction(seconds=0.2) as connection:
            await connection.execute("select 1")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")  # on a connection of its own
    assert len(await ours.all("select * from audit.inbox")) == 1
    await ours.stop()


async def test_a_statement_that_takes_too_long_ends_and_its_successors_do_not_notice(database):
    ours = Database(database, "audit")
    await ours.start("drw.kernel")
    assert await ours.fetch("show statement_timeout") == [{"statement_timeout": "10s"}]
    ours._alone.seconds = 0.2
    with pytest.raises(Unavailable, match="the database does not answer"):
        await ours.run("select pg_sleep(60)")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")
    async with ours.transaction(seconds=None) as connection:
        assert connection.seconds is None
    async with ours.transaction() as connection:
        assert connection.seconds == PATIENT_SECONDS
    await ours.stop()
