"""A scheduler with a clock that tests set, on the database of a test. Nothing executes the runs that it starts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg.rows import dict_row

from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.workflow.v1.schedules_pb2 import BackfillScheduleRequest, CreateScheduleRequest, Schedule, ScheduleSpec
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.events.publisher import create_tables
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.killswitch.watch import KillList
from drw.workflow.orchestration.adapters.exchange_calendars import ExchangeCalendars
from drw.workflow.orchestration.payloads.payload_store import Limits, PayloadStore
from drw.workflow.orchestration.permissions import PresentPermissions
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.backfills import BackfillRunner
from drw.workflow.orchestration.schedules.journal import ScheduleJournal
from drw.workflow.orchestration.schedules.operations import ScheduleOperations
from drw.workflow.orchestration.schedules.overrides import OverrideFile
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.schedules.scheduler import Scheduler
from drw.workflow.orchestration.schedules.store import ScheduleStore
from drw.workflow.orchestration.schedules.timetable import Timetable
from drw.workflow.orchestration.settings import Settings
from support.hosting import hosted

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
"""Tuesday before Thanksgiving, 07:00 in New York."""
INPUTS = {"files": ["file-0"]}


@dataclass
class DoubleClock(Clock):
    """A clock that only tests move."""

    moment: datetime = START

    def now(self) -> datetime:
        return self.moment

    def advance(self, **duration: float) -> None:
        self.moment += timedelta(**duration)


@dataclass
class Scheduling:
    """The scheduler and the operations of schedules, with the clock."""

    profile: Profile
    host: Host
    database: Database
    caller: Principal
    runs: Runs
    kills: KillList
    timetable: Timetable
    operations: ScheduleOperations
    scheduler: Scheduler
    clock: DoubleClock
    names: list[str] = field(default_factory=list)

    async def create(self, name: str = "s", principal: Principal | None = None, **spec: Any) -> Schedule:
        times = {} if "market" in spec else {"cron": "0 * * * *"}
        message = ScheduleSpec(**{"template": "digest"} | times | spec)
        if not message.inputs.text:
            message.inputs.CopyFrom(json_message(INPUTS))
        with acting_for(principal or self.caller):
            return await self.operations.create(CreateScheduleRequest(name=name, spec=message))

    async def get(self, name: str = "s", principal: Principal | None = None) -> Schedule:
        with acting_for(principal or self.caller):
            return await self.operations.get(name)

    async def backfill(self, start: datetime, end: datetime, max_concurrent: int = 1, name: str = "s") -> Any:
        request = BackfillScheduleRequest(schedule=name, max_concurrent=max_concurrent)
        getattr(request, "from").FromDatetime(start)
        request.to.FromDatetime(end)
        with acting_for(self.caller):
            return await self.operations.backfill(request)

    async def settle(self) -> None:
        """Handle everything that is due now."""
        while await self.scheduler.step():
            pass

    async def tick(self, **duration: float) -> None:
        """Move the clock and handle what is due."""
        self.clock.advance(**duration)
        await self.settle()

    def rows(self, query: str, *args: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.profile.postgres, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("set search_path to orchestration")
            cursor = connection.execute(query.encode(), args)
            return cursor.fetchall() if cursor.description else []

    def started(self) -> list[str]:
        """Return the times of the occurrences whose runs started, in this order."""
        rows = self.rows("select scheduled_for from run where schedule <> '' order by created_at, id")
        return [row["scheduled_for"].astimezone(UTC).strftime("%d %H:%M") for row in rows]

    def end_runs(self) -> None:
        """Let all runs succeed."""
        self.rows("update run set state = 'SUCCEEDED', ended_at = now() where state in ('QUEUED', 'RUNNING')")

    async def outcomes(self, name: str = "s") -> list[str]:
        """Return the outcomes of the latest ticks, oldest first."""
        from drw.api.workflow.v1.schedules_pb2 import Tick

        return [Tick.Outcome.Name(tick.outcome) for tick in reversed((await self.get(name)).ticks)]

    def audit(self, action: str) -> list[dict[str, Any]]:
        records = [orjson.loads(row["record"]) for row in self.rows("select record::text from audit.inbox")]
        return [record for record in records if record["action"] == action]


@asynccontextmanager
async def scheduling(
    profile: Profile,
    caller: Principal,
    services: tuple[str, ...] = ("templates",),
    overrides: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Scheduling]:
    """Build a scheduler on real templates, and on real authentication if it is one of the services."""
    clock = DoubleClock()
    async with hosted(profile, list(services)) as host:
        database = Database(profile.postgres, "orchestration")
        await database.start("drw.workflow.orchestration")
        await create_tables(database)
        audit = host.audit("orchestration")
        chosen = Settings(**settings)
        limits = Limits(chosen.max_payload_bytes, chosen.max_run_payload_bytes, chosen.max_desk_payload_bytes)
        payloads = PayloadStore(database, profile.data / "payloads", limits)
        runs = Runs(database, audit, chosen.max_open_runs, payloads)
        kills = KillList(host.client(RequestRouterClient) if "request_router" in services else None, profile.data / "k")  # type: ignore[arg-type]
        authentication = host.client(AuthenticationClient) if "authentication" in services else None
        preparation = Preparation(PresentPermissions(authentication), host.client(TemplatesClient), kills)
        timetable = Timetable(ExchangeCalendars(), OverrideFile(overrides), clock.now)
        journal = ScheduleJournal(database, audit, runs)
        backfills = BackfillRunner(database, audit, runs, timetable, preparation, journal)
        scheduler = Scheduler(timetable, journal, preparation, backfills, clock, lambda: True)
        store = ScheduleStore(database, audit, chosen.max_schedules)
        operations = ScheduleOperations(chosen, store, timetable, preparation)
        try:
            yield Scheduling(profile, host, database, caller, runs, kills, timetable, operations, scheduler, clock)
        finally:
            await database.stop()
