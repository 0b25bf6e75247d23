"""The queue of redrives for workers. A worker claims a redrive; each change applies only while it owns the redrive.

The owner is a number with a lease. When a worker dies or freezes, another one claims its redrives and continues. What
the first one still writes matches no row, and a run that both start is the same run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.storage import worker_lease
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database

CHANNEL = "error_handling_redrive"
"""Notification channel for new redrives."""
WORKER_LOCKS = 0x726476
"""The class of the advisory locks: "rdv"."""
LIVE_WORKERS = worker_lease.live_workers(WORKER_LOCKS)
MAX_REASON = 500

CLAIM = f"""
update redrive set worker = %(worker)s
where id = (
    select id from redrive
    where state = 'ACTIVE' and (worker is null or worker not in ({LIVE_WORKERS})) and %(worker)s in ({LIVE_WORKERS})
    order by (select count(*) from redrive other
              where other.state = 'ACTIVE' and other.worker is not null and other.org = redrive.org), created_at
    limit 1 for update skip locked
)
returning *
"""  # noqa: S608 - constants
PUT_BACK = """
with item as (
    update redrive_item set state = 'PUT_BACK'
    where redrive = %(redrive)s and state = 'WAITING' and (%(group)s::text is null or group_id = %(group)s)
    returning letter
)
update dead_letter set state = 'OPEN', redrive_error = %(error)s
where number in (select letter from item) and state = 'REDRIVING'
"""


class OwnershipLost(Exception):
    """The redrive has ended, or another worker owns it."""


@dataclass(frozen=True, slots=True)
class Redrive:
    """A claimed redrive."""

    id: str
    worker: int
    caller: Principal
    runs_per_minute: int
    inputs: dict[str, Any]
    template_version: str
    from_step: str


@dataclass(frozen=True, slots=True)
class Item:
    """The next letter of a redrive."""

    letter: int
    group: str
    run: str
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """The running probe of a group."""

    group: str
    run: str
    overdue: bool


NEXT = """
select grp.group_id, grp.state, grp.probe_run, clock_timestamp() > grp.probe_deadline as overdue,
       item.letter, dead_letter.run
from redrive_group grp
left join lateral (
    select letter from redrive_item item
    where item.redrive = grp.redrive and item.group_id = grp.group_id and item.state = 'WAITING'
    order by letter limit 1
) item on grp.state <> 'PROBING'
left join dead_letter on dead_letter.number = item.letter
where grp.redrive = %s and (grp.state = 'PROBING' or (grp.state in ('WAITING', 'PASSED') and item.letter is not null))
order by array_position(array['PROBING', 'PASSED', 'WAITING'], grp.state), grp.group_id
limit 1
"""
"""A running probe first, then the letters of the groups that passed, then the probe of the next group."""


class RedriveQueue:
    """The table `redrive`, as used by workers."""

    def __init__(self, database: Database, audit: AuditWriter, probe_timeout_seconds: float) -> None:
        self._database = database
        self._audit = audit
        self._probe_timeout_seconds = probe_timeout_seconds

    async def claim(self, worker: int) -> Redrive | None:
        """Claim an active redrive without a live owner, fair between orgs; None if there is none."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(CLAIM, {"worker": worker})).fetchone()
        if row is None:
            return None
        return Redrive(
            id=row["id"],
            worker=worker,
            caller=Principal(row["org"], row["desk"], row["key"], frozenset(row["scopes"]), frozenset(row["walls"])),
            runs_per_minute=row["runs_per_minute"],
            inputs=row["inputs"],
            template_version=row["template_version"],
            from_step=row["from_step"],
        )

    async def next(self, redrive: Redrive) -> Item | Probe | None:
        """Return what a redrive does next; None if it has nothing left to do.

        Raises:
            OwnershipLost: it has ended, or another worker owns it.
        """
        async with self._owned(redrive) as connection:
            row = await (await connection.execute(NEXT, (redrive.id,))).fetchone()
        if row is None:
            return None
        if row["state"] == "PROBING":
            return Probe(row["group_id"], row["probe_run"], row["overdue"])
        return Item(row["letter"], row["group_id"], row["run"], is_probe=row["state"] == "WAITING")

    async def started(self, redrive: Redrive, item: Item, run: str) -> None:
        """Record the new run of a letter."""
        async with self._owned(redrive) as connection:
            await connection.execute(
                "update redrive_item set state = 'STARTED' where redrive = %s and letter = %s",
                (redrive.id, item.letter),
            )
            await connection.execute(
                "update dead_letter set state = 'REDRIVEN', redriven_run = %s, closed_at = clock_timestamp()"
                " where number = %s and redrive = %s",
                (run, item.letter, redrive.id),
            )
            if item.is_probe:
                await connection.execute(
                    "update redrive_group set state = 'PROBING', probe_run = %s,"
                    " probe_deadline = clock_timestamp() + %s * interval '1 second'"
                    " where redrive = %s and group_id = %s",
                    (run, self._probe_timeout_seconds, redrive.id, item.group),
                )
            details = {"restart_of": item.run, "run": run, "probe": item.is_probe}
            await self._record(connection, redrive, "redrive.run", "ok", details)

    async def failed(self, redrive: Redrive, item: Item, error: str) -> None:
        """Record that no run could be started for a letter; put it back. If it is the probe, refuse its group."""
        async with self._owned(redrive) as connection:
            await connection.execute(
                "update redrive_item set state = 'FAILED' where redrive = %s and letter = %s", (redrive.id, item.letter)
            )
            await connection.execute(
                "update dead_letter set state = 'OPEN', redrive_error = %s where number = %s and redrive = %s",
                (error, item.letter, redrive.id),
            )
            if item.is_probe:
                await self._refuse(connection, redrive, item.group, error)

    async def passed(self, redrive: Redrive, probe: Probe) -> None:
        """Record that the probe of a group succeeded."""
        async with self._owned(redrive) as connection:
            await connection.execute(
                "update redrive_group set state = 'PASSED' where redrive = %s and group_id = %s",
                (redrive.id, probe.group),
            )

    async def refused(self, redrive: Redrive, probe: Probe, error: str) -> None:
        """Record that the probe of a group failed; put its other letters back."""
        async with self._owned(redrive) as connection:
            await self._refuse(connection, redrive, probe.group, error)

    async def ended(self, redrive: Redrive) -> None:
        """Record the end of a redrive."""
        async with self._owned(redrive) as connection:
            await connection.execute(
                "update redrive set state = 'ENDED', ended_at = clock_timestamp() where id = %s", (redrive.id,)
            )
            await self._record(connection, redrive, "redrive.end", "ok", {})

    async def _refuse(self, connection: Connection, redrive: Redrive, group: str, error: str) -> None:
        await connection.execute(
            "update redrive_group set state = 'REFUSED', error = %s where redrive = %s and group_id = %s",
            (error, redrive.id, group),
        )
        await put_back(connection, redrive.id, group, f"the probe failed: {error}")
        await self._record(connection, redrive, "redrive.refuse", "refused", {"group": group})

    async def _record(
        self, connection: Connection, redrive: Redrive, action: str, outcome: str, details: dict[str, Any]
    ) -> None:
        with acting_for(redrive.caller):
            await self._audit.record(action, redrive.id, outcome=outcome, details=details, connection=connection)

    @asynccontextmanager
    async def _owned(self, redrive: Redrive) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "select from redrive where id = %s and worker = %s and state = 'ACTIVE' for update",
                (redrive.id, redrive.worker),
            )
            if cursor.rowcount != 1:
                raise OwnershipLost(redrive.id)
            yield connection


async def put_back(connection: Connection, redrive: str, group: str | None, reason: str) -> None:
    """Put the waiting letters of a redrive, or of one of its groups, back with a reason."""
    await connection.execute(PUT_BACK, {"redrive": redrive, "group": group, "error": reason[:MAX_REASON]})
