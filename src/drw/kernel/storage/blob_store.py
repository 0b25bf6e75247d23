"""Content-addressed blob store: write to a temporary file, fsync, rename to the SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from drw.kernel.errors import InvalidRequest, TooLarge, Unavailable

MAX_UPLOAD_SECONDS = 24 * 3600
"""An older temporary file was left by a process that died."""


class ReceivedBlob(Protocol):
    """A complete blob in a temporary file."""

    @property
    def path(self) -> Path:
        """The temporary file."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the bytes, in hex."""


class PendingBlob:
    """A blob that is being uploaded to a temporary file."""

    def __init__(self, path: Path, descriptor: int, max_bytes: int) -> None:
        self.path = path
        self.size = 0
        self._file = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        self._max_bytes = max_bytes

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the received bytes, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Write the next bytes.

        Raises:
            TooLarge: the blob exceeds its maximum size.
            Unavailable: the disk is full.
        """
        self.size += len(data)
        if self.size > self._max_bytes:
            raise TooLarge(f"the file has more than {self._max_bytes:,} bytes", param="file")
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise Unavailable(f"the file cannot be stored: {error.strerror}") from error

    async def finish(self) -> None:
        """Flush the received bytes to disk (fsync).

        Raises:
            InvalidRequest: the file is empty.
            Unavailable: the disk is full.
        """
        if not self.size:
            raise InvalidRequest("the file is empty", param="file")
        try:
            await asyncio.to_thread(self._flush)
        except OSError as error:
            raise Unavailable(f"the file cannot be stored: {error.strerror}") from error

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Delete the temporary file, unless the blob was committed."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """A folder of blobs; the name of each blob is its SHA-256."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._stored = folder / "content"
        self._incoming = folder / "incoming"
        self._max_bytes = max_bytes
        for path in (self._stored, self._incoming):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Only old files: other processes may be receiving the others.
        for path in self._incoming.iterdir():
            if time.time() - path.stat().st_mtime > MAX_UPLOAD_SECONDS:
                path.unlink(missing_ok=True)

    @contextmanager
    def receiving(self) -> Iterator[PendingBlob]:
        """Open a temporary file for a blob; delete it at the end of the block unless the blob was committed."""
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        blob = PendingBlob(Path(name), descriptor, self._max_bytes)
        try:
            yield blob
        finally:
            blob.discard()

    def path(self, content_hash: str) -> Path:
        """Return the path of a blob."""
        return self._stored / content_hash[:2] / content_hash

    def upload_path(self, name: str) -> Path:
        """Return the path of a temporary file that is written in parts; it is deleted after `MAX_UPLOAD_SECONDS`."""
        return self._incoming / f"parts-{name}"

    async def commit(self, blob: ReceivedBlob) -> None:
        """Move a finished blob to the path of its hash; the caller holds the lock of the hash."""
        await asyncio.to_thread(self._move, blob)

    async def remove(self, content_hash: str) -> None:
        """Delete a blob that no file refers to; the caller holds the lock of the hash."""
        await asyncio.to_thread(self.path(content_hash).unlink, missing_ok=True)

    def hashes(self) -> list[str]:
        """Return the hashes of all blobs."""
        return [path.name for path in self._stored.glob("??/*")]

    def _move(self, blob: ReceivedBlob) -> None:
        path = self.path(blob.content_hash)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        blob.path.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
