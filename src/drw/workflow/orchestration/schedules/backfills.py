"""Back-fills: runs of past occurrences, with bounded concurrency, in turns of orgs and desks."""

from __future__ import annotations

import logging
from datetime import date, datetime, timedelta
from typing import Any

from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, NotFound
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.killswitch.watch import Killed
from drw.workflow.orchestration.permissions import CredentialEnded
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.journal import ScheduleJournal, start_run
from drw.workflow.orchestration.schedules.occurrence import Occurrence
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.schedules.stored import StoredSchedule
from drw.workflow.orchestration.schedules.timetable import Timetable

log = logging.getLogger(__name__)

BATCH_SIZE = 20
RETRY_SECONDS = 5.0

DUE = """
select s.*, b.backfill, b.position, b.occurrences -> b.position as occurrence from (
    select b.id as backfill, b.schedule, b.position, b.occurrences,
        row_number() over (partition by s.org, s.desk order by b.due_at, b.id) as turn
    from backfill b join schedule s on s.id = b.schedule
    where b.state = 'RUNNING' and s.state = 'ACTIVE' and b.due_at <= %s and (
        select count(*) from run r where r.schedule = s.id and r.backfill = b.id and r.state in ('QUEUED', 'RUNNING')
    ) < b.max_concurrent
) as b join schedule s on s.id = b.schedule order by b.turn, b.backfill limit %s
"""


class BackfillRunner:
    """Starts the next run of each back-fill that has capacity."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        runs: Runs,
        timetable: Timetable,
        preparation: Preparation,
        journal: ScheduleJournal,
    ) -> None:
        self._database = database
        self._audit = audit
        self._runs = runs
        self._timetable = timetable
        self._preparation = preparation
        self._journal = journal

    async def step(self) -> bool:
        """Handle one occurrence of each due back-fill; return whether there may be more."""
        rows = await self._database.all(DUE, self._timetable.now(), BATCH_SIZE)
        for row in rows:
            try:
                await self._handle(row)
            except DrwError as error:  # unavailable, killed, or the desk has too many open runs
                log.info("a back-fill waits: %s", telemetry.loggable(error), extra=_fields(row))
                await self._postpone(row)
            except Exception:  # of this back-fill only: others must not wait for it
                log.exception("a back-fill cannot continue", extra=_fields(row))
                await self._postpone(row)
        return bool(rows)

    async def _handle(self, row: dict[str, Any]) -> None:
        schedule = StoredSchedule.of(row)
        if row["occurrence"] is None:  # the last one is handled
            await self._end(row, schedule, "DONE", "")
            return
        key, at, session = row["occurrence"]
        occurrence = Occurrence(key, datetime.fromisoformat(at), session and date.fromisoformat(session))
        try:
            timing = await self._timetable.timing(schedule.spec)
            prepared = await self._preparation.prepare(
                schedule.id, schedule.owner, schedule.spec, occurrence, timing.zone
            )
        except CredentialEnded as error:
            await self._journal.stop(schedule, error.message)
            return
        except (InvalidRequest, NotFound, Forbidden) as error:
            if isinstance(error, Killed):
                raise
            await self._end(row, schedule, "STOPPED", f"{occurrence.key}: {error.message}")
            return
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '10s'")
            if await self._lock(connection, row):
                existing = not await start_run(self._runs, connection, schedule, occurrence, prepared, row["backfill"])
                await connection.execute(
                    "update backfill set position = position + 1, existing = existing + %s where id = %s",
                    (int(existing), row["backfill"]),
                )

    async def _lock(self, connection: Connection, row: dict[str, Any]) -> bool:
        """Lock the schedule and the back-fill; return False if this occurrence is handled already."""
        cursor = await connection.execute(
            "select from schedule s join backfill b on b.schedule = s.id where b.id = %s and b.position = %s"
            " and b.state = 'RUNNING' and s.state = 'ACTIVE' for update skip locked",
            (row["backfill"], row["position"]),
        )
        return cursor.rowcount == 1

    async def _end(self, row: dict[str, Any], schedule: StoredSchedule, state: str, detail: str) -> None:
        with context.acting_for(schedule.owner):
            async with self._database.transaction() as connection:
                cursor = await connection.execute(
                    "update backfill set state = %s, detail = %s where id = %s and state = 'RUNNING' and position = %s",
                    (state, detail[:500], row["backfill"], row["position"]),
                )
                if cursor.rowcount == 1:
                    details = {"backfill": row["backfill"], "detail": detail[:500]}
                    await self._audit.record(
                        "schedule.backfill.end",
                        schedule.id,
                        outcome=state.lower(),
                        details=details,
                        connection=connection,
                    )

    async def _postpone(self, row: dict[str, Any]) -> None:
        until = self._timetable.now() + timedelta(seconds=RETRY_SECONDS)
        await self._database.all("update backfill set due_at = %s where id = %s returning id", until, row["backfill"])


def _fields(row: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {"fields": {"backfill": row["backfill"]}}
