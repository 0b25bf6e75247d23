"""PostgreSQL for one service: its schema, migrations, connection pool and notifications."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from drw.kernel.errors import ConfigError, InvalidRequest, Unavailable

log = logging.getLogger(__name__)

CONNECTION_DEFAULTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # in milliseconds
}
"""Connection defaults: keepalives detect connections that the network drops silently."""

HEARTBEAT_SECONDS = 10.0
"""Interval of connection checks without notifications."""
SHORT_TIMEOUT_SECONDS = 10.0
"""Timeout of single-statement transactions, in seconds."""
TIMEOUT_SECONDS = 60.0
"""Timeout of other statements, in seconds."""
WAIT_SECONDS = 0.1
"""Interval at which psycopg checks for interruptions while it waits."""
NUL_MESSAGE = "cannot contain NUL"
"""Part of psycopg's error message for a text with a NUL character."""
MIGRATION_LOCK = 0x647277  # "drw"
MIGRATION_SECONDS = 1.0
"""Interval at which a process looks for migrations that it waits for."""


class Connection(psycopg.AsyncConnection[DictRow]):
    """A connection with a timeout for each statement: it closes if the database does not respond in time."""

    seconds: float | None = TIMEOUT_SECONDS
    """Timeout of a statement; None: no timeout."""

    async def wait(self, gen: PQGen[RV], interval: float = WAIT_SECONDS, timeout: float | None = None) -> RV:
        """Wait as psycopg does, with a timeout."""
        try:
            return await super().wait(gen, interval, self.seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # a late response would be taken for that of the next statement
            raise


class Database:
    """The schema of one service, with a connection pool.

    `await_migrations`: wait for missing migrations, which another process applies, instead of applying them.
    With `idle_transaction_seconds`, PostgreSQL rolls back a transaction whose process is silent for that long, so that
    a frozen process holds no locks of rows.

    Raises:
        ConfigError: `dsn` is not a connection string.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        pool_size: int = 4,
        await_migrations: bool = False,
        idle_transaction_seconds: float | None = None,
    ) -> None:
        self._await_migrations = await_migrations
        options = f"-c search_path={schema},public"
        if idle_transaction_seconds:
            options += f" -c idle_in_transaction_session_timeout={round(idle_transaction_seconds * 1000)}"
        self._dsn = _with_connection_defaults(dsn)
        self._schema = schema
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._dsn,
            connection_class=Connection,
            kwargs={"row_factory": dict_row, "options": options},
            min_size=0,
            max_size=pool_size,
            timeout=5.0,
            max_idle=60.0,
            check=_check_not_closed,
            open=False,
            name=schema,
        )
        self._autocommit: Connection | None = None
        self._connecting = asyncio.Lock()

    async def start(self, package: str) -> None:
        """Open the pool and apply the migrations `package`/migrations/NNNN_name.sql, or wait for them."""
        await self._pool.open()
        await self.migrate(self._schema, package)

    async def migrate(self, schema: str, package: str) -> None:
        """Apply the missing migrations of a package to a schema, or wait for them.

        Migrations that this release does not have are ignored: they are those of a newer one.
        """
        if self._await_migrations:
            await self._wait_for_migrations(schema, package)
            return
        async with self.transaction(seconds=None) as connection:
            await migrate(connection, schema, package)

    async def _wait_for_migrations(self, schema: str, package: str) -> None:
        previous: list[str] = []
        while missing := await self._missing_migrations(schema, package):
            if missing != previous:
                log.warning("waiting for `drw migrate`: the schema %s has no %s", schema, ", ".join(missing))
            previous = missing
            await asyncio.sleep(MIGRATION_SECONDS)

    async def _missing_migrations(self, schema: str, package: str) -> list[str]:
        names = [name for name, _ in _migrations(package)]
        async with self.transaction() as connection:
            found = await connection.execute("select to_regclass(%s) as found", (f"{schema}.migration",))
            row = await found.fetchone()
            if row is None or row["found"] is None:
                return names
            query = sql.SQL("select name from {}").format(sql.Identifier(schema, "migration"))
            applied = {row["name"] for row in await (await connection.execute(query)).fetchall()}
        return [name for name in names if name not in applied]

    async def stop(self) -> None:
        """Close the pool."""
        await self._pool.close()
        if self._autocommit is not None:
            await self._autocommit.close()

    @asynccontextmanager
    async def transaction(self, seconds: float | None = TIMEOUT_SECONDS) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error.

        `seconds` is the timeout of each statement; None: no timeout.

        Raises:
            Unavailable: the database does not respond.
            InvalidRequest: a text has a NUL character, which PostgreSQL does not support.
        """
        cancellations = _cancellations()
        try:
            async with self._pool.connection() as connection:
                # `asyncio.wait_for` of Python 3.11, in the pool, loses one that arrives together with a connection.
                if _cancellations() > cancellations:
                    raise asyncio.CancelledError
                connection.seconds = seconds
                yield connection
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise database_unavailable() from error
        except psycopg.DataError as error:
            if NUL_MESSAGE not in str(error):
                raise
            raise InvalidRequest("a text has a NUL character (U+0000), which is not supported") from error

    async def run(self, query: LiteralString, *args: Any) -> None:
        """Run one statement in its own transaction, with one round trip instead of three.

        Raises:
            Unavailable: the database does not respond.
        """
        await self._execute(query, args)

    async def fetch(self, query: LiteralString, *args: Any) -> list[dict[str, Any]]:
        """Run one statement like `run`, and return its rows.

        Raises:
            Unavailable: the database does not respond.
        """
        cursor = await self._execute(query, args)
        return await cursor.fetchall()

    async def _execute(self, query: LiteralString, args: Sequence[Any]) -> psycopg.AsyncCursor[DictRow]:
        try:
            connection = await self._autocommit_connection()
            return await connection.execute(query, args)
        except psycopg.OperationalError as error:
            raise database_unavailable() from error

    async def _autocommit_connection(self) -> Connection:
        """Return the connection of single-statement transactions; reconnect if it is closed."""
        async with self._connecting:
            if self._pool.closed:
                raise psycopg.OperationalError("stopped")
            if self._autocommit is None or not await _is_alive(self._autocommit):
                self._autocommit = await Connection.connect(
                    self._dsn,
                    autocommit=True,
                    row_factory=dict_row,
                    options=f"-c statement_timeout={SHORT_TIMEOUT_SECONDS * 1000:.0f}",
                )
                self._autocommit.seconds = SHORT_TIMEOUT_SECONDS
            return self._autocommit

    @asynccontextmanager
    async def dedicated_connection(self, seconds: float = SHORT_TIMEOUT_SECONDS) -> AsyncIterator[Connection]:
        """Open a connection outside the pool, in autocommit mode, and close it at the end of the block.

        For state of a session, such as advisory locks. `seconds` is the timeout of each statement.

        Raises:
            Unavailable: the database does not respond.
        """
        try:
            connection = await Connection.connect(
                self._dsn, autocommit=True, row_factory=dict_row, options=f"-c search_path={self._schema},public"
            )
            async with connection:
                connection.seconds = seconds
                yield connection
        except psycopg.OperationalError as error:
            raise database_unavailable() from error

    async def all(self, query: LiteralString, *args: Any) -> list[dict[str, Any]]:
        """Run one query in its own transaction, with a pooled connection and one round trip, and return its rows."""
        return await self.all_named(query, args)

    async def all_named(self, query: LiteralString, values: Sequence[Any] | Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run one query like `all`, with values by name."""
        async with self.transaction() as connection:
            await connection.set_autocommit(True)
            try:
                return await (await connection.execute(query, values)).fetchall()
            finally:
                await _end_autocommit(connection)

    async def one(self, query: LiteralString, *args: Any) -> dict[str, Any] | None:
        """Run one query like `all`, and return its first row, or None."""
        rows = await self.all(query, *args)
        return rows[0] if rows else None

    async def notifications(self, channel: str) -> AsyncGenerator[None, None]:
        """Yield immediately and after each `NOTIFY channel`; simultaneous notifications are merged.

        Also yields after a reconnect, because notifications can be missed.
        """
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    await _execute_or_disconnect(connection, sql.SQL("listen {}").format(sql.Identifier(channel)))
                    yield
                    while True:
                        if await _wait_for_notification(connection):
                            yield
            except psycopg.OperationalError as error:
                if _cancellations():  # the driver can raise its own error instead of the cancellation
                    raise asyncio.CancelledError from error
                log.warning("lost the database; listening again to %s", channel)
                await asyncio.sleep(0.5)


def database_unavailable() -> Unavailable:
    """Return the error for a database that does not respond."""
    return Unavailable("the database does not answer", part="postgres")


def _with_connection_defaults(dsn: str) -> str:
    try:
        return make_conninfo("", **CONNECTION_DEFAULTS | conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:  # its message can contain a password
        example = "host=db.example user=drw dbname=drw"
        raise ConfigError(f"postgres is not a connection string of libpq, such as {example!r}") from None


async def _wait_for_notification(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether a notification arrived; raise `OperationalError` if the server does not respond."""
    notified = False
    async for _ in connection.notifies(timeout=HEARTBEAT_SECONDS, stop_after=1):
        notified = True  # one read of the state covers all notifications
    if not notified:
        await _execute_or_disconnect(connection, sql.SQL("select 1"))
    return notified


async def _execute_or_disconnect(connection: psycopg.AsyncConnection[Any], query: sql.SQL | sql.Composed) -> None:
    """Run a statement; disconnect and raise `OperationalError` if the server does not respond in time."""
    timer = asyncio.get_running_loop().call_later(SHORT_TIMEOUT_SECONDS, _disconnect, connection)
    try:
        await connection.execute(query)
    finally:
        timer.cancel()


def _disconnect(connection: psycopg.AsyncConnection[Any]) -> None:
    # The driver would ask the server to cancel, but the server does not respond.
    with socket.socket(fileno=os.dup(connection.fileno())) as sock, suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _cancellations() -> int:
    """Return how many cancellations of the current task are pending."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


async def _check_not_closed(connection: Connection) -> None:
    """Raise if the server has closed a pooled connection."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if poller.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def _end_autocommit(connection: Connection) -> None:
    """Prepare a pooled connection for transactions; close it if its statement has not ended."""
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        await connection.set_autocommit(False)
    else:
        await connection.close()


async def _is_alive(connection: Connection) -> bool:
    if not connection.closed:
        try:
            await _check_not_closed(connection)
            return True
        except psycopg.OperationalError:
            await connection.close()
    return False


async def migrate(connection: Connection, schema: str, package: str) -> None:
    """Apply missing migrations of a package; safe for concurrent processes."""
    name = sql.Identifier(schema)
    await connection.execute("select pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
    await connection.execute(sql.SQL("create schema if not exists {}").format(name))
    await connection.execute(sql.SQL("set local search_path to {}, public").format(name))
    await connection.execute(
        "create table if not exists migration (name text primary key, at timestamptz default now())"
    )
    rows = await (await connection.execute("select name from migration")).fetchall()
    for file, text in _migrations(package):
        if file not in {row["name"] for row in rows}:
            await connection.execute(text.encode())
            await connection.execute("insert into migration (name) values (%s)", (file,))


def _migrations(package: str) -> Sequence[tuple[str, str]]:
    folder = resources.files(package) / "migrations"
    if not folder.is_dir():
        return ()
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(f.name, f.read_text(encoding="utf-8")) for f in files]
