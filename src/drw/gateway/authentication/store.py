"""Keys and signing keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drw.api.gateway.v1.authentication_pb2 import Key
from drw.gateway.authentication.signing import Signer, new_private_key
from drw.kernel.call import Caller
from drw.kernel.database import Connection, Database

CHANNEL = "authentication_changed"
SIGNING_LOCK = 0x6B6579  # "key"
ADMIN = "org:admin"


class Store:
    """The tables of the service."""

    def __init__(self, database: Database, issuer: str, audience: str) -> None:
        self.database = database
        self._issuer = issuer
        self._audience = audience

    async def signers(self) -> list[Signer]:
        """Return what verifies keys, newest first, and make the first one where there is none yet."""
        async with self.database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (SIGNING_LOCK,))
            found = await self._signers(connection)
            return found or [await self._first_signer(connection)]

    async def add(self, key: Key, connection: Connection) -> None:
        """Keep a new key."""
        await connection.execute(
            """
            insert into key
                (id, name, org, desk, scopes, last_characters, created_at, expires_at, requests_per_minute)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                key.id,
                key.name,
                key.org,
                key.desk,
                list(key.scopes),
                key.last_characters,
                _time(key.created_at),
                _time(key.expires_at),
                key.requests_per_minute,
            ),
        )

    async def page(self, who: Caller, *, ended: bool, before: int, size: int) -> list[dict[str, Any]]:
        """Return rows that the caller may see, newest first, older than the number `before`."""
        return await self.database.all(
            """
            select * from key
            where org = %s and (desk = %s or %s) and number < %s
              and (%s or (revoked_at is null and expires_at > now()))
            order by number desc limit %s
            """,
            *(who.org, who.desk, ADMIN in who.scopes, before, ended, size),
        )

    async def get(self, who: Caller, key: str) -> dict[str, Any] | None:
        """Return one row that the caller may see."""
        query = "select * from key where org = %s and (desk = %s or %s) and id = %s"
        return await self.database.one(query, who.org, who.desk, ADMIN in who.scopes, key)

    async def revoke(self, who: Caller, key: str, connection: Connection) -> dict[str, Any] | None:
        """Revoke a key that is not revoked yet and that the caller may see; return its row, or None."""
        done = await connection.execute(
            """
            update key set revoked_at = now()
            where org = %s and (desk = %s or %s) and id = %s and revoked_at is null returning *
            """,
            (who.org, who.desk, ADMIN in who.scopes, key),
        )
        row = await done.fetchone()
        if row:
            await connection.execute(f"notify {CHANNEL}".encode())
        return row

    async def revoked(self) -> Sequence[str]:
        """Return the ids of revoked keys that a data plane could still take for good, sorted."""
        # An hour past its end: more than clocks differ, and than Envoy forgives.
        rows = await self.database.all(
            "select id from key where revoked_at is not null and expires_at > now() - interval '1 hour' order by id"
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

    async def _signers(self, connection: Connection) -> list[Signer]:
        rows = await connection.execute("select private_key from signing_key order by created_at desc, kid")
        return [Signer(row["private_key"], self._issuer, self._audience) for row in await rows.fetchall()]

    async def _first_signer(self, connection: Connection) -> Signer:
        pem = new_private_key()
        signer = Signer(pem, self._issuer, self._audience)
        await connection.execute("insert into signing_key (kid, private_key) values (%s, %s)", (signer.kid, pem))
        return signer


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
    )
    key.created_at.FromDatetime(row["created_at"])
    key.expires_at.FromDatetime(row["expires_at"])
    if row["revoked_at"]:
        key.revoked_at.FromDatetime(row["revoked_at"])
    return key


def _time(stamp: Any) -> datetime:
    found: datetime = stamp.ToDatetime(UTC)
    return found
