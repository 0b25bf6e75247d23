"""Deletion outbox: deletions for the vector store, written in the transaction that removes the rows of a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection, Database

FILES_CHANGED = "documents_changed"
"""Notifies of changes to vector store files."""
MAX_ROWS = 500


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that the vector store has not confirmed yet."""

    fence: int
    """The fencing token: the vector store keeps documents that were written with a higher token."""
    org: str
    desk: str
    key: str
    collection: str
    file: str
    """Empty to delete the whole collection."""
    walls: Sequence[str]
    """The walls of the document; for a collection, those of the caller."""
    trace: str

    @property
    def caller(self) -> Principal:
        """The caller who requested the deletion, inside the walls of the document."""
        return Principal(self.org, self.desk, self.key, frozenset({"documents:write"}), frozenset(self.walls))


async def enqueue(
    connection: Connection, caller: Principal, resource: str, collection: str, file: str, walls: Collection[str]
) -> int:
    """Enqueue the deletion of a document, or with an empty `file` of a collection; return its fencing token.

    Args:
        connection: the transaction that removes the rows of the documents service.
        caller: the caller of the deletion.
        resource: the deleted resource, by which `pending` finds the deletion at a retry; empty if no caller retries.
        collection: the id of the collection.
        file: the id of the file.
        walls: the walls of the document; for a collection, those of the caller.
    """
    trace = telemetry.outgoing_headers().get("traceparent", "")
    cursor = await connection.execute(
        "insert into deletion (org, desk, key, resource, collection, file, walls, trace)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s) returning fence",
        (caller.org, caller.desk, caller.key, resource, collection, file, sorted(walls), trace),
    )
    return int((await cursor.fetchone() or {})["fence"])


class Deletions:
    """The rows of the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, resource: str) -> list[int]:
        """Return the fencing tokens of unconfirmed deletions of a resource by the same key: the caller retries."""
        caller = context.caller()
        rows = await self._database.all(
            "select fence from deletion where org = %s and desk = %s and key = %s and resource = %s order by fence",
            *(caller.org, caller.desk, caller.key, resource),
        )
        return [row["fence"] for row in rows]

    async def get(self, fences: Sequence[int]) -> list[Deletion]:
        """Return deletions by their fencing tokens."""
        return [Deletion(**row) for row in await self._database.all(f"{SELECT} where fence = any(%s)", list(fences))]

    async def older_than(self, seconds: float) -> list[Deletion]:
        """Return deletions of all desks that are older than `seconds`, oldest first, at most `MAX_ROWS`."""
        query = f"{SELECT} where created_at < clock_timestamp() - %s * interval '1 second' order by fence limit %s"
        return [Deletion(**row) for row in await self._database.all(query, seconds, MAX_ROWS)]

    async def confirm(self, deletion: Deletion) -> None:
        """Remove a deletion from the outbox; for a collection, also the rows of its files, inside the same walls."""
        async with self._database.transaction() as connection:
            if not deletion.file:
                parameters = (deletion.org, deletion.desk, deletion.collection, list(deletion.walls))
                for query in DELETE_COLLECTION_ROWS:
                    await connection.execute(query, parameters)
            await connection.execute("delete from deletion where fence = %s", (deletion.fence,))


SELECT = "select fence, org, desk, key, collection, file, walls, trace from deletion"
DELETE_COLLECTION_ROWS = (
    "delete from vector_store_file where org = %s and desk = %s and collection = %s and inside(walls, %s)",
    "delete from batch where org = %s and desk = %s and collection = %s and inside(walls, %s)",
)
