"""Dead letters: stores failed runs, and redrives them."""

from __future__ import annotations

import asyncio
from functools import partial

from drw.api.workflow.v1 import error_handling_rpc as contract
from drw.api.workflow.v1.error_handling_pb2 import (
    CancelRedriveRequest,
    DeadLetter,
    DiscardDeadLettersRequest,
    DiscardDeadLettersResponse,
    GetDeadLetterRequest,
    GetRedriveRequest,
    ListDeadLetterGroupsRequest,
    ListDeadLetterGroupsResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    Redrive,
    RedriveDeadLettersRequest,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.events.publisher import create_tables
from drw.kernel.errors import Unavailable
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.workflow.error_handling import messages
from drw.workflow.error_handling.failure_feed import FailureFeed
from drw.workflow.error_handling.letters import Letters
from drw.workflow.error_handling.metrics import update_gauges
from drw.workflow.error_handling.redrives.queue import RedriveQueue
from drw.workflow.error_handling.redrives.requests import RedriveRequests
from drw.workflow.error_handling.redrives.worker import RedriveWorker
from drw.workflow.error_handling.settings import Settings

DEFAULT_PAGE_SIZE = 50
PURGE_SECONDS = 3600.0


class ErrorHandling(contract.ErrorHandling):
    """Serves `drw.api.workflow.v1.ErrorHandling`."""

    def __init__(self, letters: Letters, redrives: RedriveRequests) -> None:
        self._letters = letters
        self._redrives = redrives

    async def list_dead_letters(self, request: ListDeadLettersRequest, /) -> ListDeadLettersResponse:
        """Return a page of the desk's dead letters."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        rows = await self._letters.page(context.caller(), request, size + 1)
        token = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return ListDeadLettersResponse(dead_letters=[messages.letter(r) for r in rows[:size]], next_page_token=token)

    async def get_dead_letter(self, request: GetDeadLetterRequest, /) -> DeadLetter:
        """Return a dead letter with its inputs."""
        return messages.letter(await self._letters.get(context.caller(), request.dead_letter))

    async def list_dead_letter_groups(self, request: ListDeadLetterGroupsRequest, /) -> ListDeadLetterGroupsResponse:
        """Return the groups of the desk's open dead letters."""
        rows = await self._letters.open_groups(context.caller())
        return ListDeadLetterGroupsResponse(groups=[messages.group(row) for row in rows])

    async def discard_dead_letters(self, request: DiscardDeadLettersRequest, /) -> DiscardDeadLettersResponse:
        """Close open dead letters without a redrive."""
        letters = await self._letters.discard(context.caller(), request.filter, request.reason, dry_run=request.dry_run)
        return DiscardDeadLettersResponse(dead_letters=letters)

    async def redrive_dead_letters(self, request: RedriveDeadLettersRequest, /) -> Redrive:
        """Queue a redrive, or count the dead letters that it would have."""
        caller = context.caller()
        if request.dry_run:
            return messages.dry_run(await self._redrives.matching_groups(caller, request))
        redrive = await self._redrives.create(caller, request)
        return messages.redrive(*await self._redrives.get(caller, redrive))

    async def get_redrive(self, request: GetRedriveRequest, /) -> Redrive:
        """Return a redrive of the caller's desk."""
        return messages.redrive(*await self._redrives.get(context.caller(), request.redrive))

    async def cancel_redrive(self, request: CancelRedriveRequest, /) -> Redrive:
        """Stop a redrive of the caller's desk."""
        caller = context.caller()
        await self._redrives.cancel(caller, request.redrive)
        return messages.redrive(*await self._redrives.get(caller, request.redrive))


async def build(scope: ServiceContext) -> ErrorHandling:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    database = await scope.database()
    await create_tables(database)
    letters = Letters(database, scope.audit())
    orchestration = scope.client(OrchestrationClient)
    feed = FailureFeed(letters, orchestration)
    queue = RedriveQueue(database, scope.audit(), settings.probe_timeout_seconds)
    worker = RedriveWorker(database, queue, orchestration, settings.poll_seconds)

    async def purge() -> None:
        while True:
            while await letters.purge(settings.retention_days):
                pass
            await asyncio.sleep(PURGE_SECONDS)

    async def describe() -> str:
        if feed.error_message:
            raise Unavailable(f"failed runs are not stored as dead letters: {feed.error_message}")
        return "dead letters are up to date"

    for task in (feed.follow, worker.run, purge):
        scope.background(task)
    scope.describe(describe)
    scope.on_scrape(partial(update_gauges, database))
    return ErrorHandling(letters, RedriveRequests(database, scope.audit(), settings.max_active_redrives))
