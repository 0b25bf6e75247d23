"""Uploaded model files on disk, content-addressed, one folder per org.

An upload is written to a temporary file, hashed while it arrives, synced, and renamed to its SHA-256. The rows of
`model_file` say which files an org has; a file without a row is an upload that failed half-way, and is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from drw.kernel.errors import InvalidRequest, NotFound, TooLarge, Unavailable
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.models.discovery.versions.store import lock

log = logging.getLogger(__name__)

BLOCK = 1 << 20
MAX_UPLOAD_SECONDS = 24 * 3600
"""An older temporary file was left by a process that died."""
UNUSED_SECONDS = 24 * 3600.0
"""Files that no version uses are removed after this time."""
CLEAN_SECONDS = 3600.0
BATCH = 100


class FileMissing(NotFound):
    """The org has not uploaded this file."""

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"the org has not uploaded a file with the SHA-256 {sha256}: PUT it to /api/v1/model-files/{sha256}",
            param="files",
        )


class PendingFile:
    """A file that is being uploaded."""

    def __init__(self, descriptor: int, path: Path, max_bytes: int) -> None:
        self.path = path
        self.size = 0
        self._file = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        self._max_bytes = max_bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the received bytes."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Write the next bytes. Blocks.

        Raises:
            TooLarge: there are more bytes than permitted.
            Unavailable: the disk is full.
        """
        self.size += len(data)
        if self.size > self._max_bytes:
            raise TooLarge(f"the file has more than {self._max_bytes:,} bytes (the setting max_file_bytes)")
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise Unavailable(f"the file cannot be stored: {error.strerror}") from error

    def finish(self) -> None:
        """Sync the bytes to disk. Blocks."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise Unavailable(f"the file cannot be stored: {error.strerror}") from error

    def discard(self) -> None:
        """Delete the temporary file, unless it was moved."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """The files of all orgs.

    Args:
        folder: the data folder of the service.
        max_file_bytes: the maximum size of one file.
        max_org_bytes: the maximum size of all files of an org.
    """

    def __init__(
        self, database: Database, audit: AuditWriter, folder: Path, max_file_bytes: int, max_org_bytes: int
    ) -> None:
        self._database = database
        self._audit = audit
        self.max_file_bytes = max_file_bytes
        self._max_org_bytes = max_org_bytes
        self._stored = folder / "files"
        self._incoming = folder / "incoming"
        for path in (self._stored, self._incoming):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, org: str, sha256: str) -> Path:
        """Return the path of a file of an org."""
        return self._folder(org) / sha256[:2] / sha256

    def _folder(self, org: str) -> Path:
        return self._stored / hashlib.sha256(org.encode()).hexdigest()[:32]

    async def size(self, org: str, sha256: str) -> int | None:
        """Return the size of a file of an org; None: the org has not uploaded it, or it is damaged."""
        row = await self._database.one("select size from model_file where org = %s and sha256 = %s", org, sha256)
        if row is None or not self._is_whole(org, sha256, row["size"]):
            return None
        return int(row["size"])

    async def check_quota(self, org: str, size: int) -> None:
        """Check that an org may store this many bytes more.

        Raises:
            TooLarge: the files of the org would exceed their maximum.
        """
        async with self._database.transaction() as connection:
            await self._check_quota(connection, org, size)

    @contextmanager
    def receiving(self) -> Iterator[PendingFile]:
        """Open a temporary file; delete it at the end of the block unless it was stored."""
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        pending = PendingFile(descriptor, Path(name), self.max_file_bytes)
        try:
            yield pending
        finally:
            pending.discard()

    async def store(self, org: str, sha256: str, pending: PendingFile) -> None:
        """Store an uploaded file. The same file can be stored several times, also at once.

        Raises:
            InvalidRequest: the bytes have another SHA-256, or there are none.
            TooLarge: the files of the org exceed their maximum.
        """
        if not pending.size:
            raise InvalidRequest("the file is empty")
        if pending.sha256 != sha256:
            raise InvalidRequest(f"the received bytes have the SHA-256 {pending.sha256}, not {sha256}: upload again")
        await asyncio.to_thread(pending.finish)
        async with self._database.transaction() as connection:
            await lock(connection, f"files/{org}")
            row = await (
                await connection.execute(
                    "select size from model_file where org = %s and sha256 = %s for update", (org, sha256)
                )
            ).fetchone()
            if row is None:
                await self._check_quota(connection, org, pending.size)
                await self._audit.record(
                    "model_file.upload",
                    f"model_file/{sha256}",
                    details={"size": pending.size},
                    connection=connection,
                )
            await connection.execute(
                "insert into model_file (org, sha256, size) values (%s, %s, %s)"
                " on conflict (org, sha256) do update set uploaded_at = now()",
                (org, sha256, pending.size),
            )
            # Before the commit: a row always has its file. A file without a row is removed later.
            await asyncio.to_thread(self._move, pending.path, self.path(org, sha256))

    async def read(self, path: Path, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a stored file in blocks.

        Raises:
            Unavailable: the file cannot be read.
        """
        try:
            with await asyncio.to_thread(path.open, "rb") as file:
                await asyncio.to_thread(file.seek, offset)
                while block := await asyncio.to_thread(file.read, BLOCK):
                    yield block
        except OSError as error:
            raise Unavailable(f"a model file cannot be read: {error.strerror}") from error

    async def clean(self) -> None:
        """Remove unused files periodically."""
        while True:
            await self.remove_unused(UNUSED_SECONDS)
            await asyncio.sleep(CLEAN_SECONDS)

    async def remove_unused(self, seconds: float) -> None:
        """Remove files that no version has used for this time, and temporary files of dead processes."""
        while await self._remove_batch(seconds) == BATCH:
            pass
        await asyncio.to_thread(self._remove_temporary)
        rows = await self._database.all("select distinct org from model_file")
        orgs = {self._folder(row["org"]).name: row["org"] for row in rows}
        for folder in await asyncio.to_thread(lambda: list(self._stored.iterdir())):
            await self._remove_without_row(folder, orgs.get(folder.name, ""), seconds)

    async def _remove_without_row(self, folder: Path, org: str, seconds: float) -> None:
        """Remove old files without a row, which failed uploads left."""
        async with self._database.transaction() as connection:
            await lock(connection, f"files/{org}")
            cursor = await connection.execute("select sha256 from model_file where org = %s", (org,))
            known = {row["sha256"] for row in await cursor.fetchall()}
            await asyncio.to_thread(_remove_old, folder, known, seconds)

    async def _remove_batch(self, seconds: float) -> int:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                """
                delete from model_file where (org, sha256) in (
                    select org, sha256 from model_file
                    where uploaded_at < now() - make_interval(secs => %s)
                        and is_unused(org, sha256)
                    order by uploaded_at limit %s for update skip locked
                ) returning org, sha256
                """,
                (seconds, BATCH),
            )
            rows = await cursor.fetchall()
            for row in rows:  # the rows are locked until the commit, so that no upload stores the file again meanwhile
                await asyncio.to_thread(self.path(row["org"], row["sha256"]).unlink, missing_ok=True)
        return len(rows)

    async def remove(self, connection: Connection, org: str, digests: Sequence[str]) -> int:
        """Remove those of the files that no version has; return their bytes. The caller commits."""
        await lock(connection, f"files/{org}")
        cursor = await connection.execute(
            "delete from model_file where org = %s and sha256 = any(%s) and is_unused(org, sha256)"
            " returning sha256, size",
            (org, list(digests)),
        )
        rows = await cursor.fetchall()
        for row in rows:  # before the commit, as in `_remove_batch`: no upload stores the file again meanwhile
            await asyncio.to_thread(self.path(org, row["sha256"]).unlink, missing_ok=True)
        return sum(row["size"] for row in rows)

    def _remove_temporary(self) -> None:
        for path in self._incoming.iterdir():
            try:
                if time.time() - path.stat().st_mtime > MAX_UPLOAD_SECONDS:
                    path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error.strerror)

    async def _check_quota(self, connection: Connection, org: str, size: int) -> None:
        row = await (
            await connection.execute("select coalesce(sum(size), 0) as n from model_file where org = %s", (org,))
        ).fetchone()
        used = int(row["n"]) if row else 0
        if used + size > self._max_org_bytes:
            raise TooLarge(
                f"the model files of the org have {used:,} bytes; with {size:,} more they exceed the maximum of "
                f"{self._max_org_bytes:,} (the setting max_org_bytes)"
            )

    def _is_whole(self, org: str, sha256: str, size: int) -> bool:
        try:
            return self.path(org, sha256).stat().st_size == size
        except OSError:
            return False

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        source.chmod(0o400)
        source.replace(target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_old(folder: Path, known: set[str], seconds: float) -> None:
    for path in folder.glob("??/*"):
        if path.name not in known and time.time() - path.stat().st_mtime >= seconds:
            path.unlink(missing_ok=True)
