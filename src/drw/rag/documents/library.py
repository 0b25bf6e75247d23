"""Document library: adds files to collections, watches their indexing, and deletes them.

OpenAI's API and the service methods both use it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

from drw.api.rag.v1 import vector_store_pb2 as pb
from drw.api.rag.v1.vector_store_pb2 import CreateCollectionRequest, GetCollectionRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import walls
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.change_notifications import ChangeNotifications
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.rag.documents.ingestion.attribute_updates import AttributeUpdates
from drw.rag.documents.ingestion.deletion_relay import DeletionRelay
from drw.rag.documents.storage import deletions, detachment, vector_store_files
from drw.rag.documents.storage.deletions import Deletions
from drw.rag.documents.storage.files import BATCHES, File, FileNotFound, Files, attachments_of
from drw.rag.documents.storage.vector_store_files import IndexingProgress, VectorStoreFile, VectorStoreFiles

MAX_WATCH_SECONDS = 5.0
"""Maximum time between two reads of the progress, without a notification."""
MIN_WATCH_SECONDS = 0.1
"""Minimum time between two reads of the progress: each read counts the whole collection."""


class BatchNotFound(NotFound):
    """The collection has no batch of this id."""


class DocumentLibrary:
    """Operations on files in collections, within the desk and the walls of the caller."""

    def __init__(
        self,
        database: Database,
        files: Files,
        vector_store_files: VectorStoreFiles,
        notifications: ChangeNotifications,
        vector_store: VectorStoreClient,
        attribute_updates: AttributeUpdates,
        deletion_relay: DeletionRelay,
        audit: AuditWriter,
    ) -> None:
        self._database = database
        self._files = files
        self._vector_store_files = vector_store_files
        self._notifications = notifications
        self._vector_store = vector_store
        self._attribute_updates = attribute_updates
        self._deletion_relay = deletion_relay
        self._deletions = Deletions(database)
        self._audit = audit

    async def delete(self, id_: str) -> None:
        """Delete a file, its attachments, and their documents in every collection.

        Raises:
            FileNotFound: the desk has no file of this id.
            Unavailable: the vector store does not answer; a retry or the relay completes the deletion.
        """
        try:
            fences = await self._files.delete(id_)
        except FileNotFound:
            if not (fences := await self._deletions.pending(id_)):
                raise
        await self._deletion_relay.send(fences)

    async def collection(self, id_or_name: str) -> pb.Collection:
        """Return a collection of the desk."""
        return await self._vector_store.get_collection(GetCollectionRequest(collection=id_or_name))

    async def get_or_create_collection(self, name: str) -> pb.Collection:
        """Return the collection of this name or id; create it if there is none."""
        with suppress(NotFound):
            return await self.collection(name)
        try:
            return await self._vector_store.create_collection(CreateCollectionRequest(name=name))
        except Conflict:  # created by another request meanwhile
            return await self.collection(name)

    async def delete_collection(self, id_: str) -> None:
        """Delete a collection, but not its files.

        Raises:
            CollectionNotFound: the desk has no collection of this id.
            Unavailable: the vector store does not answer; a retry or the relay completes the deletion.
        """
        collection = await self.collection(id_)
        caller = context.caller()
        if not (fences := await self._deletions.pending(collection.id)):
            async with self._database.transaction() as connection:
                fences.append(
                    await deletions.enqueue(connection, caller, collection.id, collection.id, "", caller.walls)
                )
        await self._deletion_relay.send(fences)

    async def detach(self, collection: str, file: str) -> None:
        """Remove a file and its attachments from a collection; the files are not deleted.

        Raises:
            VectorStoreFileNotFound: the collection does not have the file.
            Unavailable: the vector store does not answer; a retry or the relay completes the removal.
        """
        resource = f"{collection}/{file}"
        async with self._database.transaction() as connection:
            if fences := await detachment.detach(connection, collection, file, resource):
                for attachment in await attachments_of(connection, file):
                    fences += await detachment.detach(connection, collection, attachment.id, resource)
                details = {"collection": collection}
                await self._audit.record("file.detach", file, details=details, connection=connection)
        if not fences and not (fences := await self._deletions.pending(resource)):
            raise vector_store_files.file_not_in_collection(collection, file)
        await self._deletion_relay.send(fences)

    async def attach(
        self, collection: pb.Collection, file: File, attributes: Mapping[str, Any], requested_walls: Sequence[str] = ()
    ) -> bool:
        """Create the job that adds a file to a collection; return False if nothing changed.

        The document gets the walls of the collection, the walls of the file, and the requested walls, by default all
        walls of the caller.

        Raises:
            Forbidden: the caller is outside one of the requested walls.
        """
        new_walls = walls.for_new_object(requested_walls, context.caller())
        async with self._database.transaction() as connection:
            is_new = await self._attach(connection, collection, file, attributes, new_walls)
        await self._attribute_updates.send(collection.id, [file.id])
        return is_new

    async def update_attributes(self, collection: str, file: str, attributes: Mapping[str, Any]) -> VectorStoreFile:
        """Replace the attributes of a file in a collection, without indexing it again.

        Raises:
            VectorStoreFileNotFound: the collection does not have the file.
            Unavailable: the vector store does not answer; the change is stored and sent later.
        """
        record = await self._vector_store_files.get(collection, file)
        caller = context.caller()
        identity = {"org": caller.org, "desk": caller.desk, "collection": collection, "file": file}
        change = {**identity, "walls": list(record.walls), "attributes": Jsonb(dict(attributes))}
        async with self._database.transaction() as connection:
            if await vector_store_files.change_attributes(connection, change):
                details = {"collection": collection}
                await self._audit.record("file.update", file, details=details, connection=connection)
        await self._attribute_updates.send(collection, [file])
        return await self._vector_store_files.get(collection, file)

    async def index(
        self, collection: pb.Collection, file: File, attributes: Mapping[str, Any], requested_walls: Sequence[str] = ()
    ) -> tuple[VectorStoreFile, bool]:
        """Add a file to a collection and wait until it is indexed; also return whether it was already indexed."""
        is_new = await self.attach(collection, file, attributes, requested_walls)
        async with aclosing(self.watch(collection.id)) as updates:
            async for _ in updates:
                record = await self._vector_store_files.get(collection.id, file.id)
                if record.state != "in_progress":
                    return record, record.unchanged or not is_new
        return await self._vector_store_files.get(collection.id, file.id), not is_new

    async def watch(self, collection: str) -> AsyncGenerator[IndexingProgress, None]:
        """Yield the progress of a collection now and after every change, until nothing is in progress."""
        previous = None
        while True:
            change = self._notifications.next_change()
            progress = await self._vector_store_files.progress(collection)
            if progress != previous:
                yield progress
            if not progress.in_progress:
                return
            previous = progress
            await self._notifications.wait(change, MAX_WATCH_SECONDS)
            await asyncio.sleep(MIN_WATCH_SECONDS)

    async def attach_batch(
        self,
        collection: pb.Collection,
        file_attributes: Sequence[tuple[str, Mapping[str, Any]]],
        requested_walls: Sequence[str] = (),
    ) -> str:
        """Create the jobs that add files to a collection, in one transaction; return the id of the batch.

        Raises:
            Forbidden: the caller is outside one of the requested walls.
            FileNotFound: the desk does not have one of the files.
        """
        caller = context.caller()
        new_walls = walls.for_new_object(requested_walls, caller)
        files = [(await self._files.get(id_), attributes) for id_, attributes in file_attributes]
        batch = f"vsfb_{secrets.token_hex(12)}"
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into batch (id, org, desk, collection, walls) values (%s, %s, %s, %s, %s)",
                (batch, caller.org, caller.desk, collection.id, sorted({*collection.walls, *new_walls})),
            )
            for file, attributes in files:
                await self._attach(connection, collection, file, attributes, new_walls)
                await connection.execute("insert into batch_file (batch, file) values (%s, %s)", (batch, file.id))
        await self._attribute_updates.send(collection.id, [file.id for file, _ in files])
        return batch

    async def batch(self, collection: str, batch: str) -> tuple[datetime, IndexingProgress]:
        """Return the creation time of a batch, and its progress.

        Raises:
            BatchNotFound: the collection has no batch of this id.
        """
        caller = context.caller()
        row = await self._database.one(
            "select created_at from visible_batches(%s, %s, %s, %s) where id = %s",
            *(caller.org, caller.desk, collection, list(caller.walls), batch),
        )
        if row is None:
            raise BatchNotFound(f"{collection!r} has no batch {batch!r}", param="batch_id")
        return row["created_at"], await self._vector_store_files.progress(collection, batch)

    async def cancel_batch(self, collection: str, batch: str) -> None:
        """Cancel the files of a batch that are in progress."""
        await self.batch(collection, batch)
        async with self._database.transaction() as connection:
            fences = await detachment.cancel(connection, collection, batch)
        await self._deletion_relay.send(fences)

    async def _attach(
        self,
        connection: Connection,
        collection: pb.Collection,
        file: File,
        attributes: Mapping[str, Any],
        new_walls: Sequence[str],
    ) -> bool:
        if file.purpose in BATCHES:
            raise InvalidRequest(f"{file.id!r} has the purpose {file.purpose!r}: it cannot be indexed", param="file_id")
        document_walls = sorted({*file.walls, *collection.walls, *new_walls})
        return await self._vector_store_files.attach(connection, collection.id, file, attributes, document_walls)
