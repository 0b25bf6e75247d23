"""Keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import Key
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import Owner, may_change

HOLD: LiteralString = "select id, revoked_at from key where id = any(%s) order by number for share"
HOLD_BOTH: LiteralString = "select id, revoked_at from key where id = any(%s) order by number for update"
VOUCHERS: dict[str, LiteralString] = {
    "oidc": "select 1 from issuer where name = %s for share",
    "cert": "select 1 from certificate where name = %s for share",
}
"""Prefixes of ids of callers with an external identity."""
END: LiteralString = """
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
    whole: bool

    @classmethod
    def of(cls, principal: Principal, org: str) -> View:
        """Return the caller's view of an org."""
        return cls(org, principal.desk if org == principal.org else "", whole=may_change(Owner(org), principal))


class KeyStore:
    """Repository of API keys.

    Lock order, to avoid deadlocks: signing key, desk, then keys by number.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    async def unexpired(self, org: str, connection: Connection) -> int:
        """Return how many keys of an org have not expired."""
        query = "select count(*) as n from key where org = %s and expires_at > now()"
        row = await (await connection.execute(query, (org,))).fetchone()
        return row["n"] if row else 0

    async def add(self, key: Key, connection: Connection) -> None:
        """Keep a new key."""
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
                _time(key.created_at),
                _time(key.expires_at),
                key.requests_per_minute,
                key.signed_with,
                key.created_by,
                key.borrowed,
            ),
        )

    async def page(self, view: View, *, ended: bool, before: int, size: int) -> list[dict[str, Any]]:
        """Return rows of the view, newest first, older than the number `before`."""
        return await self.database.all(
            """
            select * from key
            where org = %s and (desk = %s or %s) and number < %s
              and (%s or (revoked_at is null and expires_at > now()))
            order by number desc limit %s
            """,
            *(view.org, view.desk, view.whole, before, ended, size),
        )

    async def get(self, view: View, key: str) -> dict[str, Any] | None:
        """Return one row of the view."""
        query = "select * from key where org = %s and (desk = %s or %s) and id = %s"
        return await self.database.one(query, view.org, view.desk, view.whole, key)

    async def lock(self, maker: str, rotated: str, connection: Connection) -> dict[str, Any] | None:
        """Lock the creator's key and the key to rotate; return the creator's row.

        Creators share the lock. A rotation locks exclusively, since it changes the key.
        """
        query = HOLD_BOTH if rotated else HOLD
        rows = await (await connection.execute(query, ([maker, rotated],))).fetchall()
        return next((row for row in rows if row["id"] == maker), None)

    async def lock_identity(self, maker: str, connection: Connection) -> bool:
        """Lock the issuer or the certificate that vouches for a caller; return whether it exists, or none is needed."""
        kind, _, name = maker.partition(":")
        if (query := VOUCHERS.get(kind)) is None:
            return True
        return await (await connection.execute(query, (name.partition(":")[0],))).fetchone() is not None

    async def revoke(self, view: View, key: str, connection: Connection) -> dict[str, Any] | None:
        """Revoke a key of the view that is not revoked yet; return its row, or None."""
        done = await connection.execute(
            """
            update key set revoked_at = now()
            where org = %s and (desk = %s or %s) and id = %s and revoked_at is null returning *
            """,
            (view.org, view.desk, view.whole, key),
        )
        row = await done.fetchone()
        if row:
            await changed(connection)
        return row

    async def succeed(
        self, view: View, key: str, successor: str, overlap: timedelta, connection: Connection
    ) -> datetime | None:
        """Let a good key end when its successor takes over; return when, or None where it has one already."""
        done = await connection.execute(
            """
            update key set successor = %s, ends_at = least(expires_at, now() + %s)
            where org = %s and (desk = %s or %s) and id = %s
              and revoked_at is null and successor is null and expires_at > now()
            returning ends_at
            """,
            (successor, overlap, view.org, view.desk, view.whole, key),
        )
        row = await done.fetchone()
        return row["ends_at"] if row else None

    async def end(self, connection: Connection, key: str = "") -> list[dict[str, Any]]:
        """Revoke the keys whose successors have taken over by now, or this one of them; return their rows."""
        done = await connection.execute(END, {"key": key})
        ended = sorted(await done.fetchall(), key=lambda row: str(row["id"]))
        if ended:
            await changed(connection)
        return ended

    async def maker(self, principal: Principal) -> dict[str, Any] | None:
        """Return the row of the key with which the caller calls; None where it is none."""
        return await self.database.one("select * from key where id = %s", principal.key)

    async def next_end(self) -> float | None:
        """Return the seconds until the next successor takes over; None: no successor."""
        row = await self.database.one(
            "select extract(epoch from min(ends_at) - now()) as seconds from key "
            "where ends_at is not null and revoked_at is null"
        )
        return float(row["seconds"]) if row and row["seconds"] is not None else None

    async def revoked(self) -> Sequence[str]:
        """Return the ids of revoked keys that a data plane could still take for good, sorted."""
        # An hour past its end: more than clocks differ, and than Envoy forgives.
        # What a retired signing key signed no data plane takes once it has forgotten that one; until then, which is
        # longer than it takes to hear of this list, the key itself must stay refused.
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
        """Return how many keys are good, and how many are revoked and would be good otherwise."""
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
    """Return a row as the contract has it."""
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
    key.created_at.FromDatetime(row["created_at"])
    key.expires_at.FromDatetime(row["expires_at"])
    if row["revoked_at"]:
        key.revoked_at.FromDatetime(row["revoked_at"])
    if row["ends_at"]:
        key.ends_at.FromDatetime(row["ends_at"])
    return key


def _time(stamp: Any) -> datetime:
    time: datetime = stamp.ToDatetime(UTC)
    return time
