"""Schedules for API callers. Every query is filtered by org, desk and walls."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson

from drw.api.workflow.v1.schedules_pb2 import ScheduleSpec
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Upcoming
from drw.workflow.orchestration.schedules.stored import Row, StoredSchedule

SHOWN = 10
NEVER = "NEVER"


class ScheduleStore:
    """The tables `schedule`, `schedule_tick` and `backfill`, as used by API callers."""

    def __init__(self, database: Database, audit: AuditWriter, max_schedules: int) -> None:
        self._database = database
        self._audit = audit
        self._max_schedules = max_schedules

    async def find_by_name(self, caller: Principal, name: str, spec: ScheduleSpec) -> Row | None:
        """Return the schedule of this name that the caller can see, with its walls, or None.

        Raises:
            Conflict: its contents differ.
        """
        row = await self._database.one(
            "select * from schedule where org = %s and desk = %s and walls = %s and name = %s",
            *(caller.org, caller.desk, sorted(caller.walls), name),
        )
        if row is not None and row["fingerprint"] != _fingerprint(spec):
            raise Conflict(
                f"the desk {caller.desk!r} has another schedule {name!r}: delete it first, or use a new name"
            )
        return row

    async def create(
        self,
        caller: Principal,
        name: str,
        spec: ScheduleSpec,
        calendar: str,
        timetable: str,
        upcoming: Upcoming,
        now: datetime,
    ) -> Row:
        """Store a schedule.

        Raises:
            Conflict: the desk has a schedule of this name with other contents.
            RateLimited: the desk has too many schedules.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtextextended(%s, 12))", (f"{caller.org}/{caller.desk}",)
            )
            await self._check_count(connection, caller)
            schedule = f"sch_{uuid4().hex}"
            cursor = await connection.execute(
                "insert into schedule (id, org, desk, key, scopes, walls, name, fingerprint, spec, calendar, timetable,"
                " handled_at, next_key, next_at, session, due_at, detail)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " on conflict (org, desk, walls, name) do nothing returning *",
                (
                    *(schedule, caller.org, caller.desk, caller.key, sorted(caller.scopes), sorted(caller.walls)),
                    *(name, _fingerprint(spec), spec.SerializeToString(), calendar, timetable, now),
                    *next_columns(schedule, spec, upcoming),
                ),
            )
            if (row := await cursor.fetchone()) is not None:
                details = {"name": name, "template": spec.template, "spec": _fingerprint(spec)}
                await self._audit.record("schedule.create", schedule, details=details, connection=connection)
                return row
        existing = await self.find_by_name(caller, name, spec)
        if existing is None:
            raise Conflict(f"the schedule {name!r} was deleted while it was created: try again")
        return existing

    async def get(self, caller: Principal, schedule: str) -> Row:
        """Return a schedule by id or name.

        Raises:
            NotFound: the desk has no such schedule.
        """
        rows = await self._database.all(
            "select * from visible_schedules(%s, %s, %s) where id = %s or name = %s limit 2",
            *_visibility(caller),
            schedule,
            schedule,
        )
        return _only(rows, schedule)

    async def ticks(self, schedule: str) -> list[Row]:
        """Return the latest ticks of a schedule, newest first."""
        return await self._database.all(
            "select * from schedule_tick where schedule = %s order by number desc limit %s", schedule, SHOWN
        )

    async def backfills(self, schedule: str) -> list[Row]:
        """Return the latest back-fills of a schedule, newest first."""
        return await self._database.all(
            "select * from backfill where schedule = %s order by created_at desc limit %s", schedule, SHOWN
        )

    async def page(self, caller: Principal, size: int, after: str) -> list[Row]:
        """Return the desk's schedules by name, after the schedule with the id `after`.

        Raises:
            InvalidRequest: the desk has no schedule `after`.
        """
        last = None
        if after:
            last = await self._database.one(
                "select name, id from visible_schedules(%s, %s, %s) where id = %s", *_visibility(caller), after
            )
            if last is None:
                raise InvalidRequest("page_token is not one that an earlier response returned", param="page_token")
        return await self._database.all(
            "select * from visible_schedules(%s, %s, %s) where %s::text is null or (name, id) > (%s, %s)"
            " order by name, id limit %s",
            *_visibility(caller),
            *(after or None, last and last["name"], last and last["id"]),
            size,
        )

    async def pause(self, caller: Principal, schedule: str) -> None:
        """Pause an active schedule.

        Raises:
            Conflict: it has stopped.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, schedule)
            if row["state"] == "PAUSED":
                return
            check_not_stopped(row)
            await connection.execute(
                "update schedule set state = 'PAUSED', waiting_key = null where id = %s", (row["id"],)
            )
            await self._audit.record("schedule.pause", row["id"], connection=connection)

    async def resume(self, caller: Principal, schedule: str, upcoming: Upcoming, now: datetime) -> None:
        """Activate a paused schedule, from the next occurrence on.

        Raises:
            Conflict: it has stopped.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, schedule)
            if row["state"] == "ACTIVE":
                return
            check_not_stopped(row)
            await connection.execute(
                "update schedule set state = 'ACTIVE', handled_at = %s, next_key = %s, next_at = %s, session = %s,"
                " due_at = %s, detail = %s where id = %s",
                (now, *next_columns(row["id"], StoredSchedule.of(row).spec, upcoming), row["id"]),
            )
            await self._audit.record("schedule.resume", row["id"], connection=connection)

    async def delete(self, caller: Principal, schedule: str) -> None:
        """Delete a schedule.

        Raises:
            NotFound: the desk has no such schedule.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, schedule)
            await connection.execute("delete from schedule where id = %s", (row["id"],))
            details = {"name": row["name"], "spec": row["fingerprint"]}
            await self._audit.record("schedule.delete", row["id"], details=details, connection=connection)

    async def add_backfill(
        self,
        caller: Principal,
        schedule: str,
        start: datetime,
        end: datetime,
        occurrences: list[Occurrence],
        max_concurrent: int,
        now: datetime,
    ) -> Row:
        """Store a back-fill; return the running one if it has the same range.

        Raises:
            Conflict: another back-fill of the schedule is running, or the schedule has stopped.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, schedule)
            check_not_stopped(row)
            cursor = await connection.execute(
                "select * from backfill where schedule = %s and state = 'RUNNING'", (row["id"],)
            )
            if (running := await cursor.fetchone()) is not None:
                if (running["from_at"], running["to_at"]) != (start, end):
                    raise Conflict(f"the back-fill {running['id']!r} of this schedule is running: wait for its end")
                return running
            backfill = f"bf_{uuid4().hex}"
            listed = [[o.key, o.at.isoformat(), o.session and o.session.isoformat()] for o in occurrences]
            cursor = await connection.execute(
                "insert into backfill (id, schedule, created_by, from_at, to_at, max_concurrent, occurrences, due_at)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s) returning *",
                (backfill, row["id"], caller.key, start, end, max_concurrent, orjson.dumps(listed).decode(), now),
            )
            details = {"backfill": backfill, "from": str(start), "to": str(end), "occurrences": len(occurrences)}
            await self._audit.record("schedule.backfill", row["id"], details=details, connection=connection)
            stored = await cursor.fetchone()
            assert stored is not None
            return stored

    async def _lock(self, connection: Connection, caller: Principal, schedule: str) -> Row:
        cursor = await connection.execute(
            "select * from schedule where id in"
            " (select id from visible_schedules(%s, %s, %s) where id = %s or name = %s) limit 2 for update",
            (*_visibility(caller), schedule, schedule),
        )
        return _only(await cursor.fetchall(), schedule)

    async def _check_count(self, connection: Connection, caller: Principal) -> None:
        cursor = await connection.execute(
            "select count(*) as count from visible_schedules(%s, %s, %s)", _visibility(caller)
        )
        row = await cursor.fetchone()
        if row and row["count"] >= self._max_schedules:
            raise RateLimited(
                f"the desk {caller.desk!r} has {row['count']} schedules; at most {self._max_schedules}: delete some",
                retry_after=NEVER,
            )


def next_columns(schedule: str, spec: ScheduleSpec, upcoming: Upcoming) -> tuple[Any, ...]:
    """Return the values of next_key, next_at, session, due_at and detail."""
    if (first := upcoming.first) is None:
        return None, None, None, None, upcoming.detail
    return first.key, first.at, first.session, first.start_at(schedule, spec.jitter_seconds), upcoming.detail


def check_not_stopped(row: Row) -> None:
    """Raise `Conflict` if the schedule has stopped."""
    if row["state"] == "STOPPED":
        raise Conflict(
            f"the schedule {row['name']!r} has stopped, since {row['detail']}: delete it, and create it again"
        )


def _fingerprint(spec: ScheduleSpec) -> str:
    return digest(spec.SerializeToString(deterministic=True))


def _only(rows: list[Row], schedule: str) -> Row:
    if not rows:
        raise NotFound(f"there is no schedule {schedule!r}")
    if len(rows) > 1:
        raise Conflict(f"several schedules with different walls are called {schedule!r}: use the id")
    return rows[0]


def _visibility(caller: Principal) -> tuple[str, str, list[str]]:
    return caller.org, caller.desk, sorted(caller.walls)
