"""The dispatcher: starts the runs of events that matched triggers, in turns of orgs and desks.

Every orchestration process runs one. Each event is handled in one transaction, so that a process can be killed or
frozen at any point, and no leader is needed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress

from drw.kernel.errors import Conflict, DrwError, Forbidden, InvalidRequest, NotFound, RateLimited, TooLarge
from drw.kernel.observability import telemetry
from drw.kernel.storage.database import Database
from drw.killswitch.watch import Killed
from drw.workflow.orchestration.permissions import CredentialEnded
from drw.workflow.orchestration.runs import RunRequest
from drw.workflow.orchestration.schedules.preparation import Preparation
from drw.workflow.orchestration.triggers import conditions
from drw.workflow.orchestration.triggers.journal import CHANNEL, TriggerJournal
from drw.workflow.orchestration.triggers.stored import WaitingEvent

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
BATCH_SIZE = 100
RETRY_SECONDS = 5.0
"""After which a trigger is tried again whose event could not start its run yet: a kill, an unavailable service."""
ERROR_SECONDS = 60.0
"""The same after an unexpected error."""


class TriggerDispatcher:
    """Handles waiting events until it is cancelled."""

    def __init__(self, database: Database, journal: TriggerJournal, preparation: Preparation) -> None:
        self._database = database
        self._journal = journal
        self._preparation = preparation
        self._wake = asyncio.Event()

    async def listen(self) -> None:
        """Wake the dispatcher when an event matches a trigger."""
        async with aclosing(self._database.notifications(CHANNEL)) as notifications:
            async for _ in notifications:
                self._wake.set()

    async def run(self) -> None:
        """Handle waiting events until cancelled."""
        while True:
            self._wake.clear()
            if not await self.step():
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._wake.wait()

    async def step(self) -> bool:
        """Handle one batch of waiting events; return whether there may be more."""
        full_desks: set[tuple[str, str]] = set()
        progress = False
        for waiting in await self._journal.due(BATCH_SIZE):
            owner = waiting.trigger.owner
            if (owner.org, owner.desk) in full_desks:
                continue
            try:
                progress |= await self._guarded(waiting)
            except RateLimited as error:
                full_desks.add((owner.org, owner.desk))
                await self._journal.postpone_desk(waiting.trigger, RETRY_SECONDS, error.message)
        return progress

    async def _guarded(self, waiting: WaitingEvent) -> bool:
        """Handle an event; return whether it is handled. An error postpones only its trigger.

        Raises:
            RateLimited: the desk has too many unfinished runs.
        """
        seconds, detail = RETRY_SECONDS, "an error of the platform"
        try:
            return await self._handle(waiting)
        except RateLimited:
            raise
        except Killed as error:
            detail = error.message
        except DrwError as error:
            detail = error.message
            log.warning("an event cannot start a run: %s", telemetry.loggable(error), extra=_fields(waiting))
        except Exception:  # of this trigger only: others must not wait for it
            seconds = ERROR_SECONDS
            log.exception("an event cannot start a run", extra=_fields(waiting))
        await self._journal.postpone(waiting.trigger, seconds, detail)
        return False

    async def _handle(self, waiting: WaitingEvent) -> bool:
        trigger = waiting.trigger
        try:
            values = conditions.inputs(trigger.spec, waiting.variables)
            request = RunRequest(waiting.request_id, trigger.spec.template, values)
            prepared = await self._preparation.of(trigger.owner, request)
            conditions.check_may_read(prepared.caller, conditions.event_type(trigger.spec))
        except CredentialEnded as error:
            await self._journal.stop(trigger, error.message)
            return True
        except Killed:
            raise
        except (InvalidRequest, TooLarge, NotFound, Forbidden, Conflict) as error:
            return await self._journal.refuse(waiting, error.message)
        return await self._journal.start(waiting, prepared)


def _fields(waiting: WaitingEvent) -> dict[str, dict[str, str]]:
    return {"fields": {"trigger": waiting.trigger.id, "event": waiting.event}}
