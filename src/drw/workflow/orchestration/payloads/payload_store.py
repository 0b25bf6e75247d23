"""Payload store: values of runs above 64 KiB, as blobs of a desk under their SHA-256.

The row of a payload is committed before its blob is written, so that no blob is without a row. Both change under the
lock of tenant and hash. Tenants never share a blob.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import orjson

from drw.kernel.errors import Conflict, InternalError, TooLarge, Unavailable
from drw.kernel.storage.blob_store import BlobStore
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb

MAX_INLINE_BYTES = 64 * 1024
"""Larger values are payloads."""
SWEEP_SECONDS = 600.0
BATCH_SIZE = 500

LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
PUT = """
insert into payload (run, sha256, org, desk, bytes) values (%s, %s, %s, %s, %s) on conflict do nothing
"""
USED = """
select coalesce(sum(bytes) filter (where run = %s), 0)::bigint as run, coalesce(sum(bytes), 0)::bigint as desk
from payload where org = %s and desk = %s
"""
KEPT = """
select distinct payload.sha256 from step join payload on payload.sha256 = step.output_payload->>'sha256'
where step.run = %(run)s and payload.run = %(old_run)s order by 1
"""
SHARE = """
insert into payload (run, sha256, org, desk, bytes)
select %(run)s, sha256, org, desk, bytes from payload where run = %(old_run)s and sha256 = any(%(hashes)s)
on conflict do nothing
"""
MISSING = """
select step.id from step where run = %s and output_payload is not null and not exists (
    select from payload where payload.run = step.run and payload.sha256 = step.output_payload->>'sha256') limit 1
"""
WITHOUT_RUN = """
select run, sha256, org, desk from payload
where created_at < clock_timestamp() - interval '1 hour' and not exists (select from run where run.id = payload.run)
limit %s
"""

Reference = Mapping[str, Any]
"""`sha256` in hex, and `bytes`."""


class Owner(Protocol):
    """The tenant of a run."""

    @property
    def org(self) -> str:
        """The org."""

    @property
    def desk(self) -> str:
        """The desk."""


class PayloadDamaged(InternalError):
    """The blob of a payload is missing, or differs from its hash."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum bytes of one payload, and of all payloads of a run and of a desk."""

    value: int
    run: int
    desk: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A value as the columns of a row: its JSON, or the reference to a payload."""

    inline: str | None
    reference: Jsonb | None = None


class PayloadStore:
    """The table `payload` and the blobs."""

    def __init__(self, database: Database, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self._database = database
        self._folder = folder
        self._blobs = lru_cache(maxsize=1000)(self._open_blobs)

    async def check(self, owner: Owner, run: str, size: int) -> None:
        """Check that a run can have another value of this size, in bytes.

        Raises:
            TooLarge: the value, or all payloads of the run or of the desk, exceed the maximum.
        """
        if size <= MAX_INLINE_BYTES:
            return
        if size > self.limits.value:
            raise TooLarge(f"the value has {size} bytes; at most {self.limits.value}: write a file and return its id")
        used = await self._database.one(USED, run, owner.org, owner.desk) or {"run": 0, "desk": 0}
        if used["run"] + size > self.limits.run:
            raise TooLarge(f"the payloads of the run would have {used['run'] + size} bytes; at most {self.limits.run}")
        if used["desk"] + size > self.limits.desk:
            raise TooLarge(
                f"the payloads of the desk {owner.desk!r} would have {used['desk'] + size} bytes; at most"
                f" {self.limits.desk}: older runs must be deleted first"
            )

    async def store(self, owner: Owner, run: str, value_json: bytes) -> Stored:
        """Return a value as the columns of a row. A large one is durable as a payload of the run afterwards.

        Raises:
            Unavailable: the blob cannot be written.
        """
        if len(value_json) <= MAX_INLINE_BYTES:
            return Stored(value_json.decode())
        sha256 = hashlib.sha256(value_json).hexdigest()
        async with self._database.transaction() as connection:
            await _lock(connection, owner.org, owner.desk, sha256)
            await connection.execute(PUT, (run, sha256, owner.org, owner.desk, len(value_json)))
        blobs = self._blobs(owner.org, owner.desk)
        if await asyncio.to_thread(_read, blobs.path(sha256), sha256) is None:
            await _write(blobs, value_json)
        return Stored(None, Jsonb({"sha256": sha256, "bytes": len(value_json)}))

    async def load(self, owner: Owner, inline: Any, reference: Reference | None) -> Any:
        """Return the value of the columns of a row.

        Raises:
            PayloadDamaged: the blob is missing, or differs from its hash.
            Unavailable: the blob cannot be read.
        """
        return inline if reference is None else orjson.loads(await self._bytes(owner, reference["sha256"]))

    async def read(self, owner: Owner, run: str, sha256: str) -> bytes | None:
        """Return the JSON of a payload of a run, or None if the run has no such payload.

        Raises:
            PayloadDamaged, Unavailable: as `load`.
        """
        row = await self._database.one(
            "select bytes from payload where run = %s and sha256 = %s and org = %s and desk = %s",
            *(run, sha256, owner.org, owner.desk),
        )
        return None if row is None else await self._bytes(owner, sha256)

    async def keep(self, connection: Connection, owner: Owner, old_run: str, run: str) -> None:
        """Give a new run the payloads of the steps whose outputs it keeps, as part of a transaction.

        Raises:
            Conflict: the payloads of the old run are being deleted.
        """
        names = {"run": run, "old_run": old_run}
        hashes = [row["sha256"] for row in await (await connection.execute(KEPT, names)).fetchall()]
        for sha256 in hashes:  # sorted, so that two transactions never wait for each other
            await _lock(connection, owner.org, owner.desk, sha256)
        await connection.execute(SHARE, {**names, "hashes": hashes})
        if await (await connection.execute(MISSING, (run,))).fetchone():
            raise Conflict(f"the outputs of the run {old_run!r} were deleted: start without them")

    async def delete(self, runs: Sequence[str]) -> int:
        """Delete the payloads of runs, and the blobs that no other run of their desk uses; return their number.

        Idempotent: after a crash, call it again.

        Raises:
            Unavailable: a blob cannot be deleted.
        """
        return await self._delete(
            await self._database.all("select run, sha256, org, desk from payload where run = any(%s)", list(runs))
        )

    async def sweep(self) -> int:
        """Delete payloads whose run was deleted or never started; return their number."""
        return await self._delete(await self._database.all(WITHOUT_RUN, BATCH_SIZE))

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            while await self.sweep() == BATCH_SIZE:
                pass
            await asyncio.sleep(SWEEP_SECONDS)

    async def _delete(self, rows: Iterable[Mapping[str, Any]]) -> int:
        count = 0
        for row in rows:
            tenant = row["org"], row["desk"], row["sha256"]
            async with self._database.transaction() as connection:
                await _lock(connection, *tenant)
                await connection.execute(
                    "delete from payload where run = %s and sha256 = %s", (row["run"], row["sha256"])
                )
                used = await connection.execute(
                    "select from payload where org = %s and desk = %s and sha256 = %s limit 1", tenant
                )
                if not used.rowcount:
                    await self._remove(row)
            count += 1
        return count

    async def _remove(self, row: Mapping[str, Any]) -> None:
        try:
            await self._blobs(row["org"], row["desk"]).remove(row["sha256"])
        except OSError as error:
            raise Unavailable(f"a payload cannot be deleted: {error.strerror}") from error

    async def _bytes(self, owner: Owner, sha256: str) -> bytes:
        data = await asyncio.to_thread(_read, self._blobs(owner.org, owner.desk).path(sha256), sha256)
        if data is None:
            raise PayloadDamaged(f"the payload {sha256} is missing or damaged: run the step that wrote it again")
        return data

    def _open_blobs(self, org: str, desk: str) -> BlobStore:
        tenant = hashlib.sha256(orjson.dumps([org, desk])).hexdigest()[:32]
        return BlobStore(self._folder / tenant, self.limits.value)


async def _lock(connection: Connection, org: str, desk: str, sha256: str) -> None:
    await connection.execute(LOCK, (orjson.dumps([org, desk, sha256]).decode(),))


async def _write(blobs: BlobStore, data: bytes) -> None:
    with blobs.receiving() as blob:
        await asyncio.to_thread(blob.write, data)
        await blob.finish()
        try:
            await blobs.commit(blob)
        except OSError as error:
            raise Unavailable(f"a payload cannot be stored: {error.strerror}") from error


def _read(path: Path, sha256: str) -> bytes | None:
    """Return the bytes of a blob; None: it is missing, or differs from its hash."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"a payload cannot be read: {error.strerror}") from error
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
