"""Worker of batches: one for each process. It validates files, runs requests and stores results."""

from __future__ import annotations

import asyncio
import logging

from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry
from drw.kernel.storage import worker_lease
from drw.kernel.storage.change_notifications import ChangeNotifications
from drw.kernel.storage.database import Database
from drw.models.serving.batches.batch import Batch
from drw.models.serving.batches.queues.job_queue import JobQueue
from drw.models.serving.batches.queues.lease import WORKER_LOCKS, LeaseLost
from drw.models.serving.batches.queues.line_queue import Line, LineQueue
from drw.models.serving.batches.worker.execution import LineRunner
from drw.models.serving.batches.worker.output import OutputWriter
from drw.models.serving.batches.worker.validation import Validator

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Interval of looking for work without a notification: pauses end, and workers die, without one."""


class BatchWorker:
    """Processes batches of all orgs with the other workers."""

    def __init__(
        self,
        database: Database,
        new_work: ChangeNotifications,
        jobs: JobQueue,
        lines: LineQueue,
        validator: Validator,
        output: OutputWriter,
        runner: LineRunner,
        concurrent: int,
    ) -> None:
        self._database = database
        self._new_work = new_work
        self._jobs = jobs
        self._lines = lines
        self._validator = validator
        self._output = output
        self._runner = runner
        self._concurrent = concurrent

    async def work(self) -> None:
        """Work until cancelled.

        Raises:
            Unavailable: the database, and with it the lease, is lost; the caller starts it again.
        """
        async with worker_lease.acquired(self._database, WORKER_LOCKS) as lease:
            await lease.run(self._work(lease.number))

    async def _work(self, worker: int) -> None:
        lost: DrwError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._run_lines(worker, group))
                group.create_task(self._process_jobs(worker))
        except* DrwError as errors:
            lost = next(error for error in _flat(errors) if isinstance(error, DrwError))
        if lost:
            raise lost

    async def _run_lines(self, worker: int, group: asyncio.TaskGroup) -> None:
        running: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            self._new_work.wake()

        while True:
            change = self._new_work.next_change()
            free = self._concurrent - len(running)
            claimed = await self._lines.claim(worker, free) if free else []
            for line in claimed:
                task = group.create_task(self._run_line(line))
                running.add(task)
                task.add_done_callback(ended)
            if not claimed:
                await self._new_work.wait(change, IDLE_SECONDS)

    async def _run_line(self, line: Line) -> None:
        await self._runner.run(line)

    async def _process_jobs(self, worker: int) -> None:
        while True:
            change = self._new_work.next_change()
            if job := await self._jobs.claim(worker):
                await self._process(job)
            else:
                await self._new_work.wait(change, IDLE_SECONDS)

    async def _process(self, job: Batch) -> None:
        trace = telemetry.incoming_context({"traceparent": job.trace})
        with telemetry.continuing(trace), telemetry.span(f"batch {job.state}", attributes={"drw.batch": job.id}):
            try:
                if job.state == "validating":
                    await self._validator.validate(job)
                else:
                    await self._output.write(job)
            except LeaseLost:
                log.warning("a batch was cancelled, or another worker has it", extra={"fields": {"batch": job.id}})
            except DrwError as error:
                fields = {"batch": job.id, "error": telemetry.loggable(error)}
                log.warning("a batch will be retried", extra={"fields": fields})
                await self._jobs.release(job)
            except Exception:  # a bug must not end the worker, which runs the batches of all tenants
                log.exception("a batch will be retried", extra={"fields": {"batch": job.id}})
                await self._jobs.release(job)


def _flat(errors: BaseExceptionGroup[DrwError]) -> list[BaseException]:
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return flat
