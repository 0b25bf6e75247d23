"""Kills in PostgreSQL. Changes of one kill wait for each other, and new ones of an org do; no org waits for another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.kernel.storage.database import Connection, Database

CHANNEL = "kills_changed"
LOCK = 0x6B696C6C  # "kill"
EXPIRED_BATCH = 100
"""Maximum number of expired proposals per transaction."""

Row = dict[str, Any]

OPEN_PAGE: LiteralString = """
select * from (
    (select * from kill where org = '' and number < %(before)s and state in ('PROPOSED', 'ACTIVE')
        and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp()) order by number desc limit %(size)s)
    union all
    (select * from kill where org = %(org)s and number < %(before)s and state in ('PROPOSED', 'ACTIVE')
        and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp()) order by number desc limit %(size)s)
) found order by number desc limit %(size)s
"""
ALL_PAGE: LiteralString = """
select * from (
    (select * from kill where org = '' and number < %(before)s order by number desc limit %(size)s)
    union all
    (select * from kill where org = %(org)s and number < %(before)s order by number desc limit %(size)s)
) found order by number desc limit %(size)s
"""
# Each org by its own index, so that nobody's list takes longer for the history of others.
EVERY_ORGS_OPEN_PAGE: LiteralString = """
select * from kill where number < %(before)s and state in ('PROPOSED', 'ACTIVE')
    and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp()) order by number desc limit %(size)s
"""
EVERY_ORGS_PAGE: LiteralString = "select * from kill where number < %(before)s order by number desc limit %(size)s"


class KillStore:
    """The table `kill`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def changing(self, org: str | None = None) -> AsyncIterator[Connection]:
        """Yield a transaction that, if an org is given, locks the creation of kills in it."""
        async with self._database.transaction() as connection:
            if org is not None:
                await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK, org))
            yield connection

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield immediately, and after each change of active kills."""
        return self._database.notifications(CHANNEL)

    async def open(self, connection: Connection, kill: Kill) -> Row | None:
        """Return the kill of the same subject that is in force or proposed."""
        return await _one(
            connection,
            "select * from kill where subject = %s and org = %s and name = %s and state in ('PROPOSED', 'ACTIVE')"
            " for update",
            *(Kill.Subject.Name(kill.subject), kill.org, kill.name),
        )

    async def add(self, connection: Connection, kill: Kill, by: str, principal: str, seconds: float) -> Row:
        """Keep a new proposal."""
        return await _just(
            connection,
            """
            insert into kill
                (id, subject, org, name, reason, by_platform, state, killed_by, killed_by_principals, proposal_ends_at)
            values ('kill_' || replace(gen_random_uuid()::text, '-', ''), %s, %s, %s, %s, %s, 'PROPOSED', array[%s],
                    array[%s], clock_timestamp() + make_interval(secs => %s))
            returning *
            """,
            *(Kill.Subject.Name(kill.subject), kill.org, kill.name, kill.reason, kill.by_platform),
            *(by, principal, seconds),
        )

    async def vote(self, connection: Connection, kill: str, by: str, principal: str) -> Row:
        """Add a voice for the kill."""
        query = (
            "update kill set killed_by = killed_by || %s::text, killed_by_principals = killed_by_principals || %s::text"
            " where id = %s returning *"
        )
        return await _just(connection, query, by, principal, kill)

    async def claim(self, connection: Connection, kill: str) -> Row:
        """Make a kill the platform's, and end a proposal to lift it."""
        query = (
            "update kill set by_platform = true, lifted_by = '{}', lifted_by_principals = '{}', lift_reason = '',"
            " proposal_ends_at = case when state = 'PROPOSED' then proposal_ends_at end where id = %s returning *"
        )
        return await _just(connection, query, kill)

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
            "update kill set lift_reason = %s, lifted_by = '{}', lifted_by_principals = '{}',"
            " proposal_ends_at = clock_timestamp() + make_interval(secs => %s) where id = %s returning *"
        )
        return await _just(connection, query, reason, seconds, kill)

    async def vote_to_lift(self, connection: Connection, kill: str, by: str, principal: str) -> Row:
        """Add a voice for the lift."""
        query = (
            "update kill set lifted_by = lifted_by || %s::text, lifted_by_principals = lifted_by_principals || %s::text"
            " where id = %s returning *"
        )
        return await _just(connection, query, by, principal, kill)

    async def end(self, connection: Connection, kill: str, state: str) -> Row:
        """End a kill or its proposal, and notify watchers."""
        query = (
            "update kill set state = %s, proposal_ends_at = null,"
            " lifted_at = case when state = 'ACTIVE' then clock_timestamp() end where id = %s returning *"
        )
        if state == "LIFTED":
            await connection.execute(f"notify {CHANNEL}".encode())
        return await _just(connection, query, state, kill)

    async def expired(self, connection: Connection, kill: str = "") -> list[Row]:
        """End expired proposals, of this kill or the oldest; return their kills."""
        cursor = await connection.execute(
            """
            update kill set state = case state when 'PROPOSED' then 'EXPIRED' else state end,
                lifted_by = '{}', lifted_by_principals = '{}', lift_reason = '', proposal_ends_at = null
            where id in (
                select id from kill where proposal_ends_at <= clock_timestamp() and %s in ('', id)
                order by proposal_ends_at limit %s for update skip locked
            ) returning *
            """,
            (kill, EXPIRED_BATCH),
        )
        return await cursor.fetchall()

    async def get(self, connection: Connection, kill: str) -> Row | None:
        """Return one kill, locked until the transaction ends."""
        return await _one(connection, "select * from kill where id = %s for update", kill)

    async def count_open_of(self, connection: Connection, org: str) -> int:
        """Return how many an org has in force or proposed; those of the platform do not count."""
        query = (
            "select count(*) as n from kill where org = %s and not by_platform and state in ('PROPOSED', 'ACTIVE')"
            " and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp())"
        )
        return int((await _just(connection, query, org))["n"])

    async def count_open(self, connection: Connection) -> tuple[int, int]:
        """Return the number of open kills in total and of these orgs, under a lock."""
        await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        query = (
            "select count(*) as n, count(*) filter (where not by_platform) as of_orgs from kill"
            " where state in ('PROPOSED', 'ACTIVE') and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp())"
        )
        row = await _just(connection, query)
        return int(row["n"]), int(row["of_orgs"])

    async def page(self, org: str, *, every_org: bool, ended: bool, before: int, size: int) -> list[Row]:
        """Return those of the org and of every org, or all, older than the number `before`, newest first."""
        parameters = {"org": org, "before": before, "size": size}
        opened, everything = (EVERY_ORGS_OPEN_PAGE, EVERY_ORGS_PAGE) if every_org else (OPEN_PAGE, ALL_PAGE)
        query = everything if ended else opened
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(query, parameters)).fetchall()
        return [_current(row) for row in rows]

    async def active(self) -> list[Row]:
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
        by_platform=row["by_platform"],
    )
    for name in ("proposed_at", "killed_at", "lifted_at", "proposal_ends_at"):
        if row[name] is not None:
            getattr(kill, name).FromDatetime(row[name])
    return kill


def _current(row: Row) -> Row:
    """Return a row whose proposal is over as it will be written soon."""
    if row["proposal_ends_at"] is None or row["proposal_ends_at"] > datetime.now(UTC):
        return row
    state = "EXPIRED" if row["state"] == "PROPOSED" else row["state"]
    return row | {"state": state, "lifted_by": [], "lift_reason": "", "proposal_ends_at": None}


async def _one(connection: Connection, query: str, *args: Any) -> Row | None:
    return await (await connection.execute(query.encode(), args)).fetchone()


async def _just(connection: Connection, query: str, *args: Any) -> Row:
    row = await _one(connection, query, *args)
    assert row is not None, "the row is held by this transaction"
    return row
