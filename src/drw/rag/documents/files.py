"""The files of each desk: a row in PostgreSQL, the bytes on disk, both or neither."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drw.kernel import call, walls
from drw.kernel.audit import AuditWriter
from drw.kernel.database import Connection, Database
from drw.kernel.errors import NotFound
from drw.rag.documents.content import Content, Incoming

LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
"""Orders what happens to the bytes of one hash: an upload never meets their removal."""


class FileNotFound(NotFound):
    """The desk has no file of this id."""


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file."""

    id: str
    name: str
    purpose: str
    bytes: int
    content_hash: str
    created_at: datetime
    walls: Sequence[str]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list by time: so many, after and before the ones of these ids."""

    limit: int
    newest_first: bool = True
    after: str = ""
    before: str = ""


class Files:
    """Every method sees only the files of the caller's desk that have no wall which the caller stands outside of."""

    def __init__(self, database: Database, content: Content, audit: AuditWriter) -> None:
        self._database = database
        self._content = content
        self._audit = audit

    async def put(self, incoming: Incoming, name: str, purpose: str, inside: Collection[str] = ()) -> File:
        """Keep finished bytes as a file; the same bytes under the same name, purpose and walls are the same file.

        Raises:
            Forbidden: the caller stands outside a wall that is given.
        """
        who = call.caller()
        own = (who.org, who.desk, incoming.content_hash, name, purpose, walls.of_new(inside, who))
        async with self._database.transaction() as connection:
            await connection.execute(LOCK, (incoming.content_hash,))
            await self._content.keep(incoming)
            await connection.execute(
                "insert into file (org, desk, content_hash, name, purpose, walls, id, bytes)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s)"
                " on conflict (org, desk, content_hash, name, purpose, walls) do nothing",
                (*own, f"file-{secrets.token_hex(12)}", incoming.size),
            )
            found = await connection.execute(
                "select * from file where org = %s and desk = %s and content_hash = %s and name = %s and purpose = %s"
                " and walls = %s",
                own,
            )
            file = _file(await found.fetchone() or {})
            details = {"sha256": file.content_hash, "bytes": file.bytes}
            await self._audit.record("file.upload", file.id, details=details, connection=connection)
        return file

    async def get(self, id_: str) -> File:
        """Return a file.

        Raises:
            FileNotFound: the desk has none of this id.
        """
        who = call.caller()
        seen = (who.org, who.desk, list(who.walls))
        row = await self._database.one("select * from visible_files(%s, %s, %s) where id = %s", *seen, id_)
        if row is None:
            raise _missing(id_)
        return _file(row)

    async def list(self, page: Page, purpose: str = "") -> Sequence[File]:
        """Return a part of the files, by the time of their upload."""
        who = call.caller()
        after = await self.get(page.after) if page.after else None
        wanted = {
            "org": who.org,
            "desk": who.desk,
            "walls": list(who.walls),
            "purpose": purpose,
            "at": after.created_at if after else None,
            "id": after.id if after else "",
            "limit": page.limit,
        }
        async with self._database.transaction() as connection:
            rows = await connection.execute(NEWEST if page.newest_first else OLDEST, wanted)
            return [_file(row) for row in await rows.fetchall()]

    async def delete(self, id_: str, detach: Callable[[Connection, str], Awaitable[None]]) -> None:
        """Delete a file; `detach` takes it out of every collection first, in the same transaction.

        Raises:
            FileNotFound: the desk has none of this id.
        """
        who = call.caller()
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "select * from file where id = (select id from visible_files(%s, %s, %s) where id = %s) for update",
                (who.org, who.desk, list(who.walls), id_),
            )
            if (row := await found.fetchone()) is None:
                raise _missing(id_)
            await detach(connection, id_)
            await connection.execute("delete from file where id = %s", (id_,))
            details = {"sha256": row["content_hash"]}
            await self._audit.record("file.delete", id_, details=details, connection=connection)
        await self._remove_unused(row["content_hash"])

    async def remove_orphans(self) -> None:
        """Remove bytes whose file is gone: what a process left that died between the row and the bytes."""
        for content_hash in self._content.hashes():
            if await self._database.one("select 1 from file where content_hash = %s limit 1", content_hash) is None:
                await self._remove_unused(content_hash)

    async def _remove_unused(self, content_hash: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(LOCK, (content_hash,))
            used = await connection.execute("select 1 from file where content_hash = %s limit 1", (content_hash,))
            if await used.fetchone() is None:
                await self._content.remove(content_hash)


NEWEST = """
select * from visible_files(%(org)s, %(desk)s, %(walls)s) where (%(purpose)s = '' or purpose = %(purpose)s)
and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s, %(id)s))
order by created_at desc, id desc limit %(limit)s
"""
OLDEST = """
select * from visible_files(%(org)s, %(desk)s, %(walls)s) where (%(purpose)s = '' or purpose = %(purpose)s)
and (%(at)s::timestamptz is null or (created_at, id) > (%(at)s, %(id)s))
order by created_at, id limit %(limit)s
"""


def _file(row: dict[str, Any]) -> File:
    return File(**{name: row[name] for name in File.__slots__})


def _missing(id_: str) -> FileNotFound:
    return FileNotFound(f"there is no file {id_!r}", param="file_id")
