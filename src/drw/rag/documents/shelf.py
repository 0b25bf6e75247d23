"""What can be done with files and collections, for the routes and for the other services alike."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

from drw.api.rag.v1.vector_store_pb2 import (
    Collection,
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteDocumentRequest,
    GetCollectionRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.database import Connection, Database
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.rag.documents import attachments as rows
from drw.rag.documents import kinds
from drw.rag.documents.attachments import Attachment, AttachmentNotFound, Attachments, Progress
from drw.rag.documents.changes import Changes, announce
from drw.rag.documents.content import Content, Incoming
from drw.rag.documents.embedded import EmbeddedFiles
from drw.rag.documents.files import File, Files, embedded_in
from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, Refused
from drw.rag.documents.reading import Reader

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
READ = "assistants"
"""The purpose of files that go into collections: whether they can be read is checked when they come."""
WATCH_SECONDS = 5.0


class BatchNotFound(NotFound):
    """The collection has no batch of this id."""


class Shelf:
    """Files, and where they are; everything is the caller's desk's."""

    def __init__(
        self,
        database: Database,
        files: Files,
        attachments: Attachments,
        content: Content,
        reader: Reader,
        changes: Changes,
        store: VectorStoreClient,
        audit: AuditWriter,
    ) -> None:
        self._database = database
        self.files = files
        self.attachments = attachments
        self.content = content
        self._reader = reader
        self._changes = changes
        self.store = store
        self._audit = audit
        self._embedded = EmbeddedFiles(files, content, reader)

    async def put(self, incoming: Incoming, name: str, purpose: str, password: str = "") -> File:
        """Keep a file whose bytes have come, and the files attached to it.

        An encrypted file is kept without its encryption; its password is used here and kept nowhere.

        Raises:
            InvalidRequest: it is empty, or meant for collections and cannot be read, or its password is wrong.
        """
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose is {purpose!r}; it can be: {', '.join(PURPOSES)}", param="purpose")
        await incoming.finish()
        if purpose != READ:
            return await self.files.put(incoming, name, purpose)
        try:
            return await self._put_readable(incoming, name, password)
        except Refused as error:
            param = "password" if error.code in {PASSWORD_REQUIRED, WRONG_PASSWORD} else "file"
            raise InvalidRequest(f"{name}: {error.message}", code=error.code, param=param) from None

    async def _put_readable(self, incoming: Incoming, name: str, password: str) -> File:
        kind = kinds.kind_of(name)
        try:
            encoding = await self._reader.check(incoming.path, kind)
        except Refused as error:
            if error.code != PASSWORD_REQUIRED:
                raise
        else:
            file = await self.files.put(incoming, name, READ, {"encoding": encoding} if encoding else {})
            return await self._embedded.keep(file)
        with self.content.receiving() as plain:
            async with aclosing(self._reader.decrypted(incoming.path, kind, password)) as pieces:
                async for piece in pieces:
                    plain.write(piece)
            await plain.finish()
            await self._reader.check(plain.path, kind)
            return await self._embedded.keep(await self.files.put(plain, name, READ, {"decrypted": True}))

    async def delete(self, id_: str) -> None:
        """Delete a file, and everything that was made of it."""
        await self.files.delete(id_, self._detach_everywhere)

    async def text(self, file: File, enough: int = 0) -> list[str]:
        """Return the text of a file, page by page.

        Raises:
            InvalidRequest: it cannot be read.
        """
        try:
            return await self._reader.pages(self.content.path(file.content_hash), kinds.kind_of(file.name), enough)
        except Refused as error:
            raise InvalidRequest(f"{file.name}: {error.message}", code=error.code) from error

    async def collection(self, id_or_name: str) -> Collection:
        """Return a collection of the desk."""
        return await self.store.get_collection(GetCollectionRequest(collection=id_or_name))

    async def make_collection(self, name: str) -> Collection:
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
                with suppress(AttachmentNotFound):  # taken out before
                    await rows.remove(connection, collection, embedded.id)
                await self._remove_document(collection, embedded.id)
            details = {"collection": collection}
            await self._audit.record("file.detach", file, details=details, connection=connection)

    async def index(self, collection: str, file: File, attributes: Mapping[str, Any]) -> tuple[Attachment, bool]:
        """Put a file into a collection and wait for the end; also say whether there was nothing to do."""
        is_new = await self.attachments.attach(collection, file, attributes)
        async with aclosing(self.watch(collection)) as changes:
            async for _ in changes:
                found = await self.attachments.get(collection, file.id)
                if found.state != "in_progress":
                    return found, found.unchanged or not is_new
        return await self.attachments.get(collection, file.id), not is_new

    async def watch(self, collection: str) -> AsyncGenerator[Progress, None]:
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

    async def attach_batch(self, collection: str, orders: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Put many files into a collection, all or none; return the id of the batch."""
        who = call.caller()
        files = [(await self.files.get(id_), attributes) for id_, attributes in orders]
        batch = f"vsfb_{secrets.token_hex(12)}"
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into batch (id, org, desk, collection) values (%s, %s, %s, %s)",
                (batch, who.org, who.desk, collection),
            )
            for file, attributes in files:
                await self.attachments.attach(collection, file, attributes, connection)
                await connection.execute("insert into batch_file (batch, file) values (%s, %s)", (batch, file.id))
        return batch

    async def batch(self, collection: str, batch: str) -> tuple[datetime, Progress]:
        """Return when a batch was made, and how far it is.

        Raises:
            BatchNotFound: the collection has none of this id.
        """
        who = call.caller()
        row = await self._database.one(
            "select created_at from batch where id = %s and org = %s and desk = %s and collection = %s",
            *(batch, who.org, who.desk, collection),
        )
        if row is None:
            raise BatchNotFound(f"{collection!r} has no batch {batch!r}", param="batch_id")
        return row["created_at"], await self.attachments.progress(collection, batch)

    async def cancel_batch(self, collection: str, batch: str) -> None:
        """Stop what is not done yet of a batch."""
        await self.batch(collection, batch)
        async with self._database.transaction() as connection:
            await connection.execute(
                "update attachment set state = 'cancelled', worker = null"
                " where collection = %s and state = 'in_progress'"
                " and file in (with recursive family as (select file as id from batch_file where batch = %s"
                " union select f.id from file f join family g on f.parent = g.id) select id from family)",
                (collection, batch),
            )
            await announce(connection)

    async def _detach_everywhere(self, connection: Connection, file: str) -> None:
        for attachment in await rows.of_file(connection, file):
            await rows.remove(connection, attachment.collection, file)
            await self._remove_document(attachment.collection, file)

    async def _remove_document(self, collection: str, file: str) -> None:
        # Where it was never indexed, or the collection is gone, it is not there: which is what is wanted.
        with suppress(NotFound):
            await self.store.delete_document(DeleteDocumentRequest(collection=collection, document=file))
