"""Vector store files: one row for each file in a collection, with its indexing state and error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drw.kernel.errors import NotFound
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import ForeignKeyViolation, Jsonb
from drw.rag.documents.storage.deletions import FILES_CHANGED
from drw.rag.documents.storage.files import File, Page, attachments_of, file_not_found

STATES = ("in_progress", "completed", "failed", "cancelled")


class VectorStoreFileNotFound(NotFound):
    """The collection does not have the file."""


@dataclass(frozen=True, slots=True)
class VectorStoreFile:
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
    walls: Sequence[str]
    warnings: Sequence[str]
    """Parts of the file that could not be read."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> VectorStoreFile:
        """Create the record from a row."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class IndexingProgress:
    """The number of files of a collection in each state, and their pages and chunks."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    pages: int = 0
    chunks: int = 0

    @property
    def files(self) -> int:
        """The number of files in all states."""
        return self.in_progress + self.completed + self.failed + self.cancelled


class VectorStoreFiles:
    """Repository of vector store files. Callers see only rows of their desk, inside their walls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def attach(
        self,
        connection: Connection,
        collection: str,
        file: File,
        attributes: Mapping[str, Any],
        document_walls: Sequence[str],
    ) -> bool:
        """Create the job that adds a file to a collection; return False if nothing changed.

        Its attachments are added with the same attributes. Failed and cancelled files are retried. A file that is
        already in the collection gets the new attributes.
        """
        caller = context.caller()
        row: dict[str, Any] = {
            "org": caller.org,
            "desk": caller.desk,
            "key": caller.key,
            "collection": collection,
            "file": file.id,
            "walls": list(document_walls),
        }
        trace = telemetry.outgoing_headers().get("traceparent", "")
        row |= {"hash": file.content_hash, "attributes": Jsonb(dict(attributes)), "trace": trace}
        row["event_depth"] = context.event_depth()
        try:
            changed = await _insert_or_update(connection, row)
        except ForeignKeyViolation as error:  # the file was deleted concurrently
            raise file_not_found(file.id) from error
        for attachment in await attachments_of(connection, file.id):
            attachment_row = {**row, "file": attachment.id, "hash": attachment.content_hash}
            changed |= await _insert_or_update(connection, attachment_row)
        if changed:
            await notify(connection, FILES_CHANGED)
        return changed

    async def get(self, collection: str, file: str) -> VectorStoreFile:
        """Return a file of a collection.

        Raises:
            VectorStoreFileNotFound: the collection does not have the file.
        """
        caller = context.caller()
        visible_to = (caller.org, caller.desk, collection, list(caller.walls))
        row = await self._database.one(
            "select * from visible_vector_store_files(%s, %s, %s, %s) where file = %s", *visible_to, file
        )
        if row is None:
            raise file_not_in_collection(collection, file)
        return VectorStoreFile.from_row(row)

    async def list(self, collection: str, page: Page, state: str = "", batch: str = "") -> Sequence[VectorStoreFile]:
        """Return a page of the files of a collection, ordered by the time of creation."""
        caller = context.caller()
        after = await self.get(collection, page.after) if page.after else None
        parameters = {
            "org": caller.org,
            "desk": caller.desk,
            "walls": list(caller.walls),
            "collection": collection,
            "state": state,
            "batch": batch,
            "at": after.created_at if after else None,
            "file": after.file if after else "",
            "limit": page.limit,
        }
        async with self._database.transaction() as connection:
            rows = await connection.execute(NEWEST_FIRST if page.newest_first else OLDEST_FIRST, parameters)
            return [VectorStoreFile.from_row(row) for row in await rows.fetchall()]

    async def progress(self, collection: str, batch: str = "") -> IndexingProgress:
        """Return the progress of a collection, or of one batch."""
        return (await self.progress_of([collection], batch)).get(collection, IndexingProgress())

    async def progress_of(self, collections: Sequence[str], batch: str = "") -> dict[str, IndexingProgress]:
        """Return the progress of each collection that has files."""
        caller = context.caller()
        visible_to = {"org": caller.org, "desk": caller.desk, "walls": list(caller.walls)}
        parameters = {**visible_to, "collections": list(collections), "batch": batch}
        async with self._database.transaction() as connection:
            rows = await connection.execute(PROGRESS, parameters)
            return {row.pop("collection"): IndexingProgress(**row) for row in await rows.fetchall()}

    async def all_in_progress(self) -> int:
        """Return the number of files in progress, over all desks."""
        row = await self._database.one("select count(*) as files from vector_store_file where state = 'in_progress'")
        return int(row["files"]) if row else 0


async def _insert_or_update(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Create or retry the job of a row, or change its attributes; return False if nothing changed."""
    inserted = await connection.execute(ATTACH, row)
    return await inserted.fetchone() is not None or await change_attributes(connection, row)


async def change_attributes(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Replace the attributes of a file in a collection; return False if it already has them.

    Files with the same content that shared its document get separate documents.

    Args:
        connection: the transaction; send the change after its commit.
        row: org, desk, collection, file and walls of the row, and the attributes as `Jsonb`.
    """
    cursor = await connection.execute(CHANGE_ATTRIBUTES, row)
    if (updated := await cursor.fetchone()) is None:
        return False
    if not updated["was_unchanged"]:
        await connection.execute(SEPARATE_DUPLICATES, {**row, "hash": updated["content_hash"]})
    return True


def file_not_in_collection(collection: str, file: str) -> VectorStoreFileNotFound:
    """Return the error for a file that is not in the collection."""
    return VectorStoreFileNotFound(f"{collection!r} has no file {file!r}", param="file_id")


ATTACH = """
insert into vector_store_file as a (org, desk, key, collection, file, walls, content_hash, attributes, trace,
    event_depth)
values (%(org)s, %(desk)s, %(key)s, %(collection)s, %(file)s, %(walls)s, %(hash)s, %(attributes)s, %(trace)s,
    %(event_depth)s)
on conflict (org, desk, collection, file, walls) do update
set state = 'in_progress', key = excluded.key, attributes = excluded.attributes, trace = excluded.trace,
    event_depth = excluded.event_depth,
    error_code = '', error = '', warnings = '[]', unchanged = false, worker = null, attempts = 0, not_before = now(),
    job = nextval('job')
where a.state in ('failed', 'cancelled')
returning file
"""

LIST = """
select a.* from visible_vector_store_files(%(org)s, %(desk)s, %(collection)s, %(walls)s) a
where (%(state)s = '' or a.state = %(state)s)
and (%(batch)s = '' or exists (select 1 from batch_file b where b.batch = %(batch)s and b.file = a.file))
and (%(at)s::timestamptz is null or (a.created_at, a.file) {comparison} (%(at)s, %(file)s))
order by a.created_at {direction}, a.file {direction} limit %(limit)s
"""
NEWEST_FIRST = LIST.format(comparison="<", direction="desc")
OLDEST_FIRST = LIST.format(comparison=">", direction="asc")

PROGRESS = """
select a.collection, count(*) filter (where a.state = 'in_progress') as in_progress,
    count(*) filter (where a.state = 'completed') as completed, count(*) filter (where a.state = 'failed') as failed,
    count(*) filter (where a.state = 'cancelled') as cancelled,
    coalesce(sum(a.pages), 0)::bigint as pages, coalesce(sum(a.chunks), 0)::bigint as chunks
from unnest(%(collections)s::text[]) c
cross join lateral visible_vector_store_files(%(org)s, %(desk)s, c, %(walls)s) a
where (%(batch)s = '' or exists (select 1 from batch_file b where b.batch = %(batch)s and b.file = a.file))
group by a.collection
"""

SAME_ROW = "org = %(org)s and desk = %(desk)s and collection = %(collection)s and file = %(file)s and walls = %(walls)s"

CHANGE_ATTRIBUTES = f"""
with before as (select unchanged, org, desk, collection, file, walls from vector_store_file where {SAME_ROW} for update)
update vector_store_file a set attributes = %(attributes)s, attributes_version = a.attributes_version + 1,
    unchanged = false,
    attributes_written = case when b.unchanged then 0 else a.attributes_written end
from before b
where a.org = b.org and a.desk = b.desk and a.collection = b.collection and a.file = b.file and a.walls = b.walls
and a.attributes <> %(attributes)s
returning a.content_hash, b.unchanged as was_unchanged
"""  # noqa: S608 - a constant
SEPARATE_DUPLICATES = """
update vector_store_file set unchanged = false, attributes_version = attributes_version + 1, attributes_written = 0
where org = %(org)s and desk = %(desk)s and collection = %(collection)s and content_hash = %(hash)s
and walls = %(walls)s and unchanged
"""
