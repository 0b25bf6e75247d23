"""Operations of API callers on schedules: create, preview, list, get, pause, resume, back-fill, delete."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from drw.api.workflow.v1.schedules_pb2 import (
    Backfill,
    BackfillScheduleRequest,
    CreateScheduleRequest,
    ListSchedulesRequest,
    ListSchedulesResponse,
    Preview,
    Schedule,
    ScheduleSpec,
)
from drw.kernel.errors import InvalidRequest, TooLarge
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_message
from drw.workflow.orchestration import messages
from drw.workflow.orchestration.schedules.occurrence import Occurrence
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.schedules.store import ScheduleStore, check_not_stopped
from drw.workflow.orchestration.schedules.stored import (
    Row,
    StoredSchedule,
    backfill_message,
    schedule_message,
    tick_message,
)
from drw.workflow.orchestration.schedules.timetable import PREVIEWED, Timetable
from drw.workflow.orchestration.settings import Settings

DEFAULT_PAGE_SIZE = 50
VARIABLE = re.compile(r"\$\{tick\.\w*\}?")
VARIABLES = ("${tick.time}", "${tick.date}")


class ScheduleOperations:
    """Serves the methods of schedules."""

    def __init__(
        self, settings: Settings, store: ScheduleStore, timetable: Timetable, preparation: Preparation
    ) -> None:
        self._settings = settings
        self._store = store
        self._timetable = timetable
        self._preparation = preparation

    async def create(self, request: CreateScheduleRequest) -> Schedule:
        """Store a schedule after checks of its times, its template and its inputs."""
        caller, spec = context.caller(), _normalised(request.spec)
        row = await self._store.find_by_name(caller, request.name, spec)
        preview = await self.preview(spec)
        if row is None:
            now, timing = self._timetable.now(), await self._timetable.timing(spec)
            upcoming = self._timetable.upcoming(timing, now)
            if upcoming.first is None:
                raise InvalidRequest(upcoming.detail)
            await self._preparation.prepare("", caller, spec, upcoming.first, timing.zone)
            version = self._timetable.version()
            row = await self._store.create(caller, request.name, spec, timing.calendar, version, upcoming, now)
        schedule = schedule_message(row)
        schedule.preview.CopyFrom(preview)
        return schedule

    async def preview(self, spec: ScheduleSpec) -> Preview:
        """Return the next occurrences of a schedule that is not stored."""
        return await self._timetable.preview(spec, context.caller(), self._settings.min_schedule_interval_seconds)

    async def page(self, request: ListSchedulesRequest) -> ListSchedulesResponse:
        """Return a page of the desk's schedules."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._store.page(context.caller(), size + 1, request.page_token)
        token = rows[size - 1]["id"] if len(rows) > size else ""
        return ListSchedulesResponse(schedules=[schedule_message(row) for row in rows[:size]], next_page_token=token)

    async def get(self, name: str) -> Schedule:
        """Return a schedule with its next occurrences, ticks and back-fills."""
        row = await self._store.get(context.caller(), name)
        schedule, stored = schedule_message(row), StoredSchedule.of(row)
        if stored.state != "STOPPED":
            schedule.preview.CopyFrom(await self._preview_of(stored))
        schedule.ticks.extend(map(tick_message, await self._store.ticks(row["id"])))
        schedule.backfills.extend(map(backfill_message, await self._store.backfills(row["id"])))
        return schedule

    async def pause(self, name: str) -> Schedule:
        """Prevent further runs."""
        caller = context.caller()
        await self._store.pause(caller, name)
        return schedule_message(await self._store.get(caller, name))

    async def resume(self, name: str) -> Schedule:
        """Continue with the next occurrence."""
        caller = context.caller()
        row, now = await self._store.get(caller, name), self._timetable.now()
        if row["state"] == "PAUSED":
            await self._check_permissions(caller, row)
            timing = await self._timetable.timing(StoredSchedule.of(row).spec)
            await self._store.resume(caller, row["id"], self._timetable.upcoming(timing, now), now)
        else:
            check_not_stopped(row)
        return schedule_message(await self._store.get(caller, name))

    async def backfill(self, request: BackfillScheduleRequest) -> Backfill:
        """Start runs for the past occurrences of a range."""
        caller, now = context.caller(), self._timetable.now()
        row = await self._store.get(caller, request.schedule)
        start, end = _datetime(getattr(request, "from")), _datetime(request.to)
        if start > end or end > now:
            raise InvalidRequest("the range must end in the past, and not before it starts", param="to")
        await self._check_permissions(caller, row)
        timing = await self._timetable.timing(StoredSchedule.of(row).spec)
        if (days := timing.days()) is not None and start.date() < days[0]:
            raise InvalidRequest(f"the calendar {timing.calendar!r} starts on {days[0]}", param="from")
        limit = self._settings.max_backfill_runs
        found = [o for o in timing.after(start - timedelta(microseconds=1), limit + 1) if o.at <= end]
        if len(found) > limit:
            raise TooLarge(f"the range has more than {limit} occurrences: split it", param="to")
        if not found:
            raise InvalidRequest("the range has no occurrence of the schedule", param="from")
        stored = await self._store.add_backfill(caller, row["id"], start, end, found, request.max_concurrent or 1, now)
        return backfill_message(stored)

    async def delete(self, name: str) -> None:
        """Delete a schedule."""
        await self._store.delete(context.caller(), name)

    async def _preview_of(self, schedule: StoredSchedule) -> Preview:
        timing = await self._timetable.timing(schedule.spec)
        return self._timetable.describe(timing, schedule.owner, timing.after(self._timetable.now(), PREVIEWED))

    async def _check_permissions(self, caller: Principal, row: Row) -> None:
        """Check that the caller could start a run of the schedule, whose runs act for another key.

        Raises:
            Forbidden: it lacks a scope of the template.
        """
        spec, zone = StoredSchedule.of(row).spec, ZoneInfo("UTC")
        await self._preparation.prepare(row["id"], caller, spec, Occurrence("", self._timetable.now()), zone)


def _normalised(spec: ScheduleSpec) -> ScheduleSpec:
    """Return a schedule whose inputs are a JSON object in canonical form.

    Raises:
        InvalidRequest: the inputs are not an object, or contain an unknown variable.
    """
    values = messages.inputs(spec.inputs)
    if unknown := [v for v in VARIABLE.findall(spec.inputs.text) if v not in VARIABLES]:
        raise InvalidRequest(f"{unknown[0]!r} is not a variable; there are: {', '.join(VARIABLES)}", param="inputs")
    normalised = ScheduleSpec()
    normalised.CopyFrom(spec)
    normalised.inputs.CopyFrom(json_message(dict(sorted(values.items()))))
    return normalised


def _datetime(message: object) -> datetime:
    assert hasattr(message, "ToDatetime")
    moment: datetime = message.ToDatetime(tzinfo=UTC)
    return moment
