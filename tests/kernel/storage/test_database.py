"""Connections to the database: one that the server closed, or that leads nowhere any more, is never relied on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.storage import database as kernel_database
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import PATIENT_SECONDS, Database


async def test_a_connection_that_the_server_closed_is_replaced(database: str) -> None:
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel.storage")
    (before,) = await ours.all("select pg_backend_pid() as pid")
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (before["pid"],))
    await AuditWriter(ours, "serving").record("chat", 'model/"x"\\')
    (found,) = await ours.all("select record::jsonb ->> 'resource' as resource, pg_backend_pid() as pid from inbox")
    assert found["resource"] == 'model/"x"\\'
    assert found["pid"] != before["pid"]
    await ours.stop()


async def test_one_statement_alone_is_committed_at_once(database: str) -> None:
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel.storage")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")
    with psycopg.connect(database) as other:
        assert other.execute("select count(*) from audit.inbox").fetchone() == (1,)
    async with ours.transaction() as connection:
        assert not connection.autocommit
    await ours.stop()


def test_an_invalid_connection_string_is_reported_without_its_content() -> None:
    with pytest.raises(ConfigError, match="postgres is not a connection string") as caught:
        Database("host=db hunter2", "audit")
    assert "hunter2" not in caught.value.message


class Relay:
    """Between us and PostgreSQL, by TCP: forgets connections without a word when told to, as a firewall does."""

    def __init__(self, dsn: str) -> None:
        self._dsn: dict[str, Any] = conninfo_to_dict(dsn)
        self._forgotten = asyncio.Event()
        self._passed = asyncio.Condition()
        self._chunks = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def dsn(self) -> str:
        return make_conninfo(**self._dsn | {"host": "127.0.0.1", "port": self._port})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self._port = server.sockets[0].getsockname()[1]
            yield self
            await asyncio.gather(*self._serving)

    def forget(self) -> None:
        """Pass nothing on any more of what is connected now; later connections are good."""
        self._forgotten.set()
        self._forgotten = asyncio.Event()

    async def passes(self, more: int) -> None:
        """Return once so many more pieces have come from us."""
        async with self._passed:
            wanted = self._chunks + more
            await self._passed.wait_for(lambda: self._chunks >= wanted)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        theirs, ours = await asyncio.open_unix_connection(f"{self._dsn['host']}/.s.PGSQL.5432")
        gone = self._forgotten
        with suppress(ConnectionError):
            await asyncio.gather(self._pass(reader, ours, gone, True), self._pass(theirs, writer, gone, False))
        for end in (ours, writer):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event, counts: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if not gone.is_set():
                writer.write(data)
                async with self._passed:
                    self._chunks += counts
                    self._passed.notify_all()
        writer.close()


def notify(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("notify news")


@pytest.fixture
async def relay(database: str) -> AsyncIterator[Relay]:
    async with Relay(database).running() as found:
        yield found


async def test_a_connection_that_is_forgotten_without_a_word_is_noticed(
    database: str, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_database, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(kernel_database, "ANSWER_SECONDS", 0.5)
    async with asyncio.timeout(30), aclosing(Database(relay.dsn, "audit").notifications("news")) as news:
        await anext(news)
        relay.forget()
        notify(database)  # which nobody hears
        await anext(news)
        notify(database)
        await anext(news)


async def test_an_idle_connection_is_checked_without_disturbing_others(
    database: str, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_database, "HEARTBEAT_SECONDS", 0.01)
    async with aclosing(Database(relay.dsn, "audit").notifications("news")) as news:
        await anext(news)
        next_news = asyncio.create_task(anext(news))
        await relay.passes(5)
        assert not next_news.done()
        notify(database)
        await next_news


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop the process at the other end of a connection: the connection stays, as with a host that died."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_database_that_has_stopped_answering_is_not_waited_for(database: str) -> None:
    ours = Database(database, "audit", pool_size=1)
    await ours.start("drw.kernel.storage")
    (alone,) = await ours.fetch("select pg_backend_pid() as pid")
    assert ours._alone is not None
    ours._alone.seconds = 0.2
    with stopped(alone["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        await ours.run("select 1")
    async with ours.transaction() as connection:
        pooled = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    assert pooled is not None
    with stopped(pooled["pid"]), pytest.raises(Unavailable, match="the database does not answer"):
        async with ours.transaction(seconds=0.2) as connection:
            await connection.execute("select 1")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")  # on a connection of its own
    assert len(await ours.all("select * from audit.inbox")) == 1
    await ours.stop()


async def test_a_statement_that_takes_too_long_ends_and_its_successors_do_not_notice(database: str) -> None:
    ours = Database(database, "audit")
    await ours.start("drw.kernel.storage")
    assert await ours.fetch("show statement_timeout") == [{"statement_timeout": "10s"}]
    assert ours._alone is not None
    ours._alone.seconds = 0.2
    with pytest.raises(Unavailable, match="the database does not answer"):
        await ours.run("select pg_sleep(60)")
    await ours.run("insert into audit.inbox (record) values (%s)", "{}")
    async with ours.transaction(seconds=None) as connection:
        assert connection.seconds is None
    async with ours.transaction() as connection:
        assert connection.seconds == PATIENT_SECONDS
    await ours.stop()
