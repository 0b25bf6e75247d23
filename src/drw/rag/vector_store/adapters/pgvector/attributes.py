"""Attribute updates in place: the row, metadata and subject of a document change, its chunks stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.attributes import from_values
from drw.kernel.storage.database import Connection
from drw.rag.vector_store.adapters.pgvector import documents, fences
from drw.rag.vector_store.ports import DocumentMetadata, DocumentNotFound, Owner

FIND = "select * from document where collection = %s and id = %s and walls = %s"
UPDATE = """
    update document set attributes = %(attributes)s, attributes_version = %(version)s, metadata = %(metadata)s
    where key = %(key)s returning *"""

COPY = """
    insert into document (collection, id, title, content_hash, pages, chunks, bytes, terms, attributes, walls, fence)
    select collection, %(id)s, %(title)s, content_hash, pages, chunks, bytes, terms, '{}', walls, %(fence)s
    from document where key = %(source)s returning *"""
COPY_PARTS = (
    "insert into permission select %(key)s, principal from permission where document = %(source)s",
    "insert into chunk select %(key)s, number, page, begins, ends, text, context, hash from chunk"
    " where document = %(source)s",
    "insert into chunk_vector select collection, %(key)s, number, value from chunk_vector where document = %(source)s",
    "insert into posting select collection, term, %(key)s, hits from posting where document = %(source)s",
)
CONTEXTS = "select number, page, context, text from chunk where document = %s order by number"


async def update(
    connection: Connection,
    owner: Owner,
    collection: int,
    document: Document,
    source: str,
    about: Callable[..., DocumentMetadata],
    fence: int,
) -> Document:
    """Replace the attributes, unless a newer version is stored; see the port."""
    row = await _row(connection, collection, document, document.id)
    if row is None and source and not await fences.is_deleted(connection, collection, document, fence):
        row = await _copied(connection, collection, document, source, fence)
    if row is None:
        raise DocumentNotFound(f"there is no document {document.id!r} in the collection")
    if row["attributes_version"] >= document.attributes_version:
        return documents.message(row)
    key = row["key"]
    chunks = await (await connection.execute(CONTEXTS, (key,))).fetchall()
    document.title = row["title"]
    analysed = about(document, [Chunk(**chunk) for chunk in chunks])
    changed = {
        "attributes": Jsonb(from_values(document.attributes)),
        "version": document.attributes_version,
        "metadata": Jsonb(dict(analysed.metadata)),
    }
    rows = await connection.execute(UPDATE, {**changed, "key": key})
    await connection.execute("delete from subject where document = %s", (key,))
    await documents.write_subject(connection, collection, key, analysed.subject)
    updated = await rows.fetchone()
    assert updated is not None, "its collection is locked"
    return documents.message(updated)


async def _row(connection: Connection, collection: int, document: Document, id_: str) -> dict[str, Any] | None:
    return await (await connection.execute(FIND, (collection, id_, list(document.walls)))).fetchone()


async def _copied(
    connection: Connection, collection: int, document: Document, source: str, fence: int
) -> dict[str, Any] | None:
    """Copy a document with the same walls; None if there is no such document."""
    if (origin := await _row(connection, collection, document, source)) is None:
        return None
    named = {"id": document.id, "title": document.title, "source": origin["key"], "fence": fence}
    row = await (await connection.execute(COPY, named)).fetchone()
    assert row is not None
    for part in COPY_PARTS:
        await connection.execute(part, {"key": row["key"], "source": origin["key"]})
    await documents.count(connection, row, 1)
    return row
