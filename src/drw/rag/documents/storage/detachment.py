"""Removal of files from collections: deletes their rows and enqueues the deletion of each document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drw.kernel.rpc import context
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection
from drw.rag.documents.storage import deletions
from drw.rag.documents.storage.deletions import FILES_CHANGED


async def detach(connection: Connection, collection: str, file: str, resource: str) -> list[int]:
    """Remove a file from a collection, inside the walls of the caller.

    Returns:
        The fencing tokens of the enqueued deletions; none if the collection does not have the file.
    """
    caller = context.caller()
    cursor = await connection.execute(
        "delete from vector_store_file where org = %s and desk = %s and collection = %s and file = %s"
        " and inside(walls, %s) returning org, desk, collection, file, content_hash, walls",
        (caller.org, caller.desk, collection, file, list(caller.walls)),
    )
    return await _enqueue(connection, await cursor.fetchall(), resource)


async def detach_everywhere(connection: Connection, file: str, resource: str) -> list[int]:
    """Remove a file from every collection, inside any walls; return the fencing tokens of the deletions."""
    await connection.execute(
        "select from vector_store_file where file = %s order by collection, walls for update", (file,)
    )
    cursor = await connection.execute(
        "delete from vector_store_file where file = %s returning org, desk, collection, file, content_hash, walls",
        (file,),
    )
    return await _enqueue(connection, await cursor.fetchall(), resource)


async def cancel(connection: Connection, collection: str, batch: str) -> list[int]:
    """Cancel the files of a batch that are in progress, with their attachments.

    Returns:
        The fencing tokens of the enqueued deletions, of documents that a worker may be writing.
    """
    caller = context.caller()
    cursor = await connection.execute(CANCEL_BATCH, (batch, caller.org, caller.desk, collection, list(caller.walls)))
    await notify(connection, FILES_CHANGED)
    return [
        await deletions.enqueue(connection, caller, "", row["collection"], row["file"], row["walls"])
        for row in await cursor.fetchall()
        if row["attempts"]
    ]


async def _enqueue(connection: Connection, rows: Iterable[Mapping[str, Any]], resource: str) -> list[int]:
    """Enqueue the deletion of documents; index the files with the same content, which shared a document."""
    caller = context.caller()
    fences = []
    for row in rows:
        await connection.execute(REINDEX_DUPLICATES, row)
        fences.append(
            await deletions.enqueue(connection, caller, resource, row["collection"], row["file"], row["walls"])
        )
    await notify(connection, FILES_CHANGED)
    return fences


REINDEX_DUPLICATES = """
update vector_store_file set state = 'in_progress', unchanged = false, worker = null, attempts = 0,
    job = nextval('job')
where org = %(org)s and desk = %(desk)s and collection = %(collection)s and content_hash = %(content_hash)s
and walls = %(walls)s and unchanged
"""
CANCEL_BATCH = """
with recursive tree as (
    select file as id from batch_file where batch = %s
    union select f.id from file f join tree g on f.parent = g.id)
update vector_store_file set state = 'cancelled', worker = null
where org = %s and desk = %s and collection = %s and inside(walls, %s) and state = 'in_progress'
and file in (select id from tree)
returning collection, file, walls, attempts
"""
