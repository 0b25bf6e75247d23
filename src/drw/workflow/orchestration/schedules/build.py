"""Builds the parts of schedules and connects them with the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.metrics import CALENDAR_DAYS
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.backfills import BackfillRunner
from drw.workflow.orchestration.schedules.journal import ScheduleJournal
from drw.workflow.orchestration.schedules.operations import ScheduleOperations
from drw.workflow.orchestration.schedules.overrides import OverrideFile
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.schedules.scheduler import Scheduler
from drw.workflow.orchestration.schedules.sessions import MarketCalendars
from drw.workflow.orchestration.schedules.store import ScheduleStore
from drw.workflow.orchestration.schedules.timetable import Timetable
from drw.workflow.orchestration.settings import Settings


@dataclass(frozen=True, slots=True)
class Schedules:
    """The operations of API callers, and the timetable."""

    operations: ScheduleOperations
    timetable: Timetable

    @property
    def error_message(self) -> str:
        """Why schedules do not work as configured; empty: they do."""
        return self.timetable.error_message


def build_schedules(
    scope: ServiceContext,
    settings: Settings,
    database: Database,
    runs: Runs,
    preparation: Preparation,
    is_leader: Callable[[], bool],
) -> Schedules:
    """Build schedules, and run the scheduler in the background."""
    audit = scope.audit()
    calendars = scope.make_adapter(MarketCalendars, "exchange_calendars", {})  # type: ignore[type-abstract]
    timetable = Timetable(calendars, OverrideFile(settings.calendar_overrides), lambda: datetime.now(UTC))
    journal = ScheduleJournal(database, audit, runs)
    backfills = BackfillRunner(database, audit, runs, timetable, preparation, journal)
    scope.background(Scheduler(timetable, journal, preparation, backfills, Clock(), is_leader).run)

    async def update_calendar_gauges() -> None:
        for calendar in await journal.calendars():
            CALENDAR_DAYS.labels(calendar).set(await timetable.days_left(calendar))

    scope.on_scrape(update_calendar_gauges)
    store = ScheduleStore(database, audit, settings.max_schedules)
    return Schedules(ScheduleOperations(settings, store, timetable, preparation), timetable)
