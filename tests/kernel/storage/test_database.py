"""Connections to the database: closed and dropped connections are replaced, slow statements time out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.storage import database as kernel_database
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import TIMEOUT_SECONDS, Database
from support.json_types import JsonObject
from support.parts import until


async def test_a_connection_that_the_server_closed_is_replaced(database: str) -> None:
    service_database = Database(database, "audit", pool_size=1)
    await service_database.start("drw.kernel.storage")
    (before,) = await service_database.all("select pg_backend_pid() as pid")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (before["pid"],))
    await AuditWriter(service_database, "serving").record("chat", 'model/"x"\\')
    (row,) = await service_database.all(
        "select record::jsonb ->> 'resource' as resource, pg_backend_pid() as pid from inbox"
    )
    assert row["resource"] == 'model/"x"\\'
    assert row["pid"] != before["pid"]
    await service_database.stop()


async def test_a_single_statement_is_committed_immediately(database: str) -> None:
    service_database = Database(database, "audit", pool_size=1)
    await service_database.start("drw.kernel.storage")
    await service_database.run("insert into audit.inbox (record) values (%s)", "{}")
    with psycopg.connect(database) as other:
        assert other.execute("select count(*) from audit.inbox").fetchone() == (1,)
    async with service_database.transaction() as connection:
        assert not connection.autocommit
    await service_database.stop()


def test_an_invalid_connection_string_is_reported_without_its_content() -> None:
    with pytest.raises(ConfigError, match="postgres is not a connection string") as caught:
        Database("host=db hunter2", "audit")
    assert "hunter2" not in caught.value.message


class DroppingProxy:
    """A TCP proxy before PostgreSQL that can drop connections silently, as a firewall does."""

    def __init__(self, dsn: str) -> None:
        self._dsn: JsonObject = conninfo_to_dict(dsn)
        self._dropped = asyncio.Event()
        self._chunk_passed = asyncio.Condition()
        self._chunks = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def dsn(self) -> str:
        return make_conninfo(**self._dsn | {"host": "127.0.0.1", "port": self._port})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DroppingProxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self._port = server.sockets[0].getsockname()[1]
            yield self
            await asyncio.gather(*self._serving)

    def drop(self) -> None:
        """Stop forwarding data of the open connections; later connections work."""
        self._dropped.set()
        self._dropped = asyncio.Event()

    async def wait_for_chunks(self, more: int) -> None:
        """Wait until the client has sent so many more chunks."""
        async with self._chunk_passed:
            target = self._chunks + more
            await self._chunk_passed.wait_for(lambda: self._chunks >= target)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        theirs, service_database = await asyncio.open_unix_connection(f"{self._dsn['host']}/.s.PGSQL.5432")
        dropped = self._dropped
        with suppress(ConnectionError):
            await asyncio.gather(
                self._forward(reader, service_database, dropped, True), self._forward(theirs, writer, dropped, False)
            )
        for end in (service_database, writer):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dropped: asyncio.Event, count_chunks: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if not dropped.is_set():
                writer.write(data)
                async with self._chunk_passed:
                    self._chunks += count_chunks
                    self._chunk_passed.notify_all()
        writer.close()


def notify(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("notify news")


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[DroppingProxy]:
    async with DroppingProxy(database).running() as row:
        yield row


async def test_a_silently_dropped_connection_is_detected(
    database: str, proxy: DroppingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_database, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(kernel_database, "SHORT_TIMEOUT_SECONDS", 0.5)
    async with asyncio.timeout(30), aclosing(Database(proxy.dsn, "audit").notifications("news")) as news:
        await anext(news)
        proxy.drop()
        notify(database)  # lost
        await anext(news)
        notify(database)
        await anext(news)


async def test_an_idle_connection_is_checked_without_disturbing_others(
    database: str, proxy: DroppingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_database, "HEARTBEAT_SECONDS", 0.01)
    async with aclosing(Database(proxy.dsn, "audit").notifications("news")) as news:
        await anext(news)
        next_news = asyncio.create_task(anext(news))
        await proxy.wait_for_chunks(5)
        assert not next_news.done()
        notify(database)
        await next_news


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop the process at the other end of a connection; the connection stays open, as with a host that died."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_an_unresponsive_database_times_out(database: str) -> None:
    service_database = Database(database, "audit", pool_size=1)
    await service_database.start("drw.kernel.storage")
    (dedicated,) = await service_database.fetch("select pg_backend_pid() as pid")
    assert service_database._autocommit is not None
    service_database._autocommit.seconds = 0.2
    with stopped(dedicated["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        await service_database.run("select 1")
    async with service_database.transaction() as connection:
        pooled = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    assert pooled is not None
    with stopped(pooled["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        async with service_database.transaction(seconds=0.2) as connection:
            await connection.execute("select 1")
    await service_database.run("insert into audit.inbox (record) values (%s)", "{}")  # on a new connection
    assert len(await service_database.all("select * from audit.inbox")) == 1
    await service_database.stop()


async def test_a_slow_statement_times_out_without_effect_on_later_ones(database: str) -> None:
    service_database = Database(database, "audit")
    await service_database.start("drw.kernel.storage")
    assert await service_database.fetch("show statement_timeout") == [{"statement_timeout": "10s"}]
    assert service_database._autocommit is not None
    service_database._autocommit.seconds = 0.2
    with pytest.raises(Unavailable, match="the database does not answer"):
        await service_database.run("select pg_sleep(60)")
    await service_database.run("insert into audit.inbox (record) values (%s)", "{}")
    async with service_database.transaction(seconds=None) as connection:
        assert connection.seconds is None
    async with service_database.transaction() as connection:
        assert connection.seconds == TIMEOUT_SECONDS
    await service_database.stop()


async def test_a_cancellation_that_arrives_together_with_a_connection_is_not_lost(database: str) -> None:
    opened = Database(database, "audit", pool_size=1)
    await opened.start("drw.kernel.storage")

    async def holds_a_connection() -> None:
        async with opened.transaction():
            await asyncio.Event().wait()

    for iterations in range(30):  # of the event loop, between the release of the connection and the cancellation
        async with opened.transaction():
            waiter = asyncio.create_task(holds_a_connection())
            await until(lambda: _waits_for_a_connection(opened), "the waiter")
        for _ in range(iterations):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter], timeout=10)
        assert waiter.cancelled(), iterations
    await opened.stop()


async def _waits_for_a_connection(opened: Database) -> bool:
    return bool(opened._pool.get_stats().get("requests_waiting"))
