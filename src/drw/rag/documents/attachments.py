"""The files in each collection, as rows: how far each is, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.errors import ForeignKeyViolation
from psycopg.types.json import Jsonb

from drw.kernel import call, telemetry
from drw.kernel.database import Connection, Database
from drw.kernel.errors import NotFound
from drw.rag.documents import changes
from drw.rag.documents.files import File, FileNotFound, Page, embedded_in

STATES = ("in_progress", "completed", "failed", "cancelled")


class AttachmentNotFound(NotFound):
    """The collection does not have the file."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file in one collection."""

    collection: str
    file: str
    content_hash: str
    attributes: Mapping[str, Any]
    state: str
    error_code: str
    error: str
    pages: int
    chunks: int
    bytes: int
    unchanged: bool
    created_at: datetime
    warnings: Sequence[str]
    """What of the file could not be read and is not in the collection."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Attachment:
        """Read a row."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the files of a collection are, together."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    pages: int = 0
    chunks: int = 0

    @property
    def files(self) -> int:
        """All of them."""
        return self.in_progress + self.completed + self.failed + self.cancelled


class Attachments:
    """Every method sees only what belongs to the caller's desk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def attach(
        self, collection: str, file: File, attributes: Mapping[str, Any], connection: Connection | None = None
    ) -> bool:
        """Order that a file be put into a collection; return False where that is done or under way already.

        The files attached to it come along, with the same attributes.
        What failed or was cancelled is tried again; other attributes than before have it indexed again.
        """
        if connection is None:
            async with self._database.transaction() as own:
                return await self.attach(collection, file, attributes, own)
        who = call.caller()
        order: dict[str, Any] = {
            "org": who.org,
            "desk": who.desk,
            "key": who.key,
            "collection": collection,
            "file": file.id,
        }
        trace = telemetry.outgoing_headers().get("traceparent", "")
        order |= {"hash": file.content_hash, "attributes": Jsonb(dict(attributes)), "trace": trace}
        try:
            ordered = await connection.execute(ATTACH, order)
        except ForeignKeyViolation as error:  # deleted a moment ago
            raise FileNotFound(f"there is no file {file.id!r}", param="file_id") from error
        is_new = await ordered.fetchone() is not None
        for embedded in await embedded_in(connection, file.id):
            again = await connection.execute(ATTACH, {**order, "file": embedded.id, "hash": embedded.content_hash})
            is_new = await again.fetchone() is not None or is_new
        if is_new:
            await changes.announce(connection)
        return is_new

    async def get(self, collection: str, file: str) -> Attachment:
        """Return one attachment.

        Raises:
            AttachmentNotFound: the collection does not have the file.
        """
        who = call.caller()
        row = await self._database.one(
            "select * from attachment where org = %s and desk = %s and collection = %s and file = %s",
            *(who.org, who.desk, collection, file),
        )
        if row is None:
            raise missing(collection, file)
        return Attachment.of(row)

    async def list(self, collection: str, page: Page, state: str = "", batch: str = "") -> Sequence[Attachment]:
        """Return a part of a collection's attachments, by the time they were made."""
        who = call.caller()
        after = await self.get(collection, page.after) if page.after else None
        wanted = {
            "org": who.org,
            "desk": who.desk,
            "collection": collection,
            "state": state,
            "batch": batch,
            "at": after.created_at if after else None,
            "file": after.file if after else "",
            "limit": page.limit,
        }
        async with self._database.transaction() as connection:
            rows = await connection.execute(NEWEST if page.newest_first else OLDEST, wanted)
            return [Attachment.of(row) for row in await rows.fetchall()]

    async def progress(self, collection: str, batch: str = "") -> Progress:
        """Return how far a collection is, or one batch of it."""
        return (await self.progress_of([collection], batch)).get(collection, Progress())

    async def progress_of(self, collections: Sequence[str], batch: str = "") -> dict[str, Progress]:
        """Return how far each collection is that has any files."""
        who = call.caller()
        wanted = {"org": who.org, "desk": who.desk, "collections": list(collections), "batch": batch}
        async with self._database.transaction() as connection:
            rows = await connection.execute(PROGRESS, wanted)
            return {row.pop("collection"): Progress(**row) for row in await rows.fetchall()}

    async def all_in_progress(self) -> int:
        """Return how many files of all desks are in progress."""
        row = await self._database.one("select count(*) as files from attachment where state = 'in_progress'")
        return int(row["files"]) if row else 0

    async def forget(self, collection: str) -> None:
        """Remove all attachments of a collection that is deleted."""
        who = call.caller()
        async with self._database.transaction() as connection:
            owned = (who.org, who.desk, collection)
            await connection.execute("delete from attachment where org = %s and desk = %s and collection = %s", owned)
            await connection.execute("delete from batch where org = %s and desk = %s and collection = %s", owned)
            await changes.announce(connection)


async def of_file(connection: Connection, file: str) -> Sequence[Attachment]:
    """Return the attachments of a file, locked."""
    rows = await connection.execute("select * from attachment where file = %s order by collection for update", (file,))
    return [Attachment.of(row) for row in await rows.fetchall()]


async def remove(connection: Connection, collection: str, file: str) -> None:
    """Remove an attachment; another file of the same content that relied on it is indexed in its place.

    Raises:
        AttachmentNotFound: the collection does not have the file.
    """
    who = call.caller()
    owned = (who.org, who.desk, collection)
    gone = await connection.execute(
        "delete from attachment where org = %s and desk = %s and collection = %s and file = %s returning content_hash",
        (*owned, file),
    )
    if (row := await gone.fetchone()) is None:
        raise missing(collection, file)
    await connection.execute(
        "update attachment set state = 'in_progress', unchanged = false, worker = null, attempts = 0,"
        " job = nextval('job') where org = %s and desk = %s and collection = %s and content_hash = %s and unchanged",
        (*owned, row["content_hash"]),
    )
    await changes.announce(connection)


def missing(collection: str, file: str) -> AttachmentNotFound:
    """Return the error that says so."""
    return AttachmentNotFound(f"{collection!r} has no file {file!r}", param="file_id")


ATTACH = """
insert into attachment as a (org, desk, key, collection, file, content_hash, attributes, trace)
values (%(org)s, %(desk)s, %(key)s, %(collection)s, %(file)s, %(hash)s, %(attributes)s, %(trace)s)
on conflict (org, desk, collection, file) do update
set state = 'in_progress', key = excluded.key, attributes = excluded.attributes, trace = excluded.trace,
    error_code = '', error = '', warnings = '[]', unchanged = false, worker = null, attempts = 0, not_before = now(),
    job = nextval('job')
where a.state in ('failed', 'cancelled') or a.attributes <> excluded.attributes
returning file
"""

NEWEST = """
select a.* from attachment a where a.org = %(org)s and a.desk = %(desk)s and a.collection = %(collection)s
and (%(state)s = '' or a.state = %(state)s)
and (%(batch)s = '' or exists (select 1 from batch_file b where b.batch = %(batch)s and b.file = a.file))
and (%(at)s::timestamptz is null or (a.created_at, a.file) < (%(at)s, %(file)s))
order by a.created_at desc, a.file desc limit %(limit)s
"""
OLDEST = """
select a.* from attachment a where a.org = %(org)s and a.desk = %(desk)s and a.collection = %(collection)s
and (%(state)s = '' or a.state = %(state)s)
and (%(batch)s = '' or exists (select 1 from batch_file b where b.batch = %(batch)s and b.file = a.file))
and (%(at)s::timestamptz is null or (a.created_at, a.file) > (%(at)s, %(file)s))
order by a.created_at, a.file limit %(limit)s
"""

PROGRESS = """
select a.collection, count(*) filter (where a.state = 'in_progress') as in_progress,
    count(*) filter (where a.state = 'completed') as completed, count(*) filter (where a.state = 'failed') as failed,
    count(*) filter (where a.state = 'cancelled') as cancelled,
    coalesce(sum(a.pages), 0)::bigint as pages, coalesce(sum(a.chunks), 0)::bigint as chunks
from attachment a where a.org = %(org)s and a.desk = %(desk)s and a.collection = any(%(collections)s)
and (%(batch)s = '' or exists (select 1 from batch_file b where b.batch = %(batch)s and b.file = a.file))
group by a.collection
"""
