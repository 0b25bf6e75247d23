"""Job queue of indexing: fair between orgs and desks; a job has one owner at a time and is completed once.

A job is a row of `vector_store_file` in the state `in_progress`. A worker claims it in a short transaction, with a new
lease number. While the worker extends its worker lease, no other worker can claim the job. Only the owner of the newest
lease number can finish it: the updates of a former owner match no row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from drw.api.events.v1.documents_pb2 import DocumentIndexed
from drw.events.publisher import Publisher
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.kernel.tenancy import Owner
from drw.rag.documents.ingestion.worker_lease import LIVE_WORKERS
from drw.rag.documents.storage import deletions
from drw.rag.documents.storage.deletions import FILES_CHANGED

EVENTS = Publisher("documents")
SMALL_FILE_BYTES = 64 << 10
"""Files of at most this size are indexed in batches."""
MAX_JOBS_PER_CLAIM = 32
CLAIM_LOCK = 0x646F63636C61696D
"""The advisory lock "docclaim": it serialises claims, so each claim sees the previous ones."""
IDLE_TRANSACTION_SECONDS = 10
"""PostgreSQL ends a transaction that is idle for longer: the process of its worker is frozen."""
MAX_ATTEMPTS = 8
"""Interruptions and failures of other services before a job fails: then the file is the likely cause."""
MAX_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. Updates apply only while the row has the same `job` and `lease`."""

    org: str
    desk: str
    key: str
    collection: str
    file: str
    walls: Sequence[str]
    name: str
    content_hash: str
    trace: str
    """The traceparent of the request that created the job."""
    event_depth: int
    """How many runs that an event started led to that request, one by another."""
    attempts: int
    job: int
    lease: int
    """The fencing token of the claim, also in the vector store: later claims and deletions have higher ones."""

    @property
    def caller(self) -> Principal:
        """The caller who created the job, with the scopes that indexing needs and the walls of the document."""
        scopes = frozenset({"documents:read", "documents:write"})
        return Principal(self.org, self.desk, self.key, scopes, frozenset(self.walls))

    @property
    def fence(self) -> dict[str, int]:
        """The parameters of `OWNED`."""
        return {"job": self.job, "lease": self.lease}


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a file in a collection, with their version."""

    values: Mapping[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The counts and warnings of an indexed file."""

    pages: int = 0
    chunks: int = 0
    bytes: int = 0
    warnings: Sequence[str] = ()
    """Parts of the file that were not read."""


class JobQueue:
    """Assigns jobs to workers: round robin over orgs, then over the desks of an org, then in the order of creation.

    With several workers, one org never uses all of them: another org does not wait for its files.
    """

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def claim(self, worker: int) -> list[Job]:
        """Claim jobs without a live owner, of one caller and collection; none if the worker has no lease.

        Several jobs are small files on their first attempt: a file that kills its worker is claimed alone afterwards.
        """
        async with self._transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (CLAIM_LOCK,))
            cursor = await connection.execute(CLAIM, {"worker": worker})
            if (row := await cursor.fetchone()) is None:
                return []
            first = _to_job(row)
            await connection.execute(RECORD_CLAIM, (first.org, first.desk, first.org))
            if row["file_bytes"] > SMALL_FILE_BYTES or first.attempts > 1:
                return [first]
            group = {"org": first.org, "desk": first.desk, "key": first.key, "collection": first.collection}
            bounds = {"walls": list(first.walls), "bytes": SMALL_FILE_BYTES, "limit": MAX_JOBS_PER_CLAIM - 1}
            cursor = await connection.execute(CLAIM_MORE, {**group, **bounds, "worker": worker})
            return [first, *sorted((_to_job(row) for row in await cursor.fetchall()), key=lambda job: job.job)]

    async def attributes(self, job: Job) -> Attributes | None:
        """Return the current attributes of the file of a job; None if the job has another owner or is finished."""
        row = await self._database.one(
            "select attributes, attributes_version from vector_store_file"
            " where job = %s and lease = %s and state = 'in_progress'",
            *(job.job, job.lease),
        )
        return _to_attributes(row) if row else None

    async def report_progress(self, job: Job, counts: JobCounts) -> None:
        """Record the progress of a job."""
        async with self._transaction() as connection:
            await connection.execute(REPORT_PROGRESS, {"pages": counts.pages, "chunks": counts.chunks, **job.fence})
            await notify(connection, FILES_CHANGED)

    async def complete(self, job: Job, counts: JobCounts, version: int) -> Attributes | None:
        """Complete a job whose document is in the vector store with a version of the attributes.

        Returns:
            Newer attributes, which the document must get first; None if the job is completed or has another owner.
        """
        async with self._transaction() as connection:
            if (current := await self._lock(connection, job)) is None:
                return None
            if current.version > version:
                return current
            await self._complete(connection, job, counts, unchanged=False)
            return None

    async def complete_unchanged(self, job: Job) -> bool:
        """Complete a job if the collection already has a file with the same content, walls and attributes.

        Returns:
            Whether the job is completed or has another owner.
        """
        async with self._transaction() as connection:
            if await self._lock(connection, job) is None:
                return True
            # Shared lock: the deletion of the other file waits, and then puts this one in progress again.
            cursor = await connection.execute(
                "select pages, chunks, bytes, warnings from vector_store_file where org = %s and desk = %s"
                " and collection = %s and content_hash = %s and walls = %s"
                " and attributes = (select attributes from vector_store_file where job = %s)"
                " and file <> %s and state = 'completed' and not unchanged limit 1 for share",
                (job.org, job.desk, job.collection, job.content_hash, list(job.walls), job.job, job.file),
            )
            if (row := await cursor.fetchone()) is None:
                return False
            await self._complete(connection, job, JobCounts(**row), unchanged=True)
            return True

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Fail a job with an error; delete the document that an earlier attempt may have written."""
        async with self._transaction() as connection:
            if await self._lock(connection, job) is None:
                return
            await connection.execute(FAIL, {"code": code, "reason": reason, **job.fence})
            if job.attempts > 1:
                await deletions.enqueue(connection, job.caller, "", job.collection, job.file, job.walls)
            details = {"collection": job.collection, "sha256": job.content_hash, "code": code}
            await self._audit.record("file.index", job.file, outcome="failed", details=details, connection=connection)
            await notify(connection, FILES_CHANGED)

    async def release(self, job: Job) -> int:
        """Release a job for a retry; return the delay in seconds: 1, 2, 4, ... up to 60."""
        seconds: int = min(MAX_RETRY_SECONDS, 2 ** (job.attempts - 1))
        async with self._transaction() as connection:
            await connection.execute(RELEASE, {"seconds": seconds, **job.fence})
        return seconds

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that PostgreSQL ends if this process freezes in it: its locks would block others."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "select set_config('idle_in_transaction_session_timeout', %s, true)", (f"{IDLE_TRANSACTION_SECONDS}s",)
            )
            yield connection

    async def _lock(self, connection: Connection, job: Job) -> Attributes | None:
        cursor = await connection.execute(LOCK_OWNED, job.fence)
        row = await cursor.fetchone()
        return _to_attributes(row) if row else None

    async def _complete(self, connection: Connection, job: Job, counts: JobCounts, *, unchanged: bool) -> None:
        result = {"pages": counts.pages, "chunks": counts.chunks}
        stored = {"bytes": counts.bytes, "unchanged": unchanged, "warnings": Jsonb(list(counts.warnings))}
        await connection.execute(COMPLETE, {**result, **stored, **job.fence})
        details = {"collection": job.collection, "sha256": job.content_hash, "unchanged": unchanged, **result}
        await self._audit.record("file.index", job.file, details=details, connection=connection)
        event = DocumentIndexed(
            file=job.file, collection=job.collection, content_hash=job.content_hash, unchanged=unchanged, **result
        )
        resource = f"file/{job.file}"
        owner = Owner(job.org, job.desk)
        await EVENTS.publish(connection, event, resource, owner, walls=job.walls, depth=job.event_depth)
        await notify(connection, FILES_CHANGED)


def _to_job(row: Mapping[str, Any]) -> Job:
    return Job(**{name: row[name] for name in Job.__slots__})


def _to_attributes(row: Mapping[str, Any]) -> Attributes:
    return Attributes(row["attributes"], row["attributes_version"])


CLAIMABLE = """
j.state = 'in_progress' and j.not_before <= now()
and (j.worker is null or j.worker not in (select number from live))
and not exists (  -- of files with the same content in the same collection, one at a time
    select 1 from vector_store_file e where e.org = j.org and e.desk = j.desk and e.collection = j.collection
    and e.content_hash = j.content_hash and e.walls = j.walls and e.state = 'in_progress' and e.job <> j.job
    and (e.job < j.job or e.worker in (select number from live)))
"""
ASSIGN = """
update vector_store_file a set worker = %(worker)s, lease = nextval('job'), attempts = attempts + 1, pages = 0,
    chunks = 0
from file f, chosen where f.id = a.file and a.job = chosen.job
returning a.*, f.name, f.bytes as file_bytes
"""
CLAIM = f"""
with recursive live as materialized ({LIVE_WORKERS}),
desks as (
    (select org, desk from vector_store_file where state = 'in_progress' order by org, desk limit 1)
    union all
    select following.org, following.desk from desks cross join lateral (
        select a.org, a.desk from vector_store_file a
        where a.state = 'in_progress' and (a.org, a.desk) > (desks.org, desks.desk) order by a.org, a.desk limit 1
    ) as following),
busy as (
    select org, count(distinct worker) as workers from vector_store_file
    where state = 'in_progress' and worker is not null and worker in (select number from live) group by org),
chosen as (
    select free.job from desks
    left join busy using (org)
    left join last_claim as org_claim on org_claim.org = desks.org and org_claim.desk = ''
    left join last_claim as desk_claim on desk_claim.org = desks.org and desk_claim.desk = desks.desk
    cross join lateral (
        select j.job from vector_store_file j where j.org = desks.org and j.desk = desks.desk and {CLAIMABLE}
        order by j.job limit 1 for update skip locked) as free
    where %(worker)s in (select number from live)
    and coalesce(busy.workers, 0) < greatest(1, (select count(*) from live) - 1)
    order by coalesce(busy.workers, 0), org_claim.claimed_at nulls first, desk_claim.claimed_at nulls first, free.job
    limit 1)
{ASSIGN}
"""  # noqa: S608 - constants
CLAIM_MORE = f"""
with live as materialized ({LIVE_WORKERS}),
chosen as (
    select j.job from vector_store_file j join file on file.id = j.file
    where j.org = %(org)s and j.desk = %(desk)s and j.key = %(key)s and j.collection = %(collection)s
    and j.walls = %(walls)s and j.attempts = 0 and file.bytes <= %(bytes)s and {CLAIMABLE}
    order by j.job limit %(limit)s for update of j skip locked)
{ASSIGN}
"""  # noqa: S608 - constants
RECORD_CLAIM = """
insert into last_claim (org, desk, claimed_at) values (%s, %s, clock_timestamp()), (%s, '', clock_timestamp())
on conflict (org, desk) do update set claimed_at = excluded.claimed_at
"""
OWNED = "where job = %(job)s and lease = %(lease)s and state = 'in_progress'"
LOCK_OWNED = f"select attributes, attributes_version from vector_store_file {OWNED} for update"  # noqa: S608
REPORT_PROGRESS = f"update vector_store_file set pages = %(pages)s, chunks = %(chunks)s {OWNED}"  # noqa: S608
COMPLETE = f"""
update vector_store_file set state = 'completed', pages = %(pages)s, chunks = %(chunks)s, bytes = %(bytes)s,
    unchanged = %(unchanged)s, attributes_written = attributes_version, warnings = %(warnings)s, worker = null {OWNED}
"""  # noqa: S608
FAIL = f"""
update vector_store_file set state = 'failed', error_code = %(code)s, error = %(reason)s, pages = 0, chunks = 0,
    bytes = 0, worker = null {OWNED}
"""  # noqa: S608
RELEASE = f"""
update vector_store_file set worker = null, not_before = now() + %(seconds)s * interval '1 second' {OWNED}
"""  # noqa: S608
