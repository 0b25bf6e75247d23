"""The pool of connections: one that the server closed is never handed out."""

from __future__ import annotations

import psycopg

from drw.kernel.audit import AuditWriter
from drw.kernel.database import Database


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
