"""Attachments of PDF and e-mail: stored as files that are linked to their parent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from drw.kernel.errors import TooLarge
from drw.kernel.storage.blob_store import BlobStore, PendingBlob
from drw.kernel.storage.database import Database
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings as Settings
from drw.rag.documents.storage.files import File, Files

MAX_WARNINGS = 20
MAX_TITLE = 512
"""Characters of a title; a limit of the vector store."""


@dataclass(slots=True)
class _Budget:
    """The remaining number of files and bytes for the attachments of one upload, over all depths."""

    files: int
    bytes: int
    warnings: list[str] = field(default_factory=list)

    def charge(self, size: int) -> None:
        """Subtract received bytes.

        Raises:
            TooLarge: the attachments exceed their total size.
        """
        self.bytes -= size
        if self.bytes < 0:
            raise TooLarge("the files attached to the upload are too large together")

    def warn(self, name: str, reason: str) -> None:
        """Add the warning that an attachment was not stored."""
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(f"the attached file {name[: file_types.MAX_NAME_BYTES]!r} was not stored: {reason}")


class AttachmentStore:
    """Stores attachments within limits of count, bytes and depth."""

    def __init__(self, files: Files, blobs: BlobStore, parsers: ParserPool) -> None:
        self._files = files
        self._blobs = blobs
        self._parsers = parsers

    async def store(self, file: File) -> File:
        """Store the attachments of a file; return the file with a warning for each attachment that was not stored."""
        limits = self._parsers.settings
        budget = _Budget(limits.max_attached_files, limits.max_attached_bytes)
        await self._store_all(file, limits, budget, depth=1)
        return await self._files.set_warnings(file, budget.warnings) if budget.warnings else file

    async def _store_all(self, parent: File, limits: Settings, budget: _Budget, depth: int) -> None:
        with ExitStack() as stack:
            # Receive all attachments first: a task that holds a parser process must not wait for another one.
            for name, size, blob in await self._receive(parent, stack, budget):
                if depth > limits.max_attachment_depth:
                    budget.warn(name, f"it is attached {depth} files deep; at most {limits.max_attachment_depth}")
                elif blob.size < size:  # the parser failed
                    budget.warn(name, "it could not be read to its end")
                elif attachment := await self._store(parent, name, blob, budget):
                    await self._store_all(attachment, limits, budget, depth + 1)

    async def _receive(self, parent: File, stack: ExitStack, budget: _Budget) -> list[tuple[str, int, PendingBlob]]:
        """Receive the attachments of a file; return the name, the declared size and the received bytes of each."""
        extension = file_types.extension_of(parent.name)
        received: list[tuple[str, int, PendingBlob]] = []
        if extension not in file_types.WITH_ATTACHMENTS:
            return received
        current: PendingBlob | None = None
        try:
            async with aclosing(
                self._parsers.attachments(self._blobs.path(parent.content_hash), extension)
            ) as responses:
                async for response in responses:
                    if not isinstance(response, bytes):
                        name, size = response
                        if current := self._open_blob(name, stack, budget):
                            received.append((file_types.sanitize_name(name), size, current))
                    elif current is not None:
                        budget.charge(len(response))
                        current.write(response)
        except ParseFailed as error:
            budget.warn(parent.name, f"its attached files cannot be read: {error.message}")
        except TooLarge as error:
            budget.warn(received.pop()[0], error.message)
        return received

    def _open_blob(self, name: str, stack: ExitStack, budget: _Budget) -> PendingBlob | None:
        """Open a blob for the next attachment; return None if the attachment cannot be stored."""
        try:
            file_types.extension_of(name)
        except ParseFailed as error:
            budget.warn(name, error.message.partition(";")[0])
            return None
        if budget.files <= 0:
            budget.warn(name, "the upload has too many attached files")
            return None
        budget.files -= 1
        return stack.enter_context(self._blobs.receiving())

    async def _store(self, parent: File, name: str, blob: PendingBlob, budget: _Budget) -> File | None:
        if not blob.size:
            budget.warn(name, "it is empty")
            return None
        await blob.finish()
        try:
            encoding = await self._parsers.check(blob.path, file_types.extension_of(name))
        except ParseFailed as error:
            budget.warn(name, error.message)
            return None
        details: Mapping[str, Any] = {"encoding": encoding} if encoding else {}
        return await self._files.put_attachment(parent, blob, name, details)


async def title(database: Database, file: str, name: str) -> str:
    """Return the title of a file in search results: its name, and the name of its parent."""
    row = await database.one("select p.name from file f join file p on p.id = f.parent where f.id = %s", file)
    return f"{name}, attached to {row['name']}"[:MAX_TITLE] if row else name
