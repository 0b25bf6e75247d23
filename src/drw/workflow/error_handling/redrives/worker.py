"""The worker of redrives: probes each group with one letter, then starts runs for the others at the chosen rate.

A new run has the request id of its redrive and letter. After a crash, the worker that continues starts the same run
again, which returns the run that exists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

from drw.api.workflow.v1.orchestration_pb2 import CANCELLED, FAILED, SUCCEEDED, GetRunRequest, RestartRunRequest, Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import DeadlineExceeded, DrwError, RateLimited, Unavailable
from drw.kernel.rpc.context import acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.storage import worker_lease
from drw.kernel.storage.database import Database
from drw.killswitch.watch import Killed
from drw.workflow.error_handling.redrives.queue import (
    CHANNEL,
    WORKER_LOCKS,
    Item,
    OwnershipLost,
    Probe,
    Redrive,
    RedriveQueue,
)

log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
"""Interval at which a worker looks for redrives of dead workers, which have no notification."""
MAX_CONCURRENT = 20
"""Redrives that one process works on at a time."""
CALL_SECONDS = 20.0
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0


class RedriveWorker:
    """Works on redrives, several at a time, so that a slow probe delays no other redrive."""

    def __init__(
        self, database: Database, queue: RedriveQueue, orchestration: OrchestrationClient, poll_seconds: float
    ) -> None:
        self._database = database
        self._queue = queue
        self._orchestration = orchestration
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Work on redrives until cancelled.

        Raises:
            Unavailable: the worker has lost its lease; call again.
        """
        async with worker_lease.acquired(self._database, WORKER_LOCKS) as lease:
            await lease.run(self._work(lease.number))

    async def _work(self, worker: int) -> None:
        slots = asyncio.Semaphore(MAX_CONCURRENT)
        async with asyncio.TaskGroup() as tasks:
            async for _ in self._wake_ups():
                while not slots.locked() and (redrive := await self._queue.claim(worker)):
                    await slots.acquire()
                    task = tasks.create_task(self._advance(redrive), name=redrive.id)
                    task.add_done_callback(lambda _: slots.release())

    async def _wake_ups(self) -> AsyncIterator[None]:
        """Yield after each notification, and at an interval."""
        async with aclosing(self._database.notifications(CHANNEL)) as notifications:
            waiting = asyncio.ensure_future(anext(notifications))
            try:
                while True:
                    await asyncio.wait([waiting], timeout=IDLE_SECONDS)
                    if waiting.done():
                        waiting.result()
                        waiting = asyncio.ensure_future(anext(notifications))
                    yield
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def _advance(self, redrive: Redrive) -> None:
        """Work on a redrive until it ends or another worker owns it. While a service is unavailable, wait."""
        while True:
            try:
                if (delay := await self._step(redrive)) is None:
                    return
            except OwnershipLost:
                return
            except (RateLimited, Unavailable, DeadlineExceeded, Killed) as error:
                log.info("redrive %s waits: %s", redrive.id, type(error).__name__)
                delay = _retry_delay(error)
            await asyncio.sleep(delay)

    async def _step(self, redrive: Redrive) -> float | None:
        """Take the next step; return the seconds until the one after it, or None at the end."""
        match await self._queue.next(redrive):
            case None:
                await self._queue.ended(redrive)
                return None
            case Probe() as probe:
                return await self._check_probe(redrive, probe)
            case Item() as item:
                return await self._start(redrive, item)

    async def _start(self, redrive: Redrive, item: Item) -> float:
        try:
            run = await self._restart(redrive, item)
        except (RateLimited, Unavailable, DeadlineExceeded, Killed):
            raise
        except DrwError as error:
            await self._queue.failed(redrive, item, error.message)
            return 0
        await self._queue.started(redrive, item, run.id)
        return self._poll_seconds if item.is_probe else 60 / redrive.runs_per_minute

    async def _restart(self, redrive: Redrive, item: Item) -> Run:
        request = RestartRunRequest(
            run=item.run,
            request_id=f"{redrive.id}/{item.letter}",
            inputs=json_message(redrive.inputs),
            template_version=redrive.template_version,
            from_step=redrive.from_step,
        )
        with acting_for(redrive.caller):
            return await self._orchestration.restart_run(request, timeout=CALL_SECONDS)

    async def _check_probe(self, redrive: Redrive, probe: Probe) -> float:
        with acting_for(redrive.caller):
            run = await self._orchestration.get_run(GetRunRequest(run=probe.run), timeout=CALL_SECONDS)
        if run.state == SUCCEEDED:
            await self._queue.passed(redrive, probe)
            return 60 / redrive.runs_per_minute
        if run.state in (FAILED, CANCELLED):
            await self._queue.refused(redrive, probe, run.error)
            return 0
        if probe.overdue:
            await self._queue.refused(redrive, probe, f"the run {probe.run!r} has not ended in time")
            return 0
        return self._poll_seconds


def _retry_delay(error: DrwError) -> float:
    try:
        return min(MAX_RETRY_SECONDS, max(RETRY_SECONDS, float(error.metadata.get("retry_after", "0"))))
    except ValueError:  # "never": an operator can still raise the limit
        return MAX_RETRY_SECONDS
