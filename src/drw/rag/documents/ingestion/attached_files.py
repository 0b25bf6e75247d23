"""Files attached to PDF and e-mail become files of their own, linked to the one that they came in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from drw.kernel.errors import TooLarge
from drw.kernel.storage.database import Database
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings as Settings
from drw.rag.documents.storage.blob_store import BlobStore, PendingBlob
from drw.rag.documents.storage.files import File, Files

MOST_WARNINGS = 20
MOST_TITLE = 512
"""Characters, as the vector store takes them."""


@dataclass(slots=True)
class _Budget:
    """What the files attached to one upload may still have, over all depths."""

    files: int
    bytes: int
    warnings: list[str] = field(default_factory=list)

    def warn(self, name: str, reason: str) -> None:
        """Say that a file was not kept."""
        if len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(f"the attached file {name[: file_types.MAX_NAME_BYTES]!r} was not kept: {reason}")


class EmbeddedFiles:
    """Keeps attached files, within bounds of count, bytes and depth."""

    def __init__(self, files: Files, content: BlobStore, reader: ParserPool) -> None:
        self._files = files
        self._content = content
        self._reader = reader

    async def keep(self, file: File) -> File:
        """Keep what is attached to a file; return the file, with warnings of what could not be kept."""
        if file_types.kind_of(file.name) not in file_types.MAY_HAVE_FILES:
            return file
        bounds = self._reader.settings
        budget = _Budget(bounds.max_attached_files, bounds.max_attached_bytes)
        await self._keep(file, bounds, budget, depth=1)
        return await self._files.warn(file, budget.warnings) if budget.warnings else file

    async def _keep(self, parent: File, bounds: Settings, budget: _Budget, depth: int) -> None:
        with ExitStack() as stack:
            # All of them before the next is read: a worker must not be held while another is asked for.
            for name, size, incoming in await self._received(parent, stack, budget):
                if depth > bounds.max_attachment_depth:
                    budget.warn(name, f"it is attached {depth} files deep; at most {bounds.max_attachment_depth}")
                elif incoming.size < size:  # its parser broke
                    budget.warn(name, "it could not be read to its end")
                elif kept := await self._put(parent, name, incoming, budget):
                    await self._keep(kept, bounds, budget, depth + 1)

    async def _received(self, parent: File, stack: ExitStack, budget: _Budget) -> list[tuple[str, int, PendingBlob]]:
        """Take in the files attached to one; return the name of each, its size, and what has come of it."""
        kind = file_types.kind_of(parent.name)
        found: list[tuple[str, int, PendingBlob]] = []
        if kind not in file_types.MAY_HAVE_FILES:
            return found
        taking: PendingBlob | None = None
        try:
            async with aclosing(self._reader.embedded(self._content.path(parent.content_hash), kind)) as answers:
                async for answer in answers:
                    if isinstance(answer, bytes):
                        _take(taking, answer, budget)
                        continue
                    name, size = answer
                    if taking := self._begin(name, stack, budget):
                        found.append((file_types.safe_name(name), size, taking))
        except ParseFailed as error:
            budget.warn(parent.name, f"its attached files cannot be read: {error.message}")
        except TooLarge as error:
            budget.warn(found.pop()[0], error.message)
        return found

    def _begin(self, name: str, stack: ExitStack, budget: _Budget) -> PendingBlob | None:
        """Give a place for the next file; None where it is not to be kept."""
        try:
            file_types.kind_of(name)
        except ParseFailed as error:
            budget.warn(name, error.message.partition(";")[0])
            return None
        if budget.files <= 0:
            budget.warn(name, "the upload has too many attached files")
            return None
        budget.files -= 1
        return stack.enter_context(self._content.receiving())

    async def _put(self, parent: File, name: str, incoming: PendingBlob, budget: _Budget) -> File | None:
        if not incoming.size:
            budget.warn(name, "it is empty")
            return None
        await incoming.finish()
        try:
            encoding = await self._reader.check(incoming.path, file_types.kind_of(name))
        except ParseFailed as error:
            budget.warn(name, error.message)
            return None
        details: Mapping[str, Any] = {"encoding": encoding} if encoding else {}
        return await self._files.put_embedded(parent, incoming, name, details)


def _take(incoming: PendingBlob | None, piece: bytes, budget: _Budget) -> None:
    if incoming is None:
        return
    budget.bytes -= len(piece)
    if budget.bytes < 0:
        raise TooLarge("the files attached to the upload are too large together")
    incoming.write(piece)


async def title(database: Database, file: str, name: str) -> str:
    """Return the name of a file as search results show it: with that of the file it is attached to."""
    row = await database.one("select p.name from file f join file p on p.id = f.parent where f.id = %s", file)
    return f"{name}, attached to {row['name']}"[:MOST_TITLE] if row else name
