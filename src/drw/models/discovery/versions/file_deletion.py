"""Deletion of the files of retired versions. The record of the version stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions.file_reader import FileReader
from drw.models.discovery.versions.file_store import FileStore
from drw.models.discovery.versions.store import VersionStore, by_key, lock, locked
from drw.routing import permits


class FilesInUse(Conflict):
    """An alias names the version, or a call can still use its files."""


class FileDeletion:
    """Deletes files of versions.

    Args:
        permit_seconds: how long after its retirement serving can still answer with a version.
    """

    def __init__(self, store: VersionStore, files: FileStore, reader: FileReader, permit_seconds: float) -> None:
        self._store = store
        self._files = files
        self._reader = reader
        self._permit_seconds = permit_seconds

    async def delete(self, name: str, reason: str) -> Row:
        """Delete the files of a version that no other version has; deleted ones stay deleted.

        Raises:
            VersionNotFound: the caller sees no such version of its org.
            InvalidRequest: the version has no files here.
            Conflict: it is not retired.
            FilesInUse: an alias names it, or a call can still use its files.
        """
        principal = context.caller()
        async with self._store.database.transaction() as connection:
            # A registration of the same files waits, and then asks for them again.
            await lock(connection, f"versions/{principal.org}")
            row = await locked(connection, principal, name)
            if row["files_deleted_at"] is not None:
                return row
            cursor = await connection.execute("select sha256 from version_file where version = %s", (row["key"],))
            digests = [file["sha256"] for file in await cursor.fetchall()]
            if not digests:
                raise InvalidRequest(f"{row['id']!r} has no uploaded files", param="id")
            await self._check_unused(connection, row, digests)
            await connection.execute("update version_file set stored = null where version = %s", (row["key"],))
            await connection.execute(
                "update version set files_deleted_at = clock_timestamp(), files_deleted_by = %s where key = %s",
                (principal.key, row["key"]),
            )
            signature = row["metadata"].get("signature_sha256")
            removed = await self._files.remove(connection, row["org"], [*digests, *filter(None, [signature])])
            details = {"reason": reason, "files": len(digests), "bytes": removed}
            await self._store.record(connection, "delete_files", row, details)
            return await by_key(connection, row["key"])

    async def _check_unused(self, connection: Connection, row: Row, digests: list[str]) -> None:
        if row["retired_at"] is None:
            raise Conflict(f"{row['id']!r} is not retired: run `drw models retire` first", param="id")
        cursor = await connection.execute("select name from alias where version = %s order by name", (row["key"],))
        if names := [alias["name"] for alias in await cursor.fetchall()]:
            message = f"the alias {names[0]!r} names {row['id']!r}: promote another version or roll back first"
            raise FilesInUse(message, param="id")
        until = row["retired_at"] + timedelta(seconds=self._permit_seconds)
        if datetime.fromtimestamp(permits.now(), UTC) < until:
            message = f"calls can use {row['id']!r} until {until:%Y-%m-%d %H:%M:%S} UTC (the setting permit_seconds)"
            raise FilesInUse(message, param="id")
        if self._reader.is_read(row["org"], digests):
            raise FilesInUse(f"a file of {row['id']!r} is being read: try again", param="id")
