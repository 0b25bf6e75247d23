"""Says which workers live, by a lock that PostgreSQL drops with the connection of whoever held it.

A job names the worker that has it. When a process dies, in whatever way, its connection closes, its
workers' locks are gone, and their jobs are free at once: no lease to wait for, no clock to trust.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import DictRow, dict_row

from drw.kernel.errors import Unavailable

KIND = 0x646F63  # "doc": the first half of the lock's name, the worker's number is the second

LIVING = """
select objid::bigint from pg_locks where locktype = 'advisory' and classid = 6582115 and objsubid = 2
and database = (select oid from pg_database where datname = current_database())
"""
"""The numbers of the workers that live."""


class WorkerLiveness:
    """One worker, alive while its connection is."""

    def __init__(self, number: int, connection: psycopg.AsyncConnection[DictRow]) -> None:
        self.number = number
        self._connection = connection

    async def check(self) -> None:
        """Raise `Unavailable` where the connection, and with it the lock, is gone."""
        try:
            await self._connection.execute("select 1")
        except psycopg.OperationalError as error:
            raise Unavailable("the database does not answer", part="postgres") from error


@asynccontextmanager
async def worker(dsn: str, schema: str) -> AsyncIterator[WorkerLiveness]:
    """Be a worker for as long as the block lasts.

    Raises:
        Unavailable: the database does not answer.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, row_factory=dict_row, options=f"-c search_path={schema}"
        )
    except psycopg.OperationalError as error:
        raise Unavailable("the database does not answer", part="postgres") from error
    async with connection:
        found = await connection.execute("select (nextval('worker') %% 2147483647)::int as number", ())
        number = int((await found.fetchone() or {})["number"])
        await connection.execute("select pg_advisory_lock(%s, %s)", (KIND, number))
        yield WorkerLiveness(number, connection)
