"""The scheduler: starts the runs of due schedules, in turns of orgs and desks.

Every orchestration process runs one. Each occurrence is handled in one transaction, so that a process can be killed or
frozen at any point, and no leader is needed. Only the leader applies a new version of the timetable: in a rolling
upgrade, processes have different ones.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from drw.kernel.errors import Conflict, DrwError, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.observability import telemetry
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import Killed
from drw.workflow.orchestration.permissions import CredentialEnded
from drw.workflow.orchestration.schedules.backfills import BackfillRunner
from drw.workflow.orchestration.schedules.journal import ScheduleJournal
from drw.workflow.orchestration.schedules.occurrence import Occurrence, Timing, Upcoming
from drw.workflow.orchestration.schedules.preparation import Preparation, PreparedRun
from drw.workflow.orchestration.schedules.stored import StoredSchedule
from drw.workflow.orchestration.schedules.timetable import Timetable

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
BATCH_SIZE = 100
RETRY_SECONDS = 5.0
"""After which an occurrence that could not start yet is tried again: a kill, a full desk, an unavailable service."""
ERROR_SECONDS = 60.0
"""The same after an unexpected error."""


class Scheduler:
    """Handles due occurrences until it is cancelled."""

    def __init__(
        self,
        timetable: Timetable,
        journal: ScheduleJournal,
        preparation: Preparation,
        backfills: BackfillRunner,
        clock: Clock,
        is_leader: Callable[[], bool],
    ) -> None:
        self._timetable = timetable
        self._journal = journal
        self._preparation = preparation
        self._backfills = backfills
        self._clock = clock
        self._is_leader = is_leader

    async def run(self) -> None:
        """Handle due occurrences until cancelled."""
        while True:
            if not await self.step():
                await self._clock.sleep(POLL_SECONDS)

    async def step(self) -> bool:
        """Handle one batch of everything that is due; return whether there may be more."""
        now = self._timetable.now()
        retimed = self._is_leader() and await self._retime()
        full_desks: set[tuple[str, str]] = set()
        progress = False
        for schedules, handle in (
            (await self._journal.waiting(BATCH_SIZE), self._start_waiting),
            (await self._journal.due(now, BATCH_SIZE), self._handle),
        ):
            for schedule in schedules:
                desk = (schedule.owner.org, schedule.owner.desk)
                if desk not in full_desks:
                    try:
                        progress |= await self._guarded(schedule, handle)
                    except RateLimited:
                        full_desks.add(desk)
                        await self._journal.postpone_desk(schedule, now, RETRY_SECONDS)
        return await self._backfills.step() or retimed or progress

    async def _retime(self) -> bool:
        """Compute the next occurrences again whose calendar may have changed; return whether there may be more."""
        version = self._timetable.version()
        outdated = await self._journal.outdated(version, BATCH_SIZE)
        for schedule in outdated:
            try:
                timing = await self._timetable.timing(schedule.spec)
                upcoming = self._timetable.upcoming(timing, schedule.handled_at)
            except InvalidRequest as error:  # a calendar or a time zone that the new version does not have
                upcoming = Upcoming(None, error.message)
            await self._journal.retime(schedule, upcoming, version)
        return len(outdated) == BATCH_SIZE

    async def _guarded(self, schedule: StoredSchedule, handle: Callable[[StoredSchedule], Awaitable[bool]]) -> bool:
        """Handle a schedule; return whether it made progress. An error postpones only this schedule.

        Raises:
            RateLimited: its desk has too many unfinished runs.
        """
        seconds = RETRY_SECONDS
        try:
            return await handle(schedule)
        except RateLimited:
            raise
        except Killed:
            pass
        except DrwError as error:
            log.warning("a schedule cannot be handled: %s", telemetry.loggable(error), extra=_fields(schedule))
        except Exception:  # of this schedule only: others must not wait for it
            seconds = ERROR_SECONDS
            log.exception("a schedule cannot be handled", extra=_fields(schedule))
        await self._journal.postpone(schedule, self._timetable.now() + timedelta(seconds=seconds))
        return False

    async def _handle(self, schedule: StoredSchedule) -> bool:
        occurrence = schedule.next
        assert occurrence is not None
        try:
            timing = await self._timetable.timing(schedule.spec)
        except InvalidRequest as error:
            upcoming = Upcoming(None, error.message)
            return await self._journal.skip(schedule, "REFUSED", error.message, occurrence.at, upcoming)
        upcoming = self._timetable.upcoming(timing, occurrence.at)
        oldest = self._timetable.now() - timedelta(seconds=schedule.catch_up_seconds)
        if occurrence.start_at(schedule.id, schedule.spec.jitter_seconds) < oldest:
            detail = f"later than the catch-up window of {schedule.catch_up_seconds} s, with all others up to {oldest}"
            upcoming = self._timetable.upcoming(timing, max(oldest, occurrence.at))
            return await self._journal.skip(schedule, "MISSED", detail, max(oldest, occurrence.at), upcoming)
        if reason := self._timetable.frozen(timing, schedule.owner, occurrence):
            return await self._journal.skip(schedule, "FROZEN", reason, occurrence.at, upcoming)
        try:
            prepared = await self._prepare(schedule, occurrence, timing)
        except Killed:
            raise
        except (InvalidRequest, NotFound, Forbidden, Conflict) as error:
            return await self._journal.skip(schedule, "REFUSED", error.message, occurrence.at, upcoming)
        return prepared is not None and await self._journal.start(schedule, prepared, upcoming)

    async def _start_waiting(self, schedule: StoredSchedule) -> bool:
        occurrence = schedule.waiting
        assert occurrence is not None
        try:
            timing = await self._timetable.timing(schedule.spec)
            prepared = await self._prepare(schedule, occurrence, timing)
        except Killed:
            raise
        except (InvalidRequest, NotFound, Forbidden, Conflict) as error:
            await self._journal.skip_waiting(schedule, error.message)
            return True
        if prepared is not None:
            await self._journal.start_waiting(schedule, prepared)
        return False

    async def _prepare(self, schedule: StoredSchedule, occurrence: Occurrence, timing: Timing) -> PreparedRun | None:
        try:
            return await self._preparation.prepare(schedule.id, schedule.owner, schedule.spec, occurrence, timing.zone)
        except CredentialEnded as error:
            await self._journal.stop(schedule, error.message)
            return None


def _fields(schedule: StoredSchedule) -> dict[str, dict[str, str]]:
    return {"fields": {"schedule": schedule.id}}
