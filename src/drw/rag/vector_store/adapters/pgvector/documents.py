"""The rows of a document: itself, permissions, chunks, vectors, postings and subject, written and deleted together."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import numpy as np
from psycopg.types.json import Jsonb

from drw.api.rag.v1.vector_store_pb2 import Chunk, Document
from drw.kernel.audit import digest
from drw.kernel.database import Connection
from drw.rag.vector_store import bm25
from drw.rag.vector_store.adapters.pgvector.collections import after, following
from drw.rag.vector_store.ports import Analysed, DocumentNotFound, Owner, Page

ADD = """
    insert into document
        (collection, id, title, content_hash, pages, chunks, bytes, terms, metadata, attributes)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning *"""

COUNT = """
    update collection set documents = documents + %(documents)s, chunks = chunks + %(chunks)s,
        bytes = bytes + %(bytes)s, terms = terms + %(terms)s
    where key = %(collection)s"""

LIST = """
    select d.* from document d join permission p on p.document = d.key and p.principal = %s
    where d.collection = %s and d.key > %s order by d.key limit %s"""


async def write(
    connection: Connection,
    owner: Owner,
    collection: int,
    document: Document,
    chunks: Sequence[Chunk],
    analysed: Analysed,
) -> Document:
    """Write a document that is not there."""
    size = sum(len(chunk.text.encode()) for chunk in chunks)
    terms = sum(sum(counts.values()) for counts in analysed.counts)
    values = (
        *(collection, document.id, document.title, document.content_hash, document.pages),
        *(len(chunks), size, terms, Jsonb(dict(analysed.metadata)), Jsonb(dict(document.attributes))),
    )
    row = await (await connection.execute(ADD, values)).fetchone()
    assert row is not None
    key = row["key"]
    await connection.execute("insert into permission (document, principal) values (%s, %s)", (key, owner.desk))
    await _copy_chunks(connection, key, chunks)
    await _copy_vectors(connection, collection, key, chunks)
    postings = _postings(collection, key, chunks, analysed)
    await _copy(connection, "copy posting from stdin (format binary)", postings, ["int8", "text", "int8", "bytea"])
    subject = ((collection, term, key) for term in analysed.subject)
    await _copy(connection, "copy subject from stdin", subject)
    await _count(connection, row, 1)
    return _message(row)


async def remove(connection: Connection, collection: int, document: str) -> int | None:
    """Delete a document where it is there; return how many chunks it had."""
    query = "delete from document where collection = %s and id = %s returning *"
    row = await (await connection.execute(query, (collection, document))).fetchone()
    if row is None:
        return None
    await _count(connection, row, -1)
    return int(row["chunks"])


async def delete(connection: Connection, collection: int, document: str) -> int:
    """Delete a document, and return how many chunks it had.

    Raises:
        DocumentNotFound: there is none.
    """
    if (chunks := await remove(connection, collection, document)) is None:
        raise DocumentNotFound(f"there is no document {document!r} in the collection")
    return chunks


async def listed(connection: Connection, owner: Owner, collection: int, page: Page) -> tuple[list[Document], str]:
    """Return a page of the documents that the desk may see, and the token of the next page."""
    rows = await (await connection.execute(LIST, (owner.desk, collection, after(page), page.size + 1))).fetchall()
    return [_message(row) for row in rows[: page.size]], following(rows, page)


async def _copy_chunks(connection: Connection, key: int, chunks: Sequence[Chunk]) -> None:
    rows = ((key, c.number, c.page, c.start, c.end, c.text, c.context, digest(c.text)) for c in chunks)
    await _copy(connection, "copy chunk from stdin", rows)


async def _copy_vectors(connection: Connection, collection: int, key: int, chunks: Sequence[Chunk]) -> None:
    rows = ((collection, key, c.number, _binary(c.vector.values)) for c in chunks if c.vector.values)
    types = ["int8", "int8", "int4", "bytea"]  # sent as the bytes that the vector's own binary form has
    await _copy(connection, "copy chunk_vector from stdin (format binary)", rows, types)


def _postings(collection: int, key: int, chunks: Sequence[Chunk], analysed: Analysed) -> Iterable[tuple[Any, ...]]:
    found: dict[str, list[int]] = {}
    for chunk, counts in zip(chunks, analysed.counts, strict=True):
        length = sum(counts.values())
        for term, count in counts.items():
            found.setdefault(term, []).extend((chunk.number, count, length))
    for term, hits in found.items():
        yield collection, term, key, bm25.packed(hits)


def _binary(values: Sequence[float]) -> bytes:
    """Return a vector as pgvector takes it in binary: dimensions, two bytes unused, the values."""
    return struct.pack(">HH", len(values), 0) + np.asarray(values, dtype=">f4").tobytes()


async def _copy(
    connection: Connection, statement: LiteralString, rows: Iterable[Sequence[Any]], types: Sequence[str] = ()
) -> None:
    """Copy rows into a table: as text or, where the statement says so, in binary with these types."""
    async with connection.cursor().copy(statement) as copy:
        if types:
            copy.set_types(types)
        for row in rows:
            await copy.write_row(row)


async def _count(connection: Connection, row: Mapping[str, Any], sign: int) -> None:
    changes = {name: sign * row[name] for name in ("chunks", "bytes", "terms")}
    await connection.execute(COUNT, {"collection": row["collection"], "documents": sign, **changes})


def _message(row: Mapping[str, Any]) -> Document:
    made = Document(
        id=row["id"],
        title=row["title"],
        content_hash=row["content_hash"],
        pages=row["pages"],
        chunks=row["chunks"],
        attributes=row["attributes"],
        metadata=row["metadata"],
    )
    made.indexed_at.FromDatetime(row["indexed_at"])
    return made
