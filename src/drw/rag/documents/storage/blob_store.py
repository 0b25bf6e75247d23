"""Keeps bytes on disk under their SHA-256: written apart, made durable, then renamed into place."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drw.kernel.errors import InvalidRequest, TooLarge, Unavailable

ABANDONED_SECONDS = 24 * 3600


class PendingBlob:
    """Bytes on their way in."""

    def __init__(self, path: Path, descriptor: int, most: int) -> None:
        self.path = path
        self.size = 0
        self._file = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        self._most = most

    @property
    def content_hash(self) -> str:
        """The SHA-256 of what has come, in hex."""
        return self._hash.hexdigest()

    def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            TooLarge: it is more than a file may have.
            Unavailable: the disk is full.
        """
        self.size += len(piece)
        if self.size > self._most:
            raise TooLarge(f"the file has more than {self._most:,} bytes", param="file")
        self._hash.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise Unavailable(f"the file cannot be kept: {error.strerror}") from error

    async def finish(self) -> None:
        """Make what has come durable.

        Raises:
            InvalidRequest: nothing has come.
            Unavailable: the disk is full.
        """
        if not self.size:
            raise InvalidRequest("the file is empty", param="file")
        try:
            await asyncio.to_thread(self._sync)
        except OSError as error:
            raise Unavailable(f"the file cannot be kept: {error.strerror}") from error

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Forget what has come, unless it was kept."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """The folder. No name in it is made of anything but a hash."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._kept = folder / "content"
        self._incoming = folder / "incoming"
        self._most_bytes = most_bytes
        for path in (self._kept, self._incoming):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_abandoned()

    @contextmanager
    def receiving(self) -> Iterator[PendingBlob]:
        """Give a place for bytes to come in; what is not kept by the end is gone."""
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        incoming = PendingBlob(Path(name), descriptor, self._most_bytes)
        try:
            yield incoming
        finally:
            incoming.discard()

    def path(self, content_hash: str) -> Path:
        """Return where the bytes of this hash are."""
        return self._kept / content_hash[:2] / content_hash

    async def keep(self, incoming: PendingBlob) -> None:
        """Put finished bytes in their place; call under the lock of their hash."""
        await asyncio.to_thread(self._keep, incoming)

    async def remove(self, content_hash: str) -> None:
        """Remove bytes that no file has any more; call under the lock of their hash."""
        await asyncio.to_thread(self.path(content_hash).unlink, missing_ok=True)

    def hashes(self) -> list[str]:
        """Return the hashes of all that is kept."""
        return [path.name for path in self._kept.glob("??/*")]

    def _remove_abandoned(self) -> None:
        """Remove what was coming in when a process died; others may be receiving, so only what is old."""
        for path in self._incoming.iterdir():
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink(missing_ok=True)

    def _keep(self, incoming: PendingBlob) -> None:
        place = self.path(incoming.content_hash)
        place.parent.mkdir(exist_ok=True, mode=0o700)
        incoming.path.replace(place)
        descriptor = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
