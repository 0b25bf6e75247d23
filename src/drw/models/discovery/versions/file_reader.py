"""Reading of the files of versions by other services."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

from drw.kernel.errors import InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.models.discovery.versions.file_store import FileStore


class FileReader:
    """Streams stored files. A caller reads those of its org; a service without a caller, those of all orgs."""

    def __init__(self, files: FileStore, database: Database) -> None:
        self._files = files
        self._database = database
        self._reads: Counter[tuple[str, str]] = Counter()

    def is_read(self, org: str, digests: Iterable[str]) -> bool:
        """Return whether one of these files of an org is being read now."""
        return any(self._reads[org, sha256] for sha256 in digests)

    async def read(self, sha256: str, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file of a version from an offset on. A complete read is verified at its end.

        Raises:
            NotFound: no version of the caller's org has the file, or the caller is outside of its walls.
            InvalidRequest: the offset is beyond the end.
            Unavailable: the file cannot be read, or its content was changed.
        """
        principal = context.caller_or_none()
        row = await self._database.one(
            "select model_file.org, model_file.size from version_file"
            " join version on version.key = version_file.version"
            " join model_file on model_file.org = version_file.org and model_file.sha256 = version_file.stored"
            " where version_file.stored = %s and (%s or (version_file.org = %s and inside(version.walls, %s)))"
            " limit 1",
            *(sha256, principal is None, principal.org if principal else ""),
            sorted(principal.walls) if principal else [],
        )
        if row is None:
            raise NotFound(f"no version has a file with the SHA-256 {sha256}", param="sha256")
        if offset > row["size"]:
            raise InvalidRequest(f"offset is {offset}; the file has {row['size']} bytes", param="offset")
        hasher, size = hashlib.sha256(), offset
        with self._reading(row["org"], sha256):
            async with aclosing(self._files.read(self._files.path(row["org"], sha256), offset)) as blocks:
                async for block in blocks:
                    hasher.update(block)
                    size += len(block)
                    yield block
        if size != row["size"] or (not offset and hasher.hexdigest() != sha256):
            raise Unavailable(f"the stored file {sha256} is damaged: upload it again")

    @contextmanager
    def _reading(self, org: str, sha256: str) -> Iterator[None]:
        self._reads[org, sha256] += 1
        try:
            yield
        finally:
            self._reads[org, sha256] -= 1
            if not self._reads[org, sha256]:
                del self._reads[org, sha256]
