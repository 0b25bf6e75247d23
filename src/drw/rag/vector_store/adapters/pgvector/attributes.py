"""Attribute updates in place: change the row, metadata and subject of a document, not its chunks."""

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
    from document where key = %(copy_from)s returning *"""
COPY_RELATED_ROWS = (
    "insert into permission select %(key)s, principal from permission where document = %(copy_from)s",
    "insert into chunk select %(key)s, number, page, begins, ends, text, context, hash from chunk"
    " where document = %(copy_from)s",
    "insert into chunk_vector select collection, %(key)s, number, value from chunk_vector"
    " where document = %(copy_from)s",
    "insert into posting select collection, term, %(key)s, hits from posting where document = %(copy_from)s",
)
CONTEXTS = "select number, page, context, text from chunk where document = %s order by number"


async def update(
    connection: Connection,
    owner: Owner,
    collection: int,
    document: Document,
    copy_from: str,
    extract_metadata: Callable[..., DocumentMetadata],
    fence: int,
) -> Document:
    """Replace the attributes, unless a newer version is stored; see the port."""
    row = await _row(connection, collection, document, document.id)
    if row is None and copy_from and not await fences.is_deleted(connection, collection, document, fence):
        row = await _copy(connection, collection, document, copy_from, fence)
    if row is None:
        raise DocumentNotFound(f"there is no document {document.id!r} in the collection")
    if row["attributes_version"] >= document.attributes_version:
        return documents.message(row)
    key = row["key"]
    chunks = await (await connection.execute(CONTEXTS, (key,))).fetchall()
    document.title = row["title"]
    analysis = extract_metadata(document, [Chunk(**chunk) for chunk in chunks])
    values = {
        "attributes": Jsonb(from_values(document.attributes)),
        "version": document.attributes_version,
        "metadata": Jsonb(dict(analysis.metadata)),
    }
    rows = await connection.execute(UPDATE, {**values, "key": key})
    await connection.execute("delete from subject where document = %s", (key,))
    await documents.write_subject(connection, collection, key, analysis.subject)
    updated = await rows.fetchone()
    assert updated is not None, "its collection is locked"
    return documents.message(updated)


async def _row(connection: Connection, collection: int, document: Document, id_: str) -> dict[str, Any] | None:
    return await (await connection.execute(FIND, (collection, id_, list(document.walls)))).fetchone()


async def _copy(
    connection: Connection, collection: int, document: Document, copy_from: str, fence: int
) -> dict[str, Any] | None:
    """Copy a document with the same walls; None if there is no such document."""
    if (original := await _row(connection, collection, document, copy_from)) is None:
        return None
    parameters = {"id": document.id, "title": document.title, "copy_from": original["key"], "fence": fence}
    row = await (await connection.execute(COPY, parameters)).fetchone()
    assert row is not None
    for statement in COPY_RELATED_ROWS:
        await connection.execute(statement, {"key": row["key"], "copy_from": original["key"]})
    await documents.count(connection, row, 1)
    return row
