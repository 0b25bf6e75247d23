"""The queue of attachments in progress: shared fairly, each claimed by one living worker and finished once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.rag.documents.ingestion.worker_liveness import LIVING
from drw.rag.documents.storage import change_notifications

SMALL_BYTES = 64 << 10
"""A file of at most so many bytes is indexed together with others of its collection."""
MOST_TOGETHER = 32
CLAIMING = 0x646F63636C61696D  # "docclaim"
"""The lock under which jobs are chosen, by one worker at a time: each sees what the one before has taken."""
FROZEN_SECONDS = 10
"""After so long without a word from a worker that chooses, the database ends its turn: its process is frozen."""
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
    walls: Sequence[str]
    name: str
    content_hash: str
    trace: str
    """The traceparent of whoever ordered it."""
    attempts: int
    job: int
    worker: int

    @property
    def caller(self) -> Principal:
        """Whoever ordered it, for what the job needs and no more: inside the walls of what is made."""
        scopes = frozenset({"documents:read", "documents:write"})
        return Principal(self.org, self.desk, self.key, scopes, frozenset(self.walls))

    @property
    def fence(self) -> dict[str, int]:
        """What must still stand in the row."""
        return {"job": self.job, "worker": self.worker}


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a file in a collection, and which change of them this is."""

    values: Mapping[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class JobCounts:
    """What a job has made."""

    pages: int = 0
    chunks: int = 0
    bytes: int = 0
    warnings: Sequence[str] = ()
    """What could not be read."""


class JobQueue:
    """Gives jobs to workers: org after org and desk after desk, and a desk's in the order in which they came.

    One org never has all workers of the platform, unless there is one only: the next org need not wait for its files.
    """

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def claim(self, worker: int) -> list[Job]:
        """Return jobs that no living worker has, with one caller and collection; none where there are none.

        More than one are small files that nobody has tried yet: what stops a worker is then alone the next time.
        """
        async with self._database.transaction() as connection:
            await connection.execute(CHOOSE, (f"{FROZEN_SECONDS}s", CLAIMING))
            found = await connection.execute(CLAIM, {"worker": worker})
            if (row := await found.fetchone()) is None:
                return []
            first = _job(row)
            await connection.execute(TURN, (first.org, first.desk, first.org))
            if row["file_bytes"] > SMALL_BYTES or first.attempts > 1:
                return [first]
            alike = {"org": first.org, "desk": first.desk, "key": first.key, "collection": first.collection}
            bounds = {"walls": list(first.walls), "bytes": SMALL_BYTES, "limit": MOST_TOGETHER - 1}
            more = await connection.execute(CLAIM_MORE, {**alike, **bounds, "worker": worker})
            return [first, *sorted((_job(row) for row in await more.fetchall()), key=lambda job: job.job)]

    async def report(self, job: Job, counts: JobCounts) -> None:
        """Show how far the job is."""
        async with self._database.transaction() as connection:
            await connection.execute(REPORT, {"pages": counts.pages, "chunks": counts.chunks, **job.fence})
            await change_notifications.announce(connection)

    async def same_content(self, connection: Connection, job: Job) -> JobCounts | None:
        """Return what another file of the same content made in the same collection inside the same walls, or None.

        It stays as it is until the transaction ends.
        """
        found = await connection.execute(
            "select pages, chunks, bytes, warnings from attachment where org = %s and desk = %s and collection = %s"
            " and content_hash = %s and walls = %s"
            " and attributes = (select attributes from attachment where job = %s)"
            " and file <> %s and state = 'completed' and not unchanged limit 1 for share",
            (job.org, job.desk, job.collection, job.content_hash, list(job.walls), job.job, job.file),
        )
        row = await found.fetchone()
        return JobCounts(**row) if row else None

    async def is_ours(self, connection: Connection, job: Job) -> Attributes | None:
        """Return the attributes that the job's file has now, and keep it and them so until the transaction ends.

        None: the job is not ours any more.
        """
        found = await connection.execute(OURS, job.fence)
        row = await found.fetchone()
        return Attributes(row["attributes"], row["attributes_version"]) if row else None

    async def complete(self, connection: Connection, job: Job, counts: JobCounts, *, unchanged: bool) -> None:
        """Write that the job is done, in the transaction that asked `is_ours`."""
        made = {"pages": counts.pages, "chunks": counts.chunks}
        kept = {"bytes": counts.bytes, "unchanged": unchanged, "warnings": Jsonb(list(counts.warnings))}
        await connection.execute(COMPLETE, {**made, **kept, **job.fence})
        details = {"collection": job.collection, "sha256": job.content_hash, "unchanged": unchanged, **made}
        await self._audit.record("file.index", job.file, details=details, connection=connection)
        await change_notifications.announce(connection)

    async def fail(self, job: Job, code: str, reason: str) -> None:
        """Write why the job cannot be done."""
        async with self._database.transaction() as connection:
            if await self.is_ours(connection, job) is None:
                return
            await connection.execute(FAIL, {"code": code, "reason": reason, **job.fence})
            details = {"collection": job.collection, "sha256": job.content_hash, "code": code}
            await self._audit.record("file.index", job.file, outcome="failed", details=details, connection=connection)
            await change_notifications.announce(connection)

    async def put_off(self, job: Job) -> int:
        """Let the job go, to be tried again later; return in how many seconds: 1, 2, 4, ..., at most 60."""
        seconds: int = min(60, 2 ** (job.attempts - 1))
        async with self._database.transaction() as connection:
            await connection.execute(PUT_OFF, {"seconds": seconds, **job.fence})
        return seconds


def _job(row: Mapping[str, Any]) -> Job:
    return Job(**{name: row[name] for name in Job.__slots__})


CHOOSE = "select set_config('idle_in_transaction_session_timeout', %s, true), pg_advisory_xact_lock(%s)"
FREE = """
j.state = 'in_progress' and j.not_before <= now()
and (j.worker is null or j.worker not in (select number from living))
and not exists (  -- the same content in the same collection, one after the other
    select 1 from attachment e where e.org = j.org and e.desk = j.desk and e.collection = j.collection
    and e.content_hash = j.content_hash and e.walls = j.walls and e.state = 'in_progress' and e.job < j.job)
"""
CLAIM = f"""
with recursive living as materialized (select objid as number from ({LIVING}) as locks),
desks as (
    (select org, desk from attachment where state = 'in_progress' order by org, desk limit 1)
    union all
    select following.org, following.desk from desks cross join lateral (
        select a.org, a.desk from attachment a
        where a.state = 'in_progress' and (a.org, a.desk) > (desks.org, desks.desk) order by a.org, a.desk limit 1
    ) as following),
busy as (
    select org, count(distinct worker) as workers from attachment
    where state = 'in_progress' and worker is not null and worker in (select number from living) group by org),
chosen as (
    select free.job from desks
    left join busy using (org)
    left join turn as org_turn on org_turn.org = desks.org and org_turn.desk = ''
    left join turn as desk_turn on desk_turn.org = desks.org and desk_turn.desk = desks.desk
    cross join lateral (
        select j.job from attachment j where j.org = desks.org and j.desk = desks.desk and {FREE}
        order by j.job limit 1 for update skip locked) as free
    where coalesce(busy.workers, 0) < greatest(1, (select count(*) from living) - 1)
    order by coalesce(busy.workers, 0), org_turn.claimed_at nulls first, desk_turn.claimed_at nulls first, free.job
    limit 1)
update attachment a set worker = %(worker)s, attempts = attempts + 1, pages = 0, chunks = 0
from file f, chosen where f.id = a.file and a.job = chosen.job
returning a.*, f.name, f.bytes as file_bytes
"""  # noqa: S608 - constants
CLAIM_MORE = f"""
with living as materialized (select objid as number from ({LIVING}) as locks),
chosen as (
    select j.job from attachment j join file on file.id = j.file
    where j.org = %(org)s and j.desk = %(desk)s and j.key = %(key)s and j.collection = %(collection)s
    and j.walls = %(walls)s and j.attempts = 0 and file.bytes <= %(bytes)s and {FREE}
    order by j.job limit %(limit)s for update of j skip locked)
update attachment a set worker = %(worker)s, attempts = attempts + 1, pages = 0, chunks = 0
from file f, chosen where f.id = a.file and a.job = chosen.job
returning a.*, f.name
"""  # noqa: S608 - constants
TURN = """
insert into turn (org, desk, claimed_at) values (%s, %s, clock_timestamp()), (%s, '', clock_timestamp())
on conflict (org, desk) do update set claimed_at = excluded.claimed_at
"""
REPORT = "update attachment set pages = %(pages)s, chunks = %(chunks)s where job = %(job)s and worker = %(worker)s"
OURS = """
select attributes, attributes_version from attachment
where job = %(job)s and worker = %(worker)s and state = 'in_progress' for update
"""
COMPLETE = """
update attachment set state = 'completed', pages = %(pages)s, chunks = %(chunks)s, bytes = %(bytes)s,
    unchanged = %(unchanged)s, attributes_written = attributes_version, warnings = %(warnings)s, worker = null
where job = %(job)s and worker = %(worker)s
"""
FAIL = """
update attachment set state = 'failed', error_code = %(code)s, error = %(reason)s, pages = 0, chunks = 0, bytes = 0,
    worker = null where job = %(job)s and worker = %(worker)s
"""
PUT_OFF = """
update attachment set worker = null, not_before = now() + %(seconds)s * interval '1 second'
where job = %(job)s and worker = %(worker)s
"""
