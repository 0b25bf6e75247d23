"""The queue of attachments in progress: each is claimed by one living worker, and finished once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from drw.kernel.audit import AuditWriter
from drw.kernel.call import Caller
from drw.kernel.database import Connection, Database
from drw.rag.documents import changes
from drw.rag.documents.presence import LIVING

MOST_ATTEMPTS = 8
"""So often may a job be interrupted or put off; then the file, or its collection, is what stops it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One claimed job. `job` and `worker` are its fence: with others in the row, it is somebody else's."""

    org: str
    desk: str
    key: str
    collection: str
    file: str
    name: str
    content_hash: str
    attributes: Mapping[str, Any]
    trace: str
    """The traceparent of whoever ordered it."""
    attempts: int
    job: int
    worker: int

    @property
    def caller(self) -> Caller:
        """Whoever ordered it, for what the job needs and no more."""
        return Caller(self.org, self.desk, self.key, frozenset({"documents:read", "documents:write"}))

    @property
    def fence(self) -> dict[str, int]:
        """What must still stand in the row."""
        return {"job": self.job, "worker": self.worker}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a job has made."""

    pages: int = 0
    chunks: int = 0
    bytes: int = 0
    warnings: Sequence[str] = ()
    """What could not be read."""


class Jobs:
    """Gives jobs to workers, in the order in which they were ordered."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def claim(self, worker: int) -> Job | None:
        """Return the next job that no living worker has, or None."""
        async with self._database.transaction() as connection:
            found = await connection.execute(CLAIM, {"worker": worker})
            row = await found.fetchone()
        return Job(**{name: row[name] for name in Job.__slots__}) if row else None

    async def report(self, job: Job, counts: Counts) -> None:
        """Show how far the job is."""
        async with self._database.transaction() as connection:
            await connection.execute(REPORT, {"pages": counts.pages, "chunks": counts.chunks, **job.fence})
            await changes.announce(connection)

    async def same_content(self, job: Job) -> Counts | None:
        """Return what another file of the same content made in the same collection, or None."""
        row = await self._database.one(
            "select pages, chunks, bytes, warnings from attachment where org = %s and desk = %s and collection = %s"
            " and content_hash = %s and attributes = (select attributes from attachment where job = %s)"
            " and file <> %s and state = 'completed' and not unchanged",
            *(job.org, job.desk, job.collection, job.content_hash, job.job, job.file),
        )
        return Counts(**row) if row else None

    async def is_ours(self, connection: Connection, job: Job) -> bool:
        """Say whether the job is still ours, and keep it so until the transaction ends."""
        found = await connection.execute(OURS, job.fence)
        return await found.fetchone() is not None

    async def complete(self, connection: Connection, job: Job, counts: Counts, *, unchanged: bool) -> None:
        """Write that the job is done, in the transaction that asked `is_ours`."""
        made = {"pages": counts.pages, "chunks": counts.chunks}
        kept = {"bytes": counts.bytes, "unchanged": unchanged, "warnings": Jsonb(list(counts.warnings))}
        await connection.execute(COMPLETE, {**made, **kept, **job.fence})
        details = {"collection": job.collection, "sha256": job.content_hash, "unchanged": unchanged, **made}
        await self._audit.record("file.index", job.file, details=details, connection=connection)
        await changes.announce(connection)

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Write why the job cannot be done."""
        async with self._database.transaction() as connection:
            if not await self.is_ours(connection, job):
                return
            await connection.execute(FAIL, {"code": code, "reason": reason, **job.fence})
            details = {"collection": job.collection, "sha256": job.content_hash, "code": code}
            await self._audit.record("file.index", job.file, outcome="failed", details=details, connection=connection)
            await changes.announce(connection)

    async def put_off(self, job: Job) -> int:
        """Let the job go, to be tried again later; return in how many seconds: 1, 2, 4, ..., at most 60."""
        seconds: int = min(60, 2 ** (job.attempts - 1))
        async with self._database.transaction() as connection:
            await connection.execute(PUT_OFF, {"seconds": seconds, **job.fence})
        return seconds


CLAIM = f"""
update attachment a set worker = %(worker)s, attempts = attempts + 1, pages = 0, chunks = 0
from file f where f.id = a.file and a.job = (
    select j.job from attachment j
    where j.state = 'in_progress' and j.not_before <= now() and (j.worker is null or j.worker not in ({LIVING}))
    and not exists (  -- the same content in the same collection, one after the other
        select 1 from attachment e where e.org = j.org and e.desk = j.desk and e.collection = j.collection
        and e.content_hash = j.content_hash and e.state = 'in_progress' and e.job < j.job)
    order by j.job limit 1 for update skip locked)
returning a.*, f.name
"""  # noqa: S608 - a constant
REPORT = "update attachment set pages = %(pages)s, chunks = %(chunks)s where job = %(job)s and worker = %(worker)s"
OURS = "select 1 from attachment where job = %(job)s and worker = %(worker)s and state = 'in_progress' for update"
COMPLETE = """
update attachment set state = 'completed', pages = %(pages)s, chunks = %(chunks)s, bytes = %(bytes)s,
    unchanged = %(unchanged)s, warnings = %(warnings)s, worker = null where job = %(job)s and worker = %(worker)s
"""
FAIL = """
update attachment set state = 'failed', error_code = %(code)s, error = %(reason)s, pages = 0, chunks = 0, bytes = 0,
    worker = null where job = %(job)s and worker = %(worker)s
"""
PUT_OFF = """
update attachment set worker = null, not_before = now() + %(seconds)s * interval '1 second'
where job = %(job)s and worker = %(worker)s
"""
