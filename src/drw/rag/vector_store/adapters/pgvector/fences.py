"""Fencing tokens of documents: delayed writes and repeated deletions cannot undo what was done later.

Every function needs the lock of the collection.
"""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.rag.v1.vector_store_pb2 import Document
from drw.kernel.storage.database import Connection
from drw.rag.vector_store.adapters.pgvector import documents
from drw.rag.vector_store.ports import DocumentSuperseded

RETENTION_DAYS = 7
"""Retention of recorded deletions. No write is delayed longer, since each has a deadline."""

STORED = """
select fence, attributes_version from document where collection = %s and id = %s and walls = %s
and (fence, attributes_version) > (%s, %s)"""
DELETED = "select fence from deleted_document where collection = %s and id = %s and walls = %s and fence > %s"
DELETE = "delete from document where collection = %s and id = %s and walls = %s and fence < %s returning *"
RECORD_DELETION = """
insert into deleted_document as d (collection, id, walls, fence) values (%s, %s, %s, %s)
on conflict (collection, id, walls) do update
set fence = greatest(d.fence, excluded.fence), deleted_at = excluded.deleted_at"""
EXPIRE_DELETIONS = """
delete from deleted_document where (collection, id, walls) in (
    select collection, id, walls from deleted_document where deleted_at < now() - %s * interval '1 day'
    for update skip locked)"""


async def check(connection: Connection, collection: int, document: Document, fence: int) -> None:
    """Check that a document may be written.

    Raises:
        DocumentSuperseded: it was written with a higher fence or newer attributes, or deleted with a higher fence.
    """
    key = (collection, document.id, list(document.walls))
    cursor = await connection.execute(STORED, (*key, fence, document.attributes_version))
    if await cursor.fetchone() is not None:
        raise DocumentSuperseded(f"the document {document.id!r} was written later by another worker")
    if await is_deleted(connection, collection, document, fence):
        raise DocumentSuperseded(f"the document {document.id!r} was deleted later")


async def is_deleted(connection: Connection, collection: int, document: Document, fence: int) -> bool:
    """Return whether a document was deleted with a higher fence."""
    cursor = await connection.execute(DELETED, (collection, document.id, list(document.walls), fence))
    return await cursor.fetchone() is not None


async def delete(
    connection: Connection, collection: int, document: str, walls: Sequence[str], fence: int
) -> int | None:
    """Delete a document with a lower fence and record that; return its chunk count, or None if there is none."""
    await connection.execute(EXPIRE_DELETIONS, (RETENTION_DAYS,))
    await connection.execute(RECORD_DELETION, (collection, document, list(walls), fence))
    row = await (await connection.execute(DELETE, (collection, document, list(walls), fence))).fetchone()
    if row is None:
        return None
    await documents.count(connection, row, -1)
    return int(row["chunks"])
