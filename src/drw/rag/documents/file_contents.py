"""Contents of files: validates and stores uploads, with the files attached to them, and reads their text."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing

from drw.kernel import walls
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.rag.documents.ingestion.attached_files import EmbeddedFiles
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, ParseFailed
from drw.rag.documents.storage.blob_store import BlobStore, PendingBlob
from drw.rag.documents.storage.files import File, Files

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
ASSISTANTS = "assistants"
"""The purpose of files for collections: an upload that no parser can read is rejected."""


class FileContents:
    """Stores and reads the bytes of files."""

    def __init__(self, files: Files, blobs: BlobStore, parsers: ParserPool) -> None:
        self._files = files
        self._blobs = blobs
        self._parsers = parsers
        self._embedded = EmbeddedFiles(files, blobs, parsers)

    async def store(
        self, upload: PendingBlob, name: str, purpose: str, inside: Collection[str] = (), password: str = ""
    ) -> File:
        """Store an uploaded file and the files attached to it.

        An encrypted file is decrypted first. Its password is used for that and stored nowhere.

        Args:
            upload: the received bytes.
            name: the name of the file.
            purpose: one of `PURPOSES`.
            inside: the walls of the file; by default all of the caller's.
            password: of an encrypted file.

        Raises:
            Forbidden: the caller is outside one of the walls.
            InvalidRequest: the file is empty, or cannot be parsed for the purpose `assistants`; or the purpose or the
                password is wrong.
        """
        walls.of_new(inside, context.caller())
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose is {purpose!r}; it can be: {', '.join(PURPOSES)}", param="purpose")
        await upload.finish()
        if purpose != ASSISTANTS:
            if password:
                raise InvalidRequest(f"password is for files of the purpose {ASSISTANTS!r}", param="password")
            return await self._files.put(upload, name, purpose, inside)
        try:
            return await self._store_parsable(upload, name, inside, password)
        except ParseFailed as error:
            param = "password" if error.code in {PASSWORD_REQUIRED, WRONG_PASSWORD} else "file"
            raise InvalidRequest(f"{name}: {error.message}", code=error.code, param=param) from None

    async def _store_parsable(self, upload: PendingBlob, name: str, inside: Collection[str], password: str) -> File:
        kind = file_types.kind_of(name)
        try:
            encoding = await self._parsers.check(upload.path, kind)
        except ParseFailed as error:
            if error.code != PASSWORD_REQUIRED:
                raise
        else:
            details = {"encoding": encoding} if encoding else {}
            return await self._embedded.keep(await self._files.put(upload, name, ASSISTANTS, inside, details))
        with self._blobs.receiving() as plain:
            async with aclosing(self._parsers.decrypted(upload.path, kind, password)) as pieces:
                async for piece in pieces:
                    plain.write(piece)
            await plain.finish()
            await self._parsers.check(plain.path, kind)
            file = await self._files.put(plain, name, ASSISTANTS, inside, {"decrypted": True})
            return await self._embedded.keep(file)

    async def text(self, file: File, max_characters: int = 0) -> list[str]:
        """Return the text of a file, page by page; stop after the page that reaches `max_characters`, if not 0.

        Raises:
            InvalidRequest: the file cannot be parsed.
        """
        path = self._blobs.path(file.content_hash)
        try:
            return (await self._parsers.text(path, file_types.kind_of(file.name), max_characters)).pages
        except ParseFailed as error:
            raise InvalidRequest(f"{file.name}: {error.message}", code=error.code) from error
