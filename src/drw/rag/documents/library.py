"""What can be done with files and collections, for the routes and for the other services alike."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from drw.api.rag.v1 import vector_store_pb2 as pb
from drw.api.rag.v1.vector_store_pb2 import (
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteDocumentRequest,
    GetCollectionRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import walls
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.rag.documents.ingestion import attribute_updates
from drw.rag.documents.ingestion.attached_files import EmbeddedFiles
from drw.rag.documents.ingestion.attribute_updates import AttributeUpdates
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, ParseFailed
from drw.rag.documents.storage import vector_store_files as rows
from drw.rag.documents.storage.blob_store import BlobStore, PendingBlob
from drw.rag.documents.storage.change_notifications import ChangeNotifications, announce
from drw.rag.documents.storage.files import File, Files, embedded_in
from drw.rag.documents.storage.vector_store_files import (
    IndexingProgress,
    VectorStoreFile,
    VectorStoreFileNotFound,
    VectorStoreFiles,
)

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
READ = "assistants"
"""The purpose of files that go into collections: whether they can be read is checked when they come."""
WATCH_SECONDS = 5.0
PAUSE_SECONDS = 0.1


class BatchNotFound(NotFound):
    """The collection has no batch of this id."""


class DocumentLibrary:
    """Files, and where they are: those of the caller's desk, inside no wall that the caller is outside of."""

    def __init__(
        self,
        database: Database,
        files: Files,
        attachments: VectorStoreFiles,
        content: BlobStore,
        reader: ParserPool,
        changes: ChangeNotifications,
        store: VectorStoreClient,
        updates: AttributeUpdates,
        audit: AuditWriter,
    ) -> None:
        self._database = database
        self.files = files
        self.attachments = attachments
        self.content = content
        self._reader = reader
        self._changes = changes
        self.store = store
        self._updates = updates
        self._audit = audit
        self._embedded = EmbeddedFiles(files, content, reader)

    async def put(
        self, incoming: PendingBlob, name: str, purpose: str, inside: Collection[str] = (), password: str = ""
    ) -> File:
        """Keep a file whose bytes have come, and the files attached to it, inside these walls or all of the caller's.

        An encrypted file is kept without its encryption; its password is used here and kept nowhere.

        Raises:
            Forbidden: the caller stands outside a wall that is given.
            InvalidRequest: it is empty, or meant for collections and cannot be read, or its password is wrong.
        """
        walls.of_new(inside, context.caller())
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose is {purpose!r}; it can be: {', '.join(PURPOSES)}", param="purpose")
        await incoming.finish()
        if purpose != READ:
            if password:
                raise InvalidRequest(f"password is for files of the purpose {READ!r}", param="password")
            return await self.files.put(incoming, name, purpose, inside)
        try:
            return await self._put_readable(incoming, name, inside, password)
        except ParseFailed as error:
            param = "password" if error.code in {PASSWORD_REQUIRED, WRONG_PASSWORD} else "file"
            raise InvalidRequest(f"{name}: {error.message}", code=error.code, param=param) from None

    async def _put_readable(self, incoming: PendingBlob, name: str, inside: Collection[str], password: str) -> File:
        kind = file_types.kind_of(name)
        try:
            encoding = await self._reader.check(incoming.path, kind)
        except ParseFailed as error:
            if error.code != PASSWORD_REQUIRED:
                raise
        else:
            file = await self.files.put(incoming, name, READ, inside, {"encoding": encoding} if encoding else {})
            return await self._embedded.keep(file)
        with self.content.receiving() as plain:
            async with aclosing(self._reader.decrypted(incoming.path, kind, password)) as pieces:
                async for piece in pieces:
                    plain.write(piece)
            await plain.finish()
            await self._reader.check(plain.path, kind)
            return await self._embedded.keep(await self.files.put(plain, name, READ, inside, {"decrypted": True}))

    async def delete(self, id_: str) -> None:
        """Delete a file, and everything that was made of it."""
        await self.files.delete(id_, self._detach_everywhere)

    async def text(self, file: File, enough: int = 0) -> list[str]:
        """Return the text of a file, page by page.

        Raises:
            InvalidRequest: it cannot be read.
        """
        try:
            return await self._reader.pages(self.content.path(file.content_hash), file_types.kind_of(file.name), enough)
        except ParseFailed as error:
            raise InvalidRequest(f"{file.name}: {error.message}", code=error.code) from error

    async def collection(self, id_or_name: str) -> pb.Collection:
        """Return a collection of the desk."""
        return await self.store.get_collection(GetCollectionRequest(collection=id_or_name))

    async def make_collection(self, name: str) -> pb.Collection:
        """Return the collection of this name or id, made where there is none."""
        with suppress(NotFound):
            return await self.collection(name)
        try:
            return await self.store.create_collection(CreateCollectionRequest(name=name))
        except Conflict:  # somebody else was faster
            return await self.collection(name)

    async def delete_collection(self, id_: str) -> None:
        """Delete a collection; its files stay."""
        found = await self.collection(id_)
        await self.store.delete_collection(DeleteCollectionRequest(collection=found.id))
        await self.attachments.forget(found.id)

    async def detach(self, collection: str, file: str) -> None:
        """Take a file, and those attached to it, out of a collection; the files stay."""
        async with self._database.transaction() as connection:
            await rows.remove(connection, collection, file)
            await self._remove_document(collection, file)
            for embedded in await embedded_in(connection, file):
                with suppress(VectorStoreFileNotFound):  # taken out before
                    await rows.remove(connection, collection, embedded.id)
                await self._remove_document(collection, embedded.id)
            details = {"collection": collection}
            await self._audit.record("file.detach", file, details=details, connection=connection)

    async def attach(
        self, collection: pb.Collection, file: File, attributes: Mapping[str, Any], inside: Sequence[str] = ()
    ) -> bool:
        """Order that a file be put into a collection; return False where that is done or under way already.

        Its document stands inside the walls of both, and inside these or else all of the caller's.

        Raises:
            Forbidden: the caller stands outside a wall that is given.
        """
        made = walls.of_new(inside, context.caller())
        async with self._database.transaction() as connection:
            is_new = await self._attach(connection, collection, file, attributes, made)
        await self._updates.send(collection.id, [file.id])
        return is_new

    async def update_attributes(self, collection: str, file: str, attributes: Mapping[str, Any]) -> VectorStoreFile:
        """Give a file in a collection other attributes: at once, and nothing is indexed again.

        Raises:
            AttachmentNotFound: the collection does not have the file.
        """
        found = await self.attachments.get(collection, file)
        who = context.caller()
        order = {"org": who.org, "desk": who.desk, "collection": collection, "file": file, "walls": list(found.walls)}
        async with self._database.transaction() as connection:
            if await attribute_updates.change(connection, order | {"attributes": Jsonb(dict(attributes))}):
                details = {"collection": collection}
                await self._audit.record("file.update", file, details=details, connection=connection)
        await self._updates.send(collection, [file])
        return await self.attachments.get(collection, file)

    async def index(
        self, collection: pb.Collection, file: File, attributes: Mapping[str, Any], inside: Sequence[str] = ()
    ) -> tuple[VectorStoreFile, bool]:
        """Put a file into a collection and wait for the end; also say whether there was nothing to do."""
        is_new = await self.attach(collection, file, attributes, inside)
        async with aclosing(self.watch(collection.id)) as changes:
            async for _ in changes:
                found = await self.attachments.get(collection.id, file.id)
                if found.state != "in_progress":
                    return found, found.unchanged or not is_new
        return await self.attachments.get(collection.id, file.id), not is_new

    async def watch(self, collection: str) -> AsyncGenerator[IndexingProgress, None]:
        """Yield how far a collection is, now and after every change, until nothing is in progress."""
        last = None
        while True:
            mark = self._changes.mark()
            progress = await self.attachments.progress(collection)
            if progress != last:
                yield progress
            if not progress.in_progress:
                return
            last = progress
            await self._changes.after(mark, WATCH_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)  # each look counts the whole collection, each file changes it

    async def attach_batch(
        self, collection: pb.Collection, orders: Sequence[tuple[str, Mapping[str, Any]]], inside: Sequence[str] = ()
    ) -> str:
        """Put many files into a collection, all or none; return the id of the batch.

        Raises:
            Forbidden: the caller stands outside a wall that is given.
        """
        who = context.caller()
        made = walls.of_new(inside, who)
        files = [(await self.files.get(id_), attributes) for id_, attributes in orders]
        batch = f"vsfb_{secrets.token_hex(12)}"
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into batch (id, org, desk, collection, walls) values (%s, %s, %s, %s, %s)",
                (batch, who.org, who.desk, collection.id, sorted({*collection.walls, *made})),
            )
            for file, attributes in files:
                await self._attach(connection, collection, file, attributes, made)
                await connection.execute("insert into batch_file (batch, file) values (%s, %s)", (batch, file.id))
        await self._updates.send(collection.id, [file.id for file, _ in files])
        return batch

    async def batch(self, collection: str, batch: str) -> tuple[datetime, IndexingProgress]:
        """Return when a batch was made, and how far it is.

        Raises:
            BatchNotFound: the collection has none of this id.
        """
        who = context.caller()
        row = await self._database.one(
            "select created_at from visible_batches(%s, %s, %s, %s) where id = %s",
            *(who.org, who.desk, collection, list(who.walls), batch),
        )
        if row is None:
            raise BatchNotFound(f"{collection!r} has no batch {batch!r}", param="batch_id")
        return row["created_at"], await self.attachments.progress(collection, batch)

    async def cancel_batch(self, collection: str, batch: str) -> None:
        """Stop what is not done yet of a batch."""
        who = context.caller()
        await self.batch(collection, batch)
        async with self._database.transaction() as connection:
            await connection.execute(
                "update attachment set state = 'cancelled', worker = null"
                " where org = %s and desk = %s and collection = %s and inside(walls, %s) and state = 'in_progress'"
                " and file in (with recursive family as (select file as id from batch_file where batch = %s"
                " union select f.id from file f join family g on f.parent = g.id) select id from family)",
                (who.org, who.desk, collection, list(who.walls), batch),
            )
            await announce(connection)

    async def _detach_everywhere(self, connection: Connection, file: str) -> None:
        """Take a file out of every collection, also from inside walls that who deletes it stands outside of."""
        who = context.caller()
        for attachment in await rows.of_file(connection, file):
            with context.acting_for(replace(who, walls=who.walls.union(attachment.walls))), suppress(NotFound):
                await rows.remove(connection, attachment.collection, file)
                await self._remove_document(attachment.collection, file)

    async def _attach(
        self,
        connection: Connection,
        collection: pb.Collection,
        file: File,
        attributes: Mapping[str, Any],
        made: Sequence[str],
    ) -> bool:
        inside = sorted({*file.walls, *collection.walls, *made})
        return await self.attachments.attach(connection, collection.id, file, attributes, inside)

    async def _remove_document(self, collection: str, file: str) -> None:
        # Where it was never indexed, or the collection is gone, it is not there: which is what is wanted.
        with suppress(NotFound):
            await self.store.delete_document(DeleteDocumentRequest(collection=collection, document=file))
