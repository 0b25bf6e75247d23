"""Queries of orgs, desks and their dependents; each runs inside a transaction of its caller."""

from __future__ import annotations

from typing import Any, Literal, LiteralString

from google.protobuf.message import Message

from drw.api.gateway.v1.authentication_pb2 import Desk, Org
from drw.gateway.authentication.tenants import permissions
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.storage.database import Connection

CHANNEL = "authentication_changed"

Lock = Literal["", "share", "update"]
SELECT_ORG: dict[Lock, LiteralString] = {
    "": "select * from org where name = %s",
    "share": "select * from org where name = %s for share",
    "update": "select * from org where name = %s for update",
}
SELECT_DESK: dict[Lock, LiteralString] = {
    "": "select * from desk where org = %s and name = %s",
    "share": "select * from desk where org = %s and name = %s for share",
    "update": "select * from desk where org = %s and name = %s for update",
}
"""Creating a key locks its desk for share, and changing a desk locks it for update."""


async def changed(connection: Connection) -> None:
    """Notify watchers of credentials when the transaction commits."""
    await connection.execute(f"notify {CHANNEL}".encode())


async def org(connection: Connection, name: str, *, lock: Lock = "") -> Org | None:
    """Return an org."""
    row = await _fetch_one(connection, SELECT_ORG[lock], permissions.lookup_name(name))
    return as_org(row) if row else None


async def desk(connection: Connection, org_name: str, name: str, *, lock: Lock = "") -> Desk | None:
    """Return a desk."""
    row = await _fetch_one(
        connection, SELECT_DESK[lock], permissions.lookup_name(org_name), permissions.lookup_name(name)
    )
    return as_desk(row) if row else None


async def count_desks(connection: Connection, org_name: str) -> int:
    """Return the number of desks of an org."""
    row = await _fetch_one(connection, "select count(*) as n from desk where org = %s", org_name)
    return int(row["n"]) if row else 0


async def put_org(connection: Connection, org: Org) -> Org:
    """Write an org."""
    query: LiteralString = """
        insert into org (name, title, scopes, walls) values (%s, %s, %s, %s)
        on conflict (name) do update set title = excluded.title, scopes = excluded.scopes, walls = excluded.walls,
            updated_at = now()
        returning *
    """
    row = await _fetch_one(connection, query, org.name, org.title, list(org.scopes), list(org.walls))
    assert row is not None, "it was written"
    return as_org(row)


async def put_desk(connection: Connection, desk: Desk) -> Desk:
    """Write a desk."""
    query: LiteralString = """
        insert into desk (org, name, title, scopes, walls) values (%s, %s, %s, %s, %s)
        on conflict (org, name) do update set title = excluded.title, scopes = excluded.scopes,
            walls = excluded.walls, updated_at = now()
        returning *
    """
    fields = (desk.org, desk.name, desk.title, list(desk.scopes), list(desk.walls))
    row = await _fetch_one(connection, query, *fields)
    assert row is not None, "it was written"
    return as_desk(row)


async def wider_desks(connection: Connection, org: Org) -> list[Desk]:
    """Return the desks with more permissions than the narrowed org, locked for update."""
    cursor = await connection.execute(
        "select * from desk where org = %s and not (scopes <@ %s::text[] and walls <@ %s::text[]) "
        "order by name for update",
        (org.name, list(org.scopes), list(org.walls)),
    )
    return [as_desk(row) for row in await cursor.fetchall()]


async def wider_keys(connection: Connection, desk: Desk) -> list[str]:
    """Return the ids of valid keys with more permissions than the narrowed desk; without permissions: all keys."""
    cursor = await connection.execute(
        """
        select id from key where org = %s and desk = %s and revoked_at is null and expires_at > now()
            and not (scopes <@ %s::text[] and walls <@ %s::text[])
        order by number
        """,
        (desk.org, desk.name, list(desk.scopes), list(desk.walls)),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def revoke(connection: Connection, keys: list[str]) -> None:
    """Revoke keys; it locks them in the order of `KeyStore`."""
    query: LiteralString = """
        with wider as materialized (select number from key where id = any(%s) order by number for update)
        update key set revoked_at = now() from wider where key.number = wider.number
    """
    await connection.execute(query, (keys,))


async def dependents_of_org(connection: Connection, name: str) -> list[str]:
    """Return the desks and issuers of an org, as in "the desk rates"."""
    query: LiteralString = """
        select 'the desk ' || name as text from desk where org = %(org)s
        union all select 'the issuer ' || name from issuer where org = %(org)s order by text
    """
    cursor = await connection.execute(query, {"org": name})
    return [row["text"] for row in await cursor.fetchall()]


async def certificates_of_desk(connection: Connection, org_name: str, name: str) -> list[str]:
    """Return the certificates of a desk, as in "the certificate pricing"."""
    query: LiteralString = "select 'the certificate ' || name as text from certificate where org = %s and desk = %s"
    cursor = await connection.execute(query, (org_name, name))
    return sorted([row["text"] for row in await cursor.fetchall()])


def as_org(row: dict[str, Any]) -> Org:
    """Convert a row to an org."""
    org = Org(name=row["name"], title=row["title"], scopes=row["scopes"], walls=row["walls"])
    _set_times(org, row)
    return org


def as_desk(row: dict[str, Any]) -> Desk:
    """Convert a row to a desk."""
    desk = Desk(org=row["org"], name=row["name"], title=row["title"], scopes=row["scopes"], walls=row["walls"])
    _set_times(desk, row)
    return desk


def audit_details(record: Message | None) -> Any:
    """Return a record for the audit log, without its times; None for None."""
    if record is None:
        return None
    return {k: v for k, v in to_json(record).items() if not k.endswith("_at")}


def _set_times(record: Org | Desk, row: dict[str, Any]) -> None:
    record.created_at.FromDatetime(row["created_at"])
    record.updated_at.FromDatetime(row["updated_at"])


async def _fetch_one(connection: Connection, query: LiteralString, *args: Any) -> dict[str, Any] | None:
    return await (await connection.execute(query, args)).fetchone()
