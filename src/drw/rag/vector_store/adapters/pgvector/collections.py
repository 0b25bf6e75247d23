"""Rows of collections; every query filters by org and desk."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Collection
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.database import Connection
from drw.rag.vector_store.ports import CollectionExists, CollectionNotFound, Owner, Page

Row = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

VISIBLE = "visible_collections(%(org)s, %(desk)s, %(walls)s)"
WITH_COUNTS = f"""
    select c.*, t.documents, t.chunks, t.bytes from {VISIBLE} c cross join lateral (
        select coalesce(sum(documents), 0)::bigint as documents, coalesce(sum(chunks), 0)::bigint as chunks,
            coalesce(sum(bytes), 0)::bigint as bytes
        from collection_total where collection = c.key and inside(walls, %(walls)s)) t"""  # noqa: S608 - constants

FIND = f"""
    select * from {VISIBLE} where id = %(id_or_name)s or name = %(id_or_name)s
    order by id = %(id_or_name)s desc, withdrawn, cardinality(walls) desc, walls limit 1"""  # noqa: S608
WITH_COUNTS_BY_KEY = f"{WITH_COUNTS} where c.key = %(key)s"
LIST = f"""{WITH_COUNTS}
    where %(at)s::timestamptz is null or (c.created_at, c.id) > (%(at)s, %(id)s)
    order by c.created_at, c.id limit %(limit)s"""
DELETE_DOCUMENTS = "delete from document where collection = %(key)s and inside(walls, %(walls)s)"
DELETE_TOTALS = "delete from collection_total where collection = %(key)s and inside(walls, %(walls)s)"


async def create(
    connection: Connection, owner: Owner, name: str, metadata: Mapping[str, str], walls: Sequence[str]
) -> Collection:
    """Create a collection with these walls.

    Raises:
        CollectionExists: the desk has a collection of this name.
    """
    query = (
        "insert into collection (id, org, desk, name, metadata, walls) values (%s, %s, %s, %s, %s, %s)"
        " returning *, 0 as documents, 0 as chunks, 0 as bytes"
    )
    values = (f"vs_{secrets.token_hex(12)}", owner.org, owner.desk, name, Jsonb(dict(metadata)), list(walls))
    try:
        return message(await _fetch_one(connection, query, values))
    except UniqueViolation:
        raise _name_taken(name) from None


async def find(connection: Connection, owner: Owner, collection: str) -> Row:
    """Return the row of a collection by its id or, if no id matches, its name.

    If several have the name, each within other walls, it is the one with the most walls.
    """
    cursor = await connection.execute(FIND, {**owner_parameters(owner), "id_or_name": collection})
    if (row := await cursor.fetchone()) is None:
        raise CollectionNotFound(f"there is no collection {collection!r} in the desk {owner.desk!r}")
    return row


async def get(connection: Connection, owner: Owner, collection: str) -> Collection:
    """Return a collection with counts of its visible documents."""
    row = await find(connection, owner, collection)
    return message(await _fetch_one(connection, WITH_COUNTS_BY_KEY, {**owner_parameters(owner), "key": row["key"]}))


async def lock(connection: Connection, owner: Owner, collection: str) -> Row:
    """Return the row of a collection and lock it against other writers until the transaction ends.

    Writers of one collection are serialised: its totals stay exact, and deadlocks cannot occur.
    """
    row = await find(connection, owner, collection)
    cursor = await connection.execute("select * from collection where key = %s for no key update", (row["key"],))
    if await cursor.fetchone() is None:
        raise CollectionNotFound(f"the collection {collection!r} has just been deleted")
    return await find(connection, owner, row["id"])  # it may have been withdrawn meanwhile


async def list_page(connection: Connection, owner: Owner, page: Page) -> tuple[list[Collection], str]:
    """Return a page of the collections of a desk, oldest first, and the token of the next page."""
    cursor = await connection.execute(LIST, {**owner_parameters(owner), **page_start(page), "limit": page.size + 1})
    rows = await cursor.fetchall()
    return [message(row) for row in rows[: page.size]], next_page_token(rows, page, "created_at")


async def update(
    connection: Connection, owner: Owner, collection: str, name: str, metadata: Mapping[str, str]
) -> Collection:
    """Change the name and the metadata, if given.

    Raises:
        CollectionExists: the desk has a collection of this name.
    """
    row = await lock(connection, owner, collection)
    values = (name or row["name"], Jsonb(dict(metadata) or row["metadata"]), row["key"])
    try:
        await connection.execute("update collection set name = %s, metadata = %s where key = %s", values)
    except UniqueViolation:
        raise _name_taken(name) from None
    return await get(connection, owner, row["id"])


async def delete(connection: Connection, owner: Owner, collection: str) -> Collection:
    """Delete a collection with all documents that its caller may see; return their counts.

    Documents that the caller may not see stay, with the collection, for callers inside their walls.
    """
    row = await lock(connection, owner, collection)
    deleted = await get(connection, owner, row["id"])
    await connection.execute(DELETE_DOCUMENTS, {**owner_parameters(owner), "key": row["key"]})
    await connection.execute(DELETE_TOTALS, {**owner_parameters(owner), "key": row["key"]})
    await connection.execute("update collection set withdrawn = true where key = %s", (row["key"],))
    await remove_if_empty(connection, row["key"])
    return deleted


async def remove_if_empty(connection: Connection, key: int) -> None:
    """Remove a withdrawn collection once it has no documents left."""
    query = """
        delete from collection c where key = %s and withdrawn
        and not exists (select from document d where d.collection = c.key)"""
    await connection.execute(query, (key,))


def owner_parameters(owner: Owner) -> dict[str, Any]:
    """Return the query parameters of an owner."""
    return {"org": owner.org, "desk": owner.desk, "walls": list(owner.walls)}


def message(row: Row) -> Collection:
    """Return a row as a message of the contract."""
    collection = Collection(
        id=row["id"],
        name=row["name"],
        desk=row["desk"],
        documents=row["documents"],
        chunks=row["chunks"],
        bytes=row["bytes"],
        metadata=row["metadata"],
        walls=row["walls"],
    )
    collection.created_at.FromDatetime(row["created_at"])
    return collection


def page_start(page: Page) -> dict[str, Any]:
    """Return the time and the id after which a page begins. They reveal nothing about rows that the caller may not see.

    Raises:
        InvalidRequest: the token is not from an earlier page.
    """
    if not page.token:
        return {"at": None, "id": ""}
    micros, _, id_ = page.token.partition(".")
    if not (micros.isascii() and micros.isdigit() and len(micros) <= 17 and id_):
        raise InvalidRequest(f"{page.token!r} is not a page token; take it from the page before", param="page_token")
    return {"at": EPOCH + timedelta(microseconds=int(micros)), "id": id_}


def next_page_token(rows: list[Row], page: Page, column: str) -> str:
    """Return the token of the next page, given one row more than the page has; empty on the last page."""
    if len(rows) <= page.size:
        return ""
    last = rows[page.size - 1]
    return f"{(last[column] - EPOCH) // timedelta(microseconds=1)}.{last['id']}"


async def _fetch_one(connection: Connection, query: Any, values: Any) -> Row:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None, "the row is locked, or new"
    return row


def _name_taken(name: str) -> CollectionExists:
    return CollectionExists(f"the desk has a collection named {name!r} already; choose another name", param="name")
