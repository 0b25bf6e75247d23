"""Uploads in parts: another service writes a file that is too large for one message."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from drw.kernel import walls
from drw.kernel.errors import Conflict, InvalidRequest, TooLarge, Unavailable
from drw.kernel.rpc import context
from drw.kernel.storage.blob_store import BlobStore
from drw.rag.documents.storage.files import File, Files

READ_BYTES = 1 << 20


class UploadIncomplete(Conflict):
    """Bytes of the upload are missing; the caller writes all of its parts again."""


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """All bytes of an upload."""

    path: Path
    size: int
    content_hash: str


class Uploads:
    """Temporary files that services write in parts. The ids of uploads are separate for each desk."""

    def __init__(self, files: Files, blobs: BlobStore, max_bytes: int) -> None:
        self._files = files
        self._blobs = blobs
        self._max_bytes = max_bytes

    async def write(self, upload: str, offset: int, content: bytes) -> None:
        """Write a part at an offset; later bytes are discarded.

        Raises:
            TooLarge: the upload exceeds the maximum size of a file.
            UploadIncomplete: bytes before the offset are missing.
            Unavailable: the disk is full.
        """
        if offset + len(content) > self._max_bytes:
            raise TooLarge(f"the file has more than {self._max_bytes:,} bytes", param="file")
        try:
            await asyncio.to_thread(_write, self._path(upload), offset, content)
        except OSError as error:
            raise Unavailable(f"the file cannot be stored: {error.strerror}") from error

    async def finish(
        self, upload: str, name: str, purpose: str, content_hash: str, requested_walls: Collection[str]
    ) -> File:
        """Store an upload as a file. A repeated call returns the same file.

        Raises:
            Forbidden: the caller is outside one of the walls.
            InvalidRequest: the upload is empty.
            UploadIncomplete: the bytes do not have this SHA-256.
        """
        walls.for_new_object(requested_walls, context.caller())
        received = await asyncio.to_thread(_finished, self._path(upload))
        if received is None or received.content_hash != content_hash:
            if received is None and (stored := await self._files.find(content_hash, name, purpose, requested_walls)):
                return stored
            raise UploadIncomplete(f"the upload {upload!r} does not have the announced bytes: write it again")
        if not received.size:
            raise InvalidRequest("the file is empty", param="file")
        return await self._files.put(received, name, purpose, requested_walls)

    def _path(self, upload: str) -> Path:
        caller = context.caller()
        identity = "\0".join((caller.org, caller.desk, upload))
        return self._blobs.upload_path(hashlib.sha256(identity.encode()).hexdigest())


def _write(path: Path, offset: int, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if os.fstat(descriptor).st_size < offset:
            raise UploadIncomplete(f"the upload has fewer than {offset} bytes: write it again")
        file.seek(offset)
        file.truncate()
        file.write(content)


def _finished(path: Path) -> FinishedUpload | None:
    """Flush an upload to disk and return it; None: it does not exist."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            while data := file.read(READ_BYTES):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        return None
    return FinishedUpload(path, size, digest.hexdigest())
