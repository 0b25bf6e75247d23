"""Repository of kills in PostgreSQL.

Changes of one kill are serialised, and so are new kills of one org. Orgs do not wait for each other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times

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
# The queries above use an index by org, so the history of other orgs does not slow them down.
EVERY_ORGS_OPEN_PAGE: LiteralString = """
select * from kill where number < %(before)s and state in ('PROPOSED', 'ACTIVE')
    and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp()) order by number desc limit %(size)s
"""
EVERY_ORGS_PAGE: LiteralString = "select * from kill where number < %(before)s order by number desc limit %(size)s"


class KillStore:
    """Reads and changes kills inside the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self, org: str | None = None) -> AsyncIterator[Connection]:
        """Yield a transaction that, if an org is given, locks the creation of kills in it."""
        async with self._database.transaction() as connection:
            if org is not None:
                await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK, org))
            yield connection

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield immediately, and after each change of active kills."""
        return self._database.notifications(CHANNEL)

    async def get_open(self, connection: Connection, kill: Kill) -> Row | None:
        """Return the active or proposed kill of the same subject, locked for update."""
        return await _fetch_one(
            connection,
            "select * from kill where subject = %s and org = %s and name = %s and state in ('PROPOSED', 'ACTIVE')"
            " for update",
            *(Kill.Subject.Name(kill.subject), kill.org, kill.name),
        )

    async def insert(self, connection: Connection, kill: Kill, by: str, principal: str, seconds: float) -> Row:
        """Insert a proposal."""
        return await _fetch_existing(
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

    async def approve(self, connection: Connection, kill: str, by: str, principal: str) -> Row:
        """Add an approval of the kill."""
        query = (
            "update kill set killed_by = killed_by || %s::text, killed_by_principals = killed_by_principals || %s::text"
            " where id = %s returning *"
        )
        return await _fetch_existing(connection, query, by, principal, kill)

    async def claim(self, connection: Connection, kill: str) -> Row:
        """Make the platform the owner of a kill, and end a proposal to lift it."""
        query = (
            "update kill set by_platform = true, lifted_by = '{}', lifted_by_principals = '{}', lift_reason = '',"
            " proposal_ends_at = case when state = 'PROPOSED' then proposal_ends_at end where id = %s returning *"
        )
        return await _fetch_existing(connection, query, kill)

    async def activate(self, connection: Connection, kill: str) -> Row:
        """Activate the kill, and notify watchers."""
        query = (
            "update kill set state = 'ACTIVE', killed_at = clock_timestamp(), proposal_ends_at = null"
            " where id = %s returning *"
        )
        await connection.execute(f"notify {CHANNEL}".encode())
        return await _fetch_existing(connection, query, kill)

    async def propose_lift(self, connection: Connection, kill: str, reason: str, seconds: float) -> Row:
        """Begin a proposal to lift the kill, without approvals."""
        query = (
            "update kill set lift_reason = %s, lifted_by = '{}', lifted_by_principals = '{}',"
            " proposal_ends_at = clock_timestamp() + make_interval(secs => %s) where id = %s returning *"
        )
        return await _fetch_existing(connection, query, reason, seconds, kill)

    async def approve_lift(self, connection: Connection, kill: str, by: str, principal: str) -> Row:
        """Add an approval of the lift."""
        query = (
            "update kill set lifted_by = lifted_by || %s::text, lifted_by_principals = lifted_by_principals || %s::text"
            " where id = %s returning *"
        )
        return await _fetch_existing(connection, query, by, principal, kill)

    async def end(self, connection: Connection, kill: str, state: str) -> Row:
        """End a kill or its proposal, and notify watchers."""
        query = (
            "update kill set state = %s, proposal_ends_at = null,"
            " lifted_at = case when state = 'ACTIVE' then clock_timestamp() end where id = %s returning *"
        )
        if state == "LIFTED":
            await connection.execute(f"notify {CHANNEL}".encode())
        return await _fetch_existing(connection, query, state, kill)

    async def expire(self, connection: Connection, kill: str = "") -> list[Row]:
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
        return await _fetch_one(connection, "select * from kill where id = %s for update", kill)

    async def count_open_of(self, connection: Connection, org: str) -> int:
        """Return the number of active and proposed kills of an org, without kills of the platform."""
        query = (
            "select count(*) as n from kill where org = %s and not by_platform and state in ('PROPOSED', 'ACTIVE')"
            " and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp())"
        )
        return int((await _fetch_existing(connection, query, org))["n"])

    async def count_open(self, connection: Connection) -> tuple[int, int]:
        """Return the number of active and proposed kills, and of those by orgs, under a lock that all orgs share."""
        await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        query = (
            "select count(*) as n, count(*) filter (where not by_platform) as of_orgs from kill"
            " where state in ('PROPOSED', 'ACTIVE') and (state = 'ACTIVE' or proposal_ends_at > clock_timestamp())"
        )
        row = await _fetch_existing(connection, query)
        return int(row["n"]), int(row["of_orgs"])

    async def page(self, org: str, *, every_org: bool, include_ended: bool, before: int, size: int) -> list[Row]:
        """Return kills of the org and of the platform, or of all orgs, with numbers below `before`, newest first."""
        parameters = {"org": org, "before": before, "size": size}
        open_page, all_page = (EVERY_ORGS_OPEN_PAGE, EVERY_ORGS_PAGE) if every_org else (OPEN_PAGE, ALL_PAGE)
        query = all_page if include_ended else open_page
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(query, parameters)).fetchall()
        return [_with_expiry(row) for row in rows]

    async def active(self) -> list[Row]:
        """Return all active kills."""
        return await self._database.all("select * from kill where state = 'ACTIVE' order by number")


def as_kill(row: Row) -> Kill:
    """Convert a row to a kill."""
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
    set_times(kill, row, "proposed_at", "killed_at", "lifted_at", "proposal_ends_at")
    return kill


def _with_expiry(row: Row) -> Row:
    """Return the row as `expire` will write it, if its proposal has expired."""
    if row["proposal_ends_at"] is None or row["proposal_ends_at"] > datetime.now(UTC):
        return row
    state = "EXPIRED" if row["state"] == "PROPOSED" else row["state"]
    return row | {"state": state, "lifted_by": [], "lift_reason": "", "proposal_ends_at": None}


async def _fetch_one(connection: Connection, query: str, *args: Any) -> Row | None:
    return await (await connection.execute(query.encode(), args)).fetchone()


async def _fetch_existing(connection: Connection, query: str, *args: Any) -> Row:
    row = await _fetch_one(connection, query, *args)
    assert row is not None, "this transaction has locked the row"
    return row
