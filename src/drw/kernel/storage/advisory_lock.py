"""Connections that hold advisory locks: PostgreSQL frees the locks at once when the process that opened them dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from drw.kernel.errors import Unavailable

CHECK_SECONDS = 5.0
"""How long a check waits for the database."""


class LockConnection:
    """A connection outside the pool, which keeps its locks while it is open."""

    def __init__(self, connection: psycopg.AsyncConnection[DictRow]) -> None:
        self._connection = connection

    async def one(self, query: str, *values: Any) -> dict[str, Any]:
        """Return the first row of a query.

        Raises:
            Unavailable: the connection, and with it every lock, is gone.
        """
        try:
            cursor = await self._connection.execute(query.encode(), values)
            return await cursor.fetchone() or {}
        except psycopg.OperationalError as error:
            raise _gone() from error

    async def check(self) -> None:
        """Check that the connection, and with it every lock, is there.

        Raises:
            Unavailable: it is not, or the database does not answer in time.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.one("select 1")
        except TimeoutError as error:
            raise _gone() from error


@asynccontextmanager
async def lock_connection(dsn: str, schema: str = "") -> AsyncIterator[LockConnection]:
    """Open a connection for locks; `schema` is where its queries find their tables.

    Raises:
        Unavailable: the database does not answer.
    """
    options = f"-c search_path={schema}" if schema else ""
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row, options=options)
    except psycopg.OperationalError as error:
        raise _gone() from error
    async with connection:
        yield LockConnection(connection)


def _gone() -> Unavailable:
    return Unavailable("the database does not answer", part="postgres")
