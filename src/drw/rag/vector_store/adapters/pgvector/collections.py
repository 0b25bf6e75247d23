"""The rows of collections: always found by org and desk together with the id or the name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Collection
from drw.kernel.database import Connection
from drw.kernel.errors import InvalidRequest
from drw.rag.vector_store.ports import CollectionExists, CollectionNotFound, Owner, Page

Row = dict[str, Any]


async def create(connection: Connection, owner: Owner, name: str, metadata: Mapping[str, str]) -> Collection:
    """Make a collection.

    Raises:
        CollectionExists: the name is taken.
    """
    query = "insert into collection (id, org, desk, name, metadata) values (%s, %s, %s, %s, %s) returning *"
    values = (f"vs_{secrets.token_hex(12)}", owner.org, owner.desk, name, Jsonb(dict(metadata)))
    try:
        return message(await _only(connection, query, values))
    except UniqueViolation:
        raise _taken(name) from None


async def find(connection: Connection, owner: Owner, collection: str) -> Row:
    """Return the row of a collection by its id or, where no id fits, its name."""
    query = """
        select * from collection where org = %(org)s and desk = %(desk)s and (id = %(wanted)s or name = %(wanted)s)
        order by id = %(wanted)s desc limit 1"""
    cursor = await connection.execute(query, {"org": owner.org, "desk": owner.desk, "wanted": collection})
    if (row := await cursor.fetchone()) is None:
        raise CollectionNotFound(f"there is no collection {collection!r} in the desk {owner.desk!r}")
    return row


async def lock(connection: Connection, owner: Owner, collection: str) -> Row:
    """Return the row of a collection, and keep other writers out of it until the transaction ends.

    Writers of one collection take turns: the statistics on its row stay exact, and none can deadlock.
    """
    found = await find(connection, owner, collection)
    cursor = await connection.execute("select * from collection where key = %s for no key update", (found["key"],))
    if (row := await cursor.fetchone()) is None:
        raise CollectionNotFound(f"the collection {collection!r} has just been deleted")
    return row


async def listed(connection: Connection, owner: Owner, page: Page) -> tuple[list[Collection], str]:
    """Return a page of the collections of a desk, oldest first, and the token of the next page."""
    query = "select * from collection where org = %s and desk = %s and key > %s order by key limit %s"
    cursor = await connection.execute(query, (owner.org, owner.desk, after(page), page.size + 1))
    rows = await cursor.fetchall()
    return [message(row) for row in rows[: page.size]], following(rows, page)


async def update(
    connection: Connection, owner: Owner, collection: str, name: str, metadata: Mapping[str, str]
) -> Collection:
    """Change the name, where one is given, and the metadata, where there is any.

    Raises:
        CollectionExists: the name is taken.
    """
    row = await lock(connection, owner, collection)
    values = (name or row["name"], Jsonb(dict(metadata) or row["metadata"]), row["key"])
    query = "update collection set name = %s, metadata = %s where key = %s returning *"
    try:
        return message(await _only(connection, query, values))
    except UniqueViolation:
        raise _taken(name) from None


async def delete(connection: Connection, owner: Owner, collection: str) -> Row:
    """Delete a collection with all that is in it, and return what its row said."""
    row = await lock(connection, owner, collection)
    return await _only(connection, "delete from collection where key = %s returning *", (row["key"],))


def message(row: Row) -> Collection:
    """Return a row as the contract has it."""
    made = Collection(
        id=row["id"],
        name=row["name"],
        desk=row["desk"],
        documents=row["documents"],
        chunks=row["chunks"],
        bytes=row["bytes"],
        metadata=row["metadata"],
    )
    made.created_at.FromDatetime(row["created_at"])
    return made


def after(page: Page) -> int:
    """Return the key after which a page begins.

    Raises:
        InvalidRequest: the token is none that a list has given.
    """
    if not page.token:
        return 0
    if not page.token.isascii() or not page.token.isdigit() or len(page.token) > 18:
        raise InvalidRequest(f"{page.token!r} is not a page token; take it from the page before", param="page_token")
    return int(page.token)


def following(rows: list[Row], page: Page) -> str:
    """Return the token of the page after these rows, of which one more than a page was asked for."""
    return str(rows[page.size - 1]["key"]) if len(rows) > page.size else ""


async def _only(connection: Connection, query: Any, values: tuple[Any, ...]) -> Row:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None, "the row is locked, or new"
    return row


def _taken(name: str) -> CollectionExists:
    return CollectionExists(f"the desk has a collection named {name!r} already; choose another name", param="name")
