"""Contents of files: validates and stores uploads with their attachments, and returns the text of files."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing

from drw.kernel import walls
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.blob_store import BlobStore, PendingBlob
from drw.rag.documents.ingestion.attachments import AttachmentStore
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, ParseFailed
from drw.rag.documents.storage.files import File, Files

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
ASSISTANTS = "assistants"
"""The purpose of files for collections: uploads that cannot be parsed are rejected."""


class FileContents:
    """Stores and reads the bytes of files."""

    def __init__(self, files: Files, blobs: BlobStore, parsers: ParserPool) -> None:
        self._files = files
        self._blobs = blobs
        self._parsers = parsers
        self._attachments = AttachmentStore(files, blobs, parsers)

    async def store(
        self, upload: PendingBlob, name: str, purpose: str, requested_walls: Collection[str] = (), password: str = ""
    ) -> File:
        """Store an uploaded file and its attachments.

        An encrypted file is decrypted first. Its password is not stored.

        Args:
            upload: the received bytes.
            name: the name of the file.
            purpose: one of `PURPOSES`.
            requested_walls: the walls of the file; by default all walls of the caller.
            password: the password of an encrypted file.

        Raises:
            Forbidden: the caller is outside one of the walls.
            InvalidRequest: the file is empty, cannot be parsed for the purpose `assistants`, or has another password.
        """
        walls.for_new_object(requested_walls, context.caller())
        await upload.finish()
        if purpose != ASSISTANTS:
            if password:
                raise InvalidRequest(f"password is for files of the purpose {ASSISTANTS!r}", param="password")
            return await self._files.put(upload, name, purpose, requested_walls)
        try:
            return await self._store_parsable(upload, name, requested_walls, password)
        except ParseFailed as error:
            param = "password" if error.code in {PASSWORD_REQUIRED, WRONG_PASSWORD} else "file"
            raise InvalidRequest(f"{name}: {error.message}", code=error.code, param=param) from None

    async def _store_parsable(
        self, upload: PendingBlob, name: str, requested_walls: Collection[str], password: str
    ) -> File:
        extension = file_types.extension_of(name)
        try:
            encoding = await self._parsers.check(upload.path, extension)
        except ParseFailed as error:
            if error.code != PASSWORD_REQUIRED:
                raise
        else:
            details = {"encoding": encoding} if encoding else {}
            return await self._attachments.store(
                await self._files.put(upload, name, ASSISTANTS, requested_walls, details)
            )
        with self._blobs.receiving() as decrypted:
            async with aclosing(self._parsers.decrypt(upload.path, extension, password)) as blocks:
                async for block in blocks:
                    decrypted.write(block)
            await decrypted.finish()
            await self._parsers.check(decrypted.path, extension)
            file = await self._files.put(decrypted, name, ASSISTANTS, requested_walls, {"decrypted": True})
            return await self._attachments.store(file)

    async def text(self, file: File, max_characters: int = 0) -> list[str]:
        """Return the text of each page; stop after the page that reaches `max_characters`, if not 0.

        Raises:
            InvalidRequest: the file cannot be parsed.
        """
        path = self._blobs.path(file.content_hash)
        try:
            return (await self._parsers.text(path, file_types.extension_of(file.name), max_characters)).pages
        except ParseFailed as error:
            raise InvalidRequest(f"{file.name}: {error.message}", code=error.code) from error
