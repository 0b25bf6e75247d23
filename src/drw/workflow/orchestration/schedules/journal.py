"""The scheduler's changes of schedules. Each is one transaction that first locks the schedule.

A change applies only while the occurrence is still the next one of an active schedule, so that several processes can
run the scheduler. PostgreSQL ends the transaction of a frozen process after ten seconds, and with it its locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.metrics import TICKS
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Upcoming
from drw.workflow.orchestration.schedules.preparation import PreparedRun
from drw.workflow.orchestration.schedules.store import next_columns
from drw.workflow.orchestration.schedules.stored import Row, StoredSchedule

KEPT_TICKS = 100
"""Ticks that are kept for each schedule."""

DUE = """
select * from (
    select s.*, row_number() over (partition by org, desk order by due_at, id) as turn
    from schedule s where state = 'ACTIVE' and due_at <= %s
) as due order by turn, due_at, id limit %s
"""
WAITING = """
select * from (
    select s.*, row_number() over (partition by org, desk order by waiting_at, id) as turn
    from schedule s where state = 'ACTIVE' and waiting_key is not null and not exists (
        select from run r where r.schedule = s.id and r.backfill = '' and r.state in ('QUEUED', 'RUNNING')
    )
) as waiting order by turn, waiting_at, id limit %s
"""


class ScheduleJournal:
    """The tables `schedule` and `schedule_tick`, as used by the scheduler."""

    def __init__(self, database: Database, audit: AuditWriter, runs: Runs) -> None:
        self._database = database
        self._audit = audit
        self._runs = runs

    async def due(self, now: datetime, limit: int) -> list[StoredSchedule]:
        """Return due schedules, in turns of orgs and desks."""
        return [StoredSchedule.of(row) for row in await self._database.all(DUE, now, limit)]

    async def waiting(self, limit: int) -> list[StoredSchedule]:
        """Return schedules with an occurrence that waited for a run that has ended, in turns of orgs and desks."""
        return [StoredSchedule.of(row) for row in await self._database.all(WAITING, limit)]

    async def outdated(self, timetable: str, limit: int) -> list[StoredSchedule]:
        """Return schedules whose next occurrence was computed with another version of the timetable."""
        rows = await self._database.all(
            "select * from schedule where state = 'ACTIVE' and timetable <> %s order by id limit %s", timetable, limit
        )
        return [StoredSchedule.of(row) for row in rows]

    async def calendars(self) -> list[str]:
        """Return the calendars of all active schedules."""
        rows = await self._database.all(
            "select distinct calendar from schedule where state = 'ACTIVE' and calendar <> '' order by calendar"
        )
        return [row["calendar"] for row in rows]

    async def start(self, schedule: StoredSchedule, prepared: PreparedRun, upcoming: Upcoming) -> bool:
        """Handle the next occurrence: start its run, or do what the overlap policy says while another run is open.

        Return False if another process handles it.

        Raises:
            RateLimited: the desk has too many unfinished runs.
        """
        occurrence = schedule.next
        assert occurrence is not None
        async with self._changing(schedule, occurrence) as (connection, row):
            if row is None:
                return False
            open_runs = await _open_runs(connection, schedule.id)
            waits = row["waiting_key"] is not None
            overlap = schedule.spec.overlap or ScheduleSpec.SKIP
            if overlap == ScheduleSpec.ALLOW or not (open_runs or waits):
                await self._start(connection, schedule, occurrence, prepared)
            elif overlap == ScheduleSpec.CANCEL_RUNNING:
                for run in open_runs:
                    await self._runs.end_cancelled(connection, run, f"by the schedule {schedule.name!r}")
                await self._start(connection, schedule, occurrence, prepared)
            elif overlap == ScheduleSpec.QUEUE_ONE and not waits:
                await connection.execute(
                    "update schedule set waiting_key = %s, waiting_at = %s, waiting_session = %s where id = %s",
                    (occurrence.key, occurrence.at, occurrence.session, schedule.id),
                )
                await self._handled(connection, schedule, occurrence, "WAITING", detail=f"for {open_runs[0]}")
            else:
                await self._handled(connection, schedule, occurrence, "SKIPPED", detail="a run is open")
            await _advance(connection, schedule, occurrence.at, upcoming)
        return True

    async def start_waiting(self, schedule: StoredSchedule, prepared: PreparedRun) -> None:
        """Start the run of the occurrence that waited.

        Raises:
            RateLimited: the desk has too many unfinished runs.
        """
        occurrence = schedule.waiting
        assert occurrence is not None
        async with self._changing(schedule, occurrence, waiting=True) as (connection, row):
            if row is None or await _open_runs(connection, schedule.id):
                return
            await self._start(connection, schedule, occurrence, prepared)
            await _clear_waiting(connection, schedule)

    async def skip(
        self,
        schedule: StoredSchedule,
        outcome: str,
        detail: str,
        handled_until: datetime,
        upcoming: Upcoming,
    ) -> bool:
        """Handle the next occurrence, and all others up to `handled_until`, without a run.

        Return False if another process handles it.
        """
        occurrence = schedule.next
        assert occurrence is not None
        async with self._changing(schedule, occurrence) as (connection, row):
            if row is not None:
                await self._handled(connection, schedule, occurrence, outcome, detail=detail)
                await _advance(connection, schedule, handled_until, upcoming)
        return row is not None

    async def skip_waiting(self, schedule: StoredSchedule, detail: str) -> None:
        """Refuse the occurrence that waited."""
        occurrence = schedule.waiting
        assert occurrence is not None
        async with self._changing(schedule, occurrence, waiting=True) as (connection, row):
            if row is not None:
                await self._handled(connection, schedule, occurrence, "REFUSED", detail=detail)
                await _clear_waiting(connection, schedule)

    async def retime(self, schedule: StoredSchedule, upcoming: Upcoming, timetable: str) -> None:
        """Store the next occurrence as a new version of the timetable has it."""
        await self._database.all(
            "update schedule set next_key = %s, next_at = %s, session = %s, due_at = %s, detail = %s, timetable = %s"
            " where id = %s and state = 'ACTIVE' and handled_at = %s returning id",
            *next_columns(schedule.id, schedule.spec, upcoming),
            *(timetable, schedule.id, schedule.handled_at),
        )

    async def stop(self, schedule: StoredSchedule, reason: str) -> None:
        """Stop a schedule and its back-fills permanently, and cancel its open runs."""
        with context.acting_for(schedule.owner):
            async with self._transaction() as connection:
                cursor = await connection.execute(
                    "update schedule set state = 'STOPPED', detail = %s, next_key = null, due_at = null,"
                    " waiting_key = null where id = %s and state <> 'STOPPED'",
                    (reason, schedule.id),
                )
                if cursor.rowcount != 1:
                    return
                await connection.execute(
                    "update backfill set state = 'STOPPED', detail = %s where schedule = %s and state = 'RUNNING'",
                    (reason, schedule.id),
                )
                cursor = await connection.execute(
                    "select id from run where schedule = %s and state in ('QUEUED', 'RUNNING') for update",
                    (schedule.id,),
                )
                for run in await cursor.fetchall():
                    await self._runs.end_cancelled(connection, run["id"], f"since {reason}")
                await self._audit.record(
                    "schedule.stop", schedule.id, outcome="denied", details={"reason": reason}, connection=connection
                )

    async def postpone(self, schedule: StoredSchedule, until: datetime) -> None:
        """Handle the next occurrence of a schedule later."""
        await self._database.all(
            "update schedule set due_at = %s where id = %s and due_at < %s returning id", until, schedule.id, until
        )

    async def postpone_desk(self, schedule: StoredSchedule, now: datetime, seconds: float) -> None:
        """Handle all due schedules of a desk later."""
        await self._database.all(
            "update schedule set due_at = %s where org = %s and desk = %s and state = 'ACTIVE' and due_at <= %s"
            " returning id",
            now + timedelta(seconds=seconds),
            *(schedule.owner.org, schedule.owner.desk, now),
        )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '10s'")
            yield connection

    @asynccontextmanager
    async def _changing(
        self, schedule: StoredSchedule, occurrence: Occurrence, *, waiting: bool = False
    ) -> AsyncIterator[tuple[Connection, Row | None]]:
        """Yield the locked row; None if the occurrence is handled already, or another process handles it."""
        with context.acting_for(schedule.owner):
            async with self._transaction() as connection:
                query = (
                    "select * from schedule where id = %s and state = 'ACTIVE' and waiting_key = %s"
                    " for update skip locked"
                    if waiting
                    else "select * from schedule where id = %s and state = 'ACTIVE' and next_key = %s"
                    " for update skip locked"
                )
                cursor = await connection.execute(query, (schedule.id, occurrence.key))
                yield connection, await cursor.fetchone()

    async def _start(
        self, connection: Connection, schedule: StoredSchedule, occurrence: Occurrence, prepared: PreparedRun
    ) -> None:
        if await start_run(self._runs, connection, schedule, occurrence, prepared):
            await self._handled(connection, schedule, occurrence, "STARTED", run=occurrence.run_id(schedule.id))
        else:
            await self._handled(connection, schedule, occurrence, "SKIPPED", detail="it has a run already")

    async def _handled(
        self,
        connection: Connection,
        schedule: StoredSchedule,
        occurrence: Occurrence,
        outcome: str,
        *,
        run: str = "",
        detail: str = "",
    ) -> None:
        await connection.execute(
            "with numbered as (update schedule set ticks = ticks + 1 where id = %s returning ticks),"
            " pruned as (delete from schedule_tick where schedule = %s and number <= (select ticks from numbered) - %s)"
            " insert into schedule_tick (schedule, number, at, outcome, run, detail)"
            " select %s, ticks, %s, %s, %s, %s from numbered",
            (schedule.id, schedule.id, KEPT_TICKS, schedule.id, occurrence.at, outcome, run, detail[:500]),
        )
        if outcome != "STARTED":
            details = {"at": occurrence.at.isoformat(), "detail": detail[:500]}
            await self._audit.record(
                "schedule.tick", schedule.id, outcome=outcome.lower(), details=details, connection=connection
            )
        TICKS.labels(outcome.lower()).inc()


async def start_run(
    runs: Runs,
    connection: Connection,
    schedule: StoredSchedule,
    occurrence: Occurrence,
    prepared: PreparedRun,
    backfill: str = "",
) -> bool:
    """Start the run of an occurrence as part of a transaction; return False if the occurrence has a run already.

    Raises:
        RateLimited: the desk has too many unfinished runs.
    """
    await runs.check_open_runs(connection, prepared.caller)
    run = occurrence.run_id(schedule.id)
    origin = {"schedule": schedule.id, "tick": occurrence.key} | ({"backfill": backfill} if backfill else {})
    with context.acting_for(prepared.caller):
        if not await runs.insert(
            connection, prepared.caller, run, prepared.request, prepared.template, prepared.inputs, origin
        ):
            return False
    await connection.execute(
        "update run set schedule = %s, backfill = %s, scheduled_for = %s where id = %s",
        (schedule.id, backfill, occurrence.at, run),
    )
    return True


async def _advance(connection: Connection, schedule: StoredSchedule, handled_at: datetime, upcoming: Upcoming) -> None:
    await connection.execute(
        "update schedule set handled_at = %s, next_key = %s, next_at = %s, session = %s, due_at = %s,"
        " detail = %s where id = %s",
        (handled_at, *next_columns(schedule.id, schedule.spec, upcoming), schedule.id),
    )


async def _open_runs(connection: Connection, schedule: str) -> list[str]:
    cursor = await connection.execute(
        "select id from run where schedule = %s and backfill = '' and state in ('QUEUED', 'RUNNING')"
        " order by created_at for update",
        (schedule,),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def _clear_waiting(connection: Connection, schedule: StoredSchedule) -> None:
    await connection.execute("update schedule set waiting_key = null where id = %s", (schedule.id,))
