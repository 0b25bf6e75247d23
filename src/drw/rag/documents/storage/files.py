"""Files of a desk: rows in PostgreSQL, bytes in the blob store."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from drw.kernel import walls
from drw.kernel.errors import NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.blob_store import BlobStore, ReceivedBlob
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.rag.documents.storage import detachment

LOCK_BLOB = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
"""Serialises uploads and deletions of the same blob."""

BATCHES = ("batch", "batch_output")
"""The purposes of files that are never added to collections: requests of batches, and their results."""


class FileNotFound(NotFound):
    """The desk has no file of this id."""


@dataclass(frozen=True, slots=True)
class File:
    """The record of a file."""

    id: str
    name: str
    purpose: str
    bytes: int
    content_hash: str
    created_at: datetime
    walls: Sequence[str]
    parent: str | None = None
    """The id of the file to which this one is attached."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """`encoding` of text, `decrypted`, and `warnings` about attached files that were not stored."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list in the order of creation: the maximum number of items, and the cursors."""

    limit: int
    newest_first: bool = True
    after: str = ""
    before: str = ""


class Files:
    """Repository of files. Callers see only files of their desk, inside their walls."""

    def __init__(self, database: Database, blobs: BlobStore, audit: AuditWriter) -> None:
        self._database = database
        self._blobs = blobs
        self._audit = audit

    async def put(
        self,
        upload: ReceivedBlob,
        name: str,
        purpose: str,
        requested_walls: Collection[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> File:
        """Store a received blob as a file. The same bytes with the same name, purpose and walls are the same file.

        Raises:
            Forbidden: the caller is outside one of the requested walls.
        """
        caller = context.caller()
        identity = (
            caller.org,
            caller.desk,
            upload.content_hash,
            name,
            purpose,
            walls.for_new_object(requested_walls, caller),
        )
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_BLOB, (upload.content_hash,))
            await self._blobs.commit(upload)
            await connection.execute(
                "insert into file (org, desk, content_hash, name, purpose, walls, id, bytes, details)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " on conflict (org, desk, content_hash, name, purpose, walls) where parent is null do nothing",
                (*identity, _new_id(), upload.size, Jsonb(dict(details or {}))),
            )
            cursor = await connection.execute(
                "select * from file where org = %s and desk = %s and content_hash = %s and name = %s and purpose = %s"
                " and walls = %s and parent is null",
                identity,
            )
            file = _file(await cursor.fetchone() or {})
            audit_details = {"sha256": file.content_hash, "bytes": file.bytes}
            await self._audit.record("file.upload", file.id, details=audit_details, connection=connection)
        return file

    async def put_attachment(self, parent: File, upload: ReceivedBlob, name: str, details: Mapping[str, Any]) -> File:
        """Store a received blob as an attachment of a file, with the walls of that file.

        Raises:
            FileNotFound: the parent file was deleted.
        """
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_BLOB, (upload.content_hash,))
            await self._blobs.commit(upload)
            identity = {"parent": parent.id, "hash": upload.content_hash, "name": name}
            values = {"id": _new_id(), "bytes": upload.size, "details": Jsonb(dict(details))}
            await connection.execute(PUT_ATTACHMENT, {**identity, **values})
            cursor = await connection.execute(
                "select * from file where parent = %(parent)s and content_hash = %(hash)s and name = %(name)s", identity
            )
            if (row := await cursor.fetchone()) is None:
                raise file_not_found(parent.id)
            audit_details = {"sha256": upload.content_hash, "bytes": upload.size, "parent": parent.id}
            await self._audit.record("file.upload", row["id"], details=audit_details, connection=connection)
        return _file(row)

    async def set_warnings(self, file: File, warnings: Sequence[str]) -> File:
        """Set the warnings in the details of a file."""
        details = {**file.details, "warnings": list(warnings)}
        async with self._database.transaction() as connection:
            await connection.execute("update file set details = %s where id = %s", (Jsonb(details), file.id))
        return replace(file, details=details)

    async def find(self, content_hash: str, name: str, purpose: str, requested_walls: Collection[str]) -> File | None:
        """Return the caller's file with this content, name, purpose and walls; None: there is none."""
        caller = context.caller()
        row = await self._database.one(
            "select * from file where org = %s and desk = %s and content_hash = %s and name = %s and purpose = %s"
            " and walls = %s and parent is null",
            *(caller.org, caller.desk, content_hash, name, purpose, walls.for_new_object(requested_walls, caller)),
        )
        return _file(row) if row else None

    async def get(self, id_: str) -> File:
        """Return a file.

        Raises:
            FileNotFound: the desk has no file of this id.
        """
        caller = context.caller()
        visible_to = (caller.org, caller.desk, list(caller.walls))
        row = await self._database.one("select * from visible_files(%s, %s, %s) where id = %s", *visible_to, id_)
        if row is None:
            raise file_not_found(id_)
        return _file(row)

    async def list(self, page: Page, purpose: str = "") -> Sequence[File]:
        """Return a page of the files, ordered by the time of upload."""
        caller = context.caller()
        after = await self.get(page.after) if page.after else None
        parameters = {
            "org": caller.org,
            "desk": caller.desk,
            "walls": list(caller.walls),
            "purpose": purpose,
            "at": after.created_at if after else None,
            "id": after.id if after else "",
            "limit": page.limit,
        }
        async with self._database.transaction() as connection:
            rows = await connection.execute(NEWEST_FIRST if page.newest_first else OLDEST_FIRST, parameters)
            return [_file(row) for row in await rows.fetchall()]

    async def delete(self, id_: str) -> Sequence[int]:
        """Delete a file and its attachments, and remove them from every collection.

        This includes collections with walls that the caller is outside of: the caller owns the source.

        Returns:
            The fencing tokens of the deletions in the vector store; the caller sends them.

        Raises:
            FileNotFound: the desk has no file of this id.
        """
        caller = context.caller()
        fences: list[int] = []
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "select * from file where id = (select id from visible_files(%s, %s, %s) where id = %s) for update",
                (caller.org, caller.desk, list(caller.walls), id_),
            )
            if await cursor.fetchone() is None:
                raise file_not_found(id_)
            tree = await (await connection.execute(FILE_TREE, (id_,))).fetchall()
            for row in reversed(tree):
                fences += await detachment.detach_everywhere(connection, row["id"], resource=id_)
                await connection.execute("delete from file where id = %s", (row["id"],))
                details = {"sha256": row["content_hash"]}
                await self._audit.record("file.delete", row["id"], details=details, connection=connection)
        for content_hash in {row["content_hash"] for row in tree}:
            await self._remove_unused(content_hash)
        return fences

    async def remove_orphans(self) -> None:
        """Delete blobs without a file: their process died between deleting the row and the blob."""
        for content_hash in self._blobs.hashes():
            if await self._database.one("select 1 from file where content_hash = %s limit 1", content_hash) is None:
                await self._remove_unused(content_hash)

    async def _remove_unused(self, content_hash: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_BLOB, (content_hash,))
            references = await connection.execute("select 1 from file where content_hash = %s limit 1", (content_hash,))
            if await references.fetchone() is None:
                await self._blobs.remove(content_hash)


async def attachments_of(connection: Connection, id_: str) -> Sequence[File]:
    """Return the attachments of a file, at all depths."""
    rows = await (await connection.execute(FILE_TREE, (id_,))).fetchall()
    return [_file(row) for row in rows[1:]]


PUT_ATTACHMENT = """
insert into file (id, org, desk, walls, name, purpose, bytes, content_hash, parent, details)
select %(id)s, org, desk, walls, %(name)s, purpose, %(bytes)s, %(hash)s, id, %(details)s
from file where id = %(parent)s
on conflict (parent, content_hash, name) where parent is not null do nothing
"""
FILE_TREE = """
with recursive tree as (
    select f.*, 0 as depth from file f where f.id = %s
    union all select f.*, g.depth + 1 from file f join tree g on f.parent = g.id)
select * from tree order by depth, created_at, id
"""
"""A file, then its attachments by depth."""
LIST = """
select * from visible_files(%(org)s, %(desk)s, %(walls)s) where (%(purpose)s = '' or purpose = %(purpose)s)
and (%(at)s::timestamptz is null or (created_at, id) {comparison} (%(at)s, %(id)s))
order by created_at {direction}, id {direction} limit %(limit)s
"""
NEWEST_FIRST = LIST.format(comparison="<", direction="desc")
OLDEST_FIRST = LIST.format(comparison=">", direction="asc")


def _file(row: dict[str, Any]) -> File:
    return File(**{name: row[name] for name in File.__slots__})


def _new_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def file_not_found(id_: str) -> FileNotFound:
    """Return the error for an unknown file id."""
    return FileNotFound(f"there is no file {id_!r}", param="file_id")
