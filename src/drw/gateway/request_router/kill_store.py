"""Kills in PostgreSQL. Changes of them wait for each other, so that two persons can decide at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.kernel.database import Connection, Database

CHANNEL = "kills_changed"
LOCK = 0x6B696C6C  # "kill"
MOST_SHOWN = 1000

Row = dict[str, Any]


class KillStore:
    """The table `kill`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Connection]:
        """Give a transaction in which nobody else changes a kill."""
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
            yield connection

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield at once, and after each change of what is in force."""
        return self._database.notifications(CHANNEL)

    async def open(self, connection: Connection, wanted: Kill) -> Row | None:
        """Return the kill of the same subject that is in force or proposed."""
        return await _one(
            connection,
            "select * from kill where subject = %s and org = %s and name = %s and state in ('PROPOSED', 'ACTIVE')",
            *(Kill.Subject.Name(wanted.subject), wanted.org, wanted.name),
        )

    async def add(self, connection: Connection, wanted: Kill, by: str, seconds: float) -> Row:
        """Keep a new proposal."""
        return await _just(
            connection,
            """
            insert into kill (id, subject, org, name, reason, state, killed_by, proposal_ends_at)
            values ('kill_' || replace(gen_random_uuid()::text, '-', ''), %s, %s, %s, %s, 'PROPOSED', array[%s],
                    clock_timestamp() + make_interval(secs => %s))
            returning *
            """,
            *(Kill.Subject.Name(wanted.subject), wanted.org, wanted.name, wanted.reason, by, seconds),
        )

    async def vote(self, connection: Connection, kill: str, by: str) -> Row:
        """Add a voice for the kill."""
        query = "update kill set killed_by = killed_by || %s::text where id = %s returning *"
        return await _just(connection, query, by, kill)

    async def activate(self, connection: Connection, kill: str) -> Row:
        """Put the kill in force."""
        query = (
            "update kill set state = 'ACTIVE', killed_at = clock_timestamp(), proposal_ends_at = null"
            " where id = %s returning *"
        )
        await connection.execute(f"notify {CHANNEL}".encode())
        return await _just(connection, query, kill)

    async def propose_lift(self, connection: Connection, kill: str, reason: str, seconds: float) -> Row:
        """Begin a proposal to lift, with no voice yet."""
        query = (
            "update kill set lift_reason = %s, lifted_by = '{}',"
            " proposal_ends_at = clock_timestamp() + make_interval(secs => %s) where id = %s returning *"
        )
        return await _just(connection, query, reason, seconds, kill)

    async def vote_to_lift(self, connection: Connection, kill: str, by: str) -> Row:
        """Add a voice for the lift."""
        query = "update kill set lifted_by = lifted_by || %s::text where id = %s returning *"
        return await _just(connection, query, by, kill)

    async def end(self, connection: Connection, kill: str, state: str) -> Row:
        """End a kill, or the proposal of one."""
        query = (
            "update kill set state = %s, proposal_ends_at = null,"
            " lifted_at = case when state = 'ACTIVE' then clock_timestamp() end where id = %s returning *"
        )
        await connection.execute(f"notify {CHANNEL}".encode())
        return await _just(connection, query, state, kill)

    async def expired(self, connection: Connection) -> list[Row]:
        """End every proposal whose time is over, and return what became of its kill."""
        found = await connection.execute(
            """
            update kill set state = case state when 'PROPOSED' then 'EXPIRED' else state end,
                lifted_by = '{}', lift_reason = '', proposal_ends_at = null
            where proposal_ends_at <= clock_timestamp() returning *
            """
        )
        return await found.fetchall()

    async def get(self, connection: Connection, kill: str) -> Row | None:
        """Return one kill."""
        return await _one(connection, "select * from kill where id = %s", kill)

    async def count_open(self, connection: Connection) -> int:
        """Return how many are in force or proposed."""
        query = "select count(*) as n from kill where state in ('PROPOSED', 'ACTIVE')"
        return int((await _just(connection, query))["n"])

    async def page(self, org: str, *, every_org: bool, ended: bool) -> list[Row]:
        """Return those of the org and of nobody's, newest first."""
        return await self._database.all(
            """
            select * from kill where (org in ('', %s) or %s) and (%s or state in ('PROPOSED', 'ACTIVE'))
            order by number desc limit %s
            """,
            *(org, every_org, ended, MOST_SHOWN),
        )

    async def in_force(self) -> list[Row]:
        """Return all that are in force."""
        return await self._database.all("select * from kill where state = 'ACTIVE' order by number")


def as_kill(row: Row) -> Kill:
    """Return a row as the contract has it."""
    kill = Kill(
        id=row["id"],
        subject=row["subject"],
        org=row["org"],
        name=row["name"],
        reason=row["reason"],
        state=row["state"],
        killed_by=row["killed_by"],
        lifted_by=row["lifted_by"],
        lift_reason=row["lift_reason"],
    )
    for name in ("proposed_at", "killed_at", "lifted_at", "proposal_ends_at"):
        if row[name] is not None:
            getattr(kill, name).FromDatetime(row[name])
    return kill


async def _one(connection: Connection, query: str, *args: Any) -> Row | None:
    return await (await connection.execute(query.encode(), args)).fetchone()


async def _just(connection: Connection, query: str, *args: Any) -> Row:
    row = await _one(connection, query, *args)
    assert row is not None, "the row is held by this transaction"
    return row
