"""Repository of API keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import Key
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times
from drw.kernel.tenancy import Owner, may_change

LOCK_FOR_SHARE: LiteralString = "select id, revoked_at from key where id = any(%s) order by number for share"
LOCK_FOR_UPDATE: LiteralString = "select id, revoked_at from key where id = any(%s) order by number for update"
LOCK_IDENTITY: dict[str, LiteralString] = {
    "oidc": "select 1 from issuer where name = %s for share",
    "cert": "select 1 from certificate where name = %s for share",
}
"""Queries that lock the issuer or the certificate of a caller, by the prefix of its id."""
REVOKE_ROTATED: LiteralString = """
with due as materialized (
    select number from key
    where ends_at <= now() and revoked_at is null and (%(key)s = '' or id = %(key)s) order by number for update
)
update key set revoked_at = now() from due where key.number = due.number returning key.*
"""


@dataclass(frozen=True, slots=True)
class View:
    """The keys that a caller can see: of a desk, or of the whole org."""

    org: str
    desk: str
    whole_org: bool

    @classmethod
    def of(cls, principal: Principal, org: str) -> View:
        """Return the caller's view of an org."""
        return cls(org, principal.desk if org == principal.org else "", whole_org=may_change(Owner(org), principal))


class KeyStore:
    """Repository of API keys.

    Lock order, to avoid deadlocks: signing key, desk, then keys by number.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    async def count_unexpired(self, org: str, connection: Connection) -> int:
        """Return the number of unexpired keys of an org, revoked ones included."""
        query = "select count(*) as n from key where org = %s and expires_at > now()"
        row = await (await connection.execute(query, (org,))).fetchone()
        return row["n"] if row else 0

    async def add(self, key: Key, connection: Connection) -> None:
        """Insert a key."""
        await connection.execute(
            """
            insert into key
                (id, name, org, desk, scopes, walls, last_characters, created_at, expires_at, requests_per_minute,
                 signed_with, created_by, borrowed)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                key.id,
                key.name,
                key.org,
                key.desk,
                list(key.scopes),
                list(key.walls),
                key.last_characters,
                _to_datetime(key.created_at),
                _to_datetime(key.expires_at),
                key.requests_per_minute,
                key.signed_with,
                key.created_by,
                key.borrowed,
            ),
        )

    async def page(self, view: View, *, include_ended: bool, before: int, size: int) -> list[dict[str, Any]]:
        """Return rows of the view with numbers below `before`, newest first."""
        return await self.database.all(
            """
            select * from key
            where org = %s and (desk = %s or %s) and number < %s
              and (%s or (revoked_at is null and expires_at > now()))
            order by number desc limit %s
            """,
            *(view.org, view.desk, view.whole_org, before, include_ended, size),
        )

    async def get(self, view: View, key: str) -> dict[str, Any] | None:
        """Return a row of the view; None: the view has no such key."""
        query = "select * from key where org = %s and (desk = %s or %s) and id = %s"
        return await self.database.one(query, view.org, view.desk, view.whole_org, key)

    async def lock_keys(self, creator: str, rotated_key: str, connection: Connection) -> dict[str, Any] | None:
        """Lock the creator's key and the key to rotate; return the creator's row; None: the creator has no key.

        Creations lock for share. Rotations lock for update, since they change the key.
        """
        query = LOCK_FOR_UPDATE if rotated_key else LOCK_FOR_SHARE
        rows = await (await connection.execute(query, ([creator, rotated_key],))).fetchall()
        return next((row for row in rows if row["id"] == creator), None)

    async def lock_identity(self, creator: str, connection: Connection) -> bool:
        """Lock the issuer or certificate of a caller; return False if it does not exist. Other callers need none."""
        kind, _, name = creator.partition(":")
        if (query := LOCK_IDENTITY.get(kind)) is None:
            return True
        return await (await connection.execute(query, (name.partition(":")[0],))).fetchone() is not None

    async def revoke(self, view: View, key: str, connection: Connection) -> dict[str, Any] | None:
        """Revoke a key of the view; return its row; None: it is revoked already or not in the view."""
        cursor = await connection.execute(
            """
            update key set revoked_at = now()
            where org = %s and (desk = %s or %s) and id = %s and revoked_at is null returning *
            """,
            (view.org, view.desk, view.whole_org, key),
        )
        row = await cursor.fetchone()
        if row:
            await changed(connection)
        return row

    async def set_successor(
        self, view: View, key: str, successor: str, overlap: timedelta, connection: Connection
    ) -> datetime | None:
        """Set the successor of a valid key; return the end of the overlap; None: the key cannot be rotated."""
        cursor = await connection.execute(
            """
            update key set successor = %s, ends_at = least(expires_at, now() + %s)
            where org = %s and (desk = %s or %s) and id = %s
              and revoked_at is null and successor is null and expires_at > now()
            returning ends_at
            """,
            (successor, overlap, view.org, view.desk, view.whole_org, key),
        )
        row = await cursor.fetchone()
        return row["ends_at"] if row else None

    async def revoke_rotated(self, connection: Connection, key: str = "") -> list[dict[str, Any]]:
        """Revoke rotated keys whose overlap is over, by default all of them; return their rows."""
        cursor = await connection.execute(REVOKE_ROTATED, {"key": key})
        rows = sorted(await cursor.fetchall(), key=lambda row: str(row["id"]))
        if rows:
            await changed(connection)
        return rows

    async def key_of(self, principal: Principal) -> dict[str, Any] | None:
        """Return the row of the caller's key; None: the caller has no key."""
        return await self.database.one("select * from key where id = %s", principal.key)

    async def seconds_until_next_end(self) -> float | None:
        """Return the seconds until the next overlap ends; None: no key is being rotated."""
        row = await self.database.one(
            "select extract(epoch from min(ends_at) - now()) as seconds from key "
            "where ends_at is not null and revoked_at is null"
        )
        return float(row["seconds"]) if row and row["seconds"] is not None else None

    async def revoked(self) -> Sequence[str]:
        """Return the ids of revoked keys that a data plane could still accept, sorted."""
        # Keys stay on the list for an hour after they expire, since clocks differ and Envoy tolerates a difference.
        # Keys of a retired signing key stay on it for an hour, until all data planes have dropped that signing key.
        rows = await self.database.all(
            """
            select id from key left join signing_key on kid = signed_with
            where revoked_at is not null and expires_at > now() - interval '1 hour'
              and (retired_at is null or retired_at > now() - interval '1 hour')
            order by id
            """
        )
        return [row["id"] for row in rows]

    async def counts(self) -> tuple[int, int]:
        """Return the numbers of valid keys and of revoked keys that have not expired."""
        row = await self.database.one(
            """
            select count(*) filter (where revoked_at is null) as good,
                   count(*) filter (where revoked_at is not null) as revoked
            from key where expires_at > now()
            """
        )
        assert row is not None, "an aggregate has always one row"
        return row["good"], row["revoked"]


def as_key(row: dict[str, Any]) -> Key:
    """Convert a row to a key."""
    key = Key(
        id=row["id"],
        name=row["name"],
        org=row["org"],
        desk=row["desk"],
        scopes=row["scopes"],
        last_characters=row["last_characters"],
        requests_per_minute=row["requests_per_minute"],
        walls=row["walls"],
        signed_with=row["signed_with"] or "",
        successor=row["successor"] or "",
        created_by=row["created_by"],
        borrowed=row["borrowed"],
    )
    set_times(key, row, "created_at", "expires_at", "revoked_at", "ends_at")
    return key


def _to_datetime(stamp: Any) -> datetime:
    time: datetime = stamp.ToDatetime(UTC)
    return time
