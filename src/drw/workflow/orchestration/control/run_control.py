"""Pauses and resumes runs for API callers."""

from __future__ import annotations

from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.execution.journal import signals
from drw.workflow.orchestration.runs import CHANNEL, lock_visible

OPEN = ("QUEUED", "RUNNING")


class RunControl:
    """The columns `paused_at` and `paused_by` of the table `run`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def pause(self, caller: Principal, run: str, reason: str) -> None:
        """Prevent further steps of a run and of the runs below it. No effect on a paused or ended run.

        Raises:
            NotFound: the desk has no such run.
        """
        async with self._database.transaction() as connection:
            row = await lock_visible(connection, caller, run)
            if row["state"] not in OPEN or row["paused_at"]:
                return
            await connection.execute(
                "update run set paused_at = clock_timestamp(), paused_by = %s where id = %s", (caller.key, run)
            )
            await _lock_descendants(connection, run)
            await events.add(connection, run, "waiting", detail=f"paused by {caller.key}")
            details = {"reason": digest(reason)} if reason else {}
            await self._audit.record("run.pause", run, details=details, connection=connection)
            await connection.execute("select pg_notify(%s, '')", (CHANNEL,))  # another run can start

    async def resume(self, caller: Principal, run: str) -> None:
        """Continue a paused run. No effect on another run.

        Raises:
            NotFound: the desk has no such run.
        """
        async with self._database.transaction() as connection:
            row = await lock_visible(connection, caller, run)
            if row["state"] not in OPEN or not row["paused_at"]:
                return
            await connection.execute("update run set paused_at = null, paused_by = '' where id = %s", (run,))
            await events.add(connection, run, "waiting", detail=f"resumed by {caller.key}")
            await self._audit.record("run.resume", run, connection=connection)
            await signals.notify(connection)
            await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


async def _lock_descendants(connection: Connection, run: str) -> None:
    """Wait for the steps of descendants that begin now; later ones see the pause. Parents are locked first."""
    parents = [run]
    while parents:
        cursor = await connection.execute(
            "select id from run where parent = any(%s) and state in ('QUEUED', 'RUNNING') order by id for update",
            (parents,),
        )
        parents = [row["id"] for row in await cursor.fetchall()]
