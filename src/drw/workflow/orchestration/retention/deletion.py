"""Deletion of expired runs, in bounded batches, by the leader.

A run is deleted with its steps, approvals and child runs in one transaction, which also notes it in `deleted_run`. Its
rows in other stores follow, each deletion idempotent, and then the note is removed: a crash at any line loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drw.kernel.errors import DrwError
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.metrics import DELETED_RUNS
from drw.workflow.orchestration.runs import PLATFORM_DEFAULT

log = logging.getLogger(__name__)

Row = dict[str, Any]
PAGE_SIZE = 100
"""Runs that one transaction examines."""
MAX_BATCH = 1000
"""Runs that one transaction deletes with their child runs, unless one run alone has more."""
ACTOR = "retention"
"""The actor in the audit records of deletions."""

RETENTIONS = """
with recursive found (days) as (
    select min(retention_days) from run where ended_at is not null and parent is null
    union all
    select (select min(retention_days) from run where ended_at is not null and parent is null and retention_days > days)
    from found where days is not null
)
select days from found where days is not null
"""
"""The different retentions of runs, read by skipping through the index."""

PAGE = """
with recursive page as (
    select id, org, desk, walls, template_name, ended_at from run
    where retention_days = %(retention)s and parent is null and ended_at is not null
      and ended_at < now() - make_interval(days => %(days)s) and (ended_at, id) > (%(after)s, %(after_id)s)
    order by ended_at, id limit %(size)s
), tree (root, id) as (
    select id, id from page union all select tree.root, run.id from tree join run on run.parent = tree.id
)
select page.*, kept.runs, kept.is_kept from page join (
    select tree.root, count(*) as runs,
           bool_or(is_held(run.org, run.desk, run.template_name, run.id) or run.ended_at is null
                   or exists (select from outbox where outbox.run = run.id)) as is_kept
    from tree join run on run.id = tree.id group by tree.root
) kept on kept.root = page.id order by page.ended_at, page.id
"""
"""A page of expired runs, and whether one of a run and its descendants is held, open, or has unpublished events."""

DELETE = """
with recursive tree (id) as (
    select unnest(%(roots)s::text[]) union all select run.id from tree join run on run.parent = tree.id
), noted as (
    insert into deleted_run (run, org, desk) select run.id, run.org, run.desk from tree join run on run.id = tree.id
    on conflict do nothing
)
delete from run where id = any(%(roots)s)
"""
"""Children follow their parents by the foreign key."""

OLD_DELEGATIONS = """
delete from delegation where id in (
    select id from delegation
    where run is null and coalesce(ended_at, expires_at) < now() - interval '30 days' limit 1000
) returning id
"""


@dataclass(frozen=True, slots=True)
class DeletedRun:
    """A run whose rows in other stores are to be deleted."""

    id: str
    org: str
    desk: str


Forget = Callable[[Sequence[DeletedRun]], Awaitable[None]]
"""Deletes the rows of another store, after those of the runs themselves. It is called again after a crash."""


class RunDeletion:
    """Deletes expired runs. `default_days` is the retention of templates that set none; 0: never."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        default_days: int,
        interval_seconds: float,
        forget: Sequence[Forget],
    ) -> None:
        self._database = database
        self._audit = audit
        self._default_days = default_days
        self._interval_seconds = interval_seconds
        self._forget = forget
        self.error_message = ""
        """The error of the last sweep, or an empty string."""

    async def run(self) -> None:
        """Delete until cancelled. An error never ends the leadership; the next sweep continues."""
        while True:
            try:
                await self.sweep()
                self.error_message = ""
            except DrwError as error:
                self.error_message = error.message
                log.warning("cannot delete expired runs: %s", error.message)
            await asyncio.sleep(self._interval_seconds)

    async def sweep(self) -> int:
        """Delete all runs that have expired; return their number, without child runs."""
        await self._finish()
        deleted = 0
        for row in await self._database.all(RETENTIONS):
            if days := self._default_days if row["days"] == PLATFORM_DEFAULT else row["days"]:
                deleted += await self._sweep_retention(row["days"], days)
        await self._database.all(OLD_DELEGATIONS)
        return deleted

    async def _sweep_retention(self, retention: int, days: int) -> int:
        deleted = 0
        last: Row | None = {"ended_at": "-infinity", "id": ""}
        while last is not None:
            number, last = await self._delete_page(retention, days, last)
            deleted += number
            await self._finish()
        return deleted

    async def _delete_page(self, retention: int, days: int, after: Row) -> tuple[int, Row | None]:
        """Delete the runs of a page that nothing keeps; return their number, and the last one of the page."""
        parameters = {
            "retention": retention,
            "days": days,
            "after": after["ended_at"],
            "after_id": after["id"],
            "size": PAGE_SIZE,
        }
        async with self._database.transaction() as connection:
            # Hold placement waits: it acknowledges no hold of a run that this transaction deletes.
            await connection.execute("lock table hold in share mode")
            rows = await (await connection.execute(PAGE, parameters)).fetchall()
            examined = _batch(rows)
            expired = [row for row in examined if not row["is_kept"]]
            if expired:
                await connection.execute(DELETE, {"roots": [row["id"] for row in expired]})
                await self._record(connection, expired, days)
        DELETED_RUNS.inc(sum(row["runs"] for row in expired))
        is_last = len(examined) == len(rows) < PAGE_SIZE
        return len(expired), None if is_last else examined[-1]

    async def _record(self, connection: Connection, rows: Sequence[Row], days: int) -> None:
        lines = []
        for row in rows:
            details = {
                "template": row["template_name"],
                "ended_at": row["ended_at"].isoformat(),
                "retention_days": days,
                "runs": row["runs"],
            }
            owner = Principal(row["org"], row["desk"], ACTOR, walls=frozenset(row["walls"]))
            with context.acting_for(owner):
                lines.append(self._audit.line("run.delete", row["id"], "ok", details))
        await self._audit.write(lines, connection)

    async def _finish(self) -> None:
        """Delete the rows of deleted runs in other stores."""
        while rows := await self._database.all(
            "select run, org, desk from deleted_run order by at limit %s", MAX_BATCH
        ):
            runs = [DeletedRun(row["run"], row["org"], row["desk"]) for row in rows]
            for forget in self._forget:
                await forget(runs)
            await self._database.all(
                "delete from deleted_run where run = any(%s) returning run", [run.id for run in runs]
            )


def _batch(rows: Sequence[Row]) -> list[Row]:
    """Return the first runs that have at most `MAX_BATCH` runs with their child runs, and at least one."""
    batch: list[Row] = []
    total = 0
    for row in rows:
        total += row["runs"]
        if batch and total > MAX_BATCH:
            break
        batch.append(row)
    return batch
