"""Attribute updates: sends changed attributes of indexed files to the vector store, without indexing them again.

A change is committed with the next version number, and then sent. The vector store ignores older versions. A sweep
sends changes that a failure left unsent, so both stores converge. No transaction is open during a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, LiteralString

from drw.api.rag.v1.vector_store_pb2 import Document, UpdateDocumentAttributesRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import DrwError, NotFound, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion import attachments
from drw.rag.documents.storage.deletions import FILES_CHANGED
from drw.rag.documents.storage.vector_store_files import SAME_ROW

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
SEND_SECONDS = 60.0
MAX_ROWS = 500


class AttributeUpdates:
    """Sends changed attributes to the vector store."""

    def __init__(self, database: Database, store: VectorStoreClient) -> None:
        self._database = database
        self._store = store

    async def send(self, collection: str, files: Sequence[str]) -> None:
        """Send the changed attributes of files in a collection; later searches use them.

        This includes their attachments, and files with the same content, which may have shared a document.

        Raises:
            Unavailable: the vector store does not answer; the sweep sends the change later.
        """
        caller = context.caller()
        scope = {"org": caller.org, "desk": caller.desk, "collection": collection, "walls": list(caller.walls)}
        for row in await self._query(UNSENT_OF, {**scope, "files": list(files)}):
            await self._send(row)

    async def sweep(self) -> None:
        """Send unsent changes, until cancelled."""
        while True:
            with suppress(Unavailable):
                for row in await self._query(UNSENT, {}):
                    await self._send_or_log(row)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _send_or_log(self, row: Mapping[str, Any]) -> None:
        walls = frozenset(row["walls"])
        caller = Principal(row["org"], row["desk"], row["key"], frozenset({"documents:write"}), walls)
        try:
            with context.acting_for(caller):
                await self._send(row)
        except DrwError as error:
            log.warning("changed attributes will be sent later: %s", telemetry.loggable(error))

    async def _query(self, query: LiteralString, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        async with self._database.transaction() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def _send(self, row: Mapping[str, Any]) -> None:
        document = Document(
            id=row["file"],
            title=await attachments.title(self._database, row["file"], row["name"]),
            attributes=to_values(row["attributes"]),
            attributes_version=row["attributes_version"],
            walls=row["walls"],
        )
        request = UpdateDocumentAttributesRequest(
            collection=row["collection"],
            document=document,
            same_content_as=row["source"] or "",
            fence=row["job"],
        )
        try:
            await self._store.update_document_attributes(request, timeout=SEND_SECONDS)
        except NotFound:  # the shared document was deleted: index the file
            await self._update(REINDEX, row)
        else:
            await self._update(MARK_SENT, row)

    async def _update(self, query: Any, row: Mapping[str, Any]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(query, row)
            await notify(connection, FILES_CHANGED)


SELECT_UNSENT = """
select a.*, f.name, s.file as source from vector_store_file a join file f on f.id = a.file left join lateral (
    select s.file from vector_store_file s where s.org = a.org and s.desk = a.desk and s.collection = a.collection
    and s.content_hash = a.content_hash and s.walls = a.walls and s.file <> a.file
    and s.state = 'completed' and not s.unchanged and s.attributes_written > 0 limit 1) s on true
where a.state = 'completed' and a.attributes_written < a.attributes_version
"""
UNSENT = f"{SELECT_UNSENT} limit {MAX_ROWS}"
UNSENT_OF = f"""
with recursive tree as (
    select id, content_hash from file where id = any(%(files)s)
    union select f.id, f.content_hash from file f join tree g on f.parent = g.id)
{SELECT_UNSENT} and a.org = %(org)s and a.desk = %(desk)s and a.collection = %(collection)s
and inside(a.walls, %(walls)s) and a.content_hash in (select content_hash from tree)
"""  # noqa: S608 - a constant
MARK_SENT = f"""
update vector_store_file set attributes_written = greatest(attributes_written, %(attributes_version)s) where {SAME_ROW}
"""  # noqa: S608 - a constant
REINDEX = f"""
update vector_store_file set state = 'in_progress', worker = null, attempts = 0, not_before = now(),
    job = nextval('job')
where {SAME_ROW} and state = 'completed' and attributes_version = %(attributes_version)s
"""  # noqa: S608 - a constant
