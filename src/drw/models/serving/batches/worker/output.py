"""Stores the results of a batch in files: the output file and the error file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from drw.kernel.errors import DeadlineExceeded, DrwError, RateLimited, Unavailable
from drw.kernel.rpc import context
from drw.kernel.storage.database import Database
from drw.models.serving.batches import metrics
from drw.models.serving.batches.batch import Batch
from drw.models.serving.batches.files import BatchFiles
from drw.models.serving.batches.queues.job_queue import JobQueue
from drw.models.serving.batches.queues.lease import LeaseLost
from drw.models.serving.batches.worker import results

PAGE_LINES = 1000
PAGE_BYTES = 4 << 20
SIZES = """
select line, coalesce(octet_length(response), 0) as bytes from batch_line where batch = %s and line > %s
order by line limit %s
"""
RESULTS = """
select line, custom_id, state, response from batch_line where batch = %s and line > %s and line <= %s order by line
"""


class OutputWriter:
    """Stores the results of batches."""

    def __init__(self, database: Database, jobs: JobQueue, files: BatchFiles) -> None:
        self._database = database
        self._jobs = jobs
        self._files = files

    async def write(self, job: Batch) -> None:
        """Store the results of a batch and end it. A repeated attempt stores the same files.

        Raises:
            LeaseLost: another worker has the batch.
            Unavailable: a service does not answer; the batch stays.
        """
        if job.in_progress_at is None:  # cancelled before its file was validated
            await self._jobs.start_lines(job)
            await self._jobs.complete(job, "", "")
            return
        batch = await self._jobs.end_lines(job)
        metrics.count_ended(batch.endpoint, "not_run", batch.failed - job.failed)
        try:
            with context.acting_for(batch.files_principal):
                output_file, error_file = await self._store(batch)
        except (LeaseLost, Unavailable, DeadlineExceeded, RateLimited):
            raise
        except DrwError as error:
            message = f"the results cannot be stored: {error.message}"
            await self._jobs.fail(job, [{"code": "output_not_stored", "line": None, "message": message, "param": None}])
            return
        await self._jobs.complete(job, output_file, error_file)

    async def _store(self, batch: Batch) -> tuple[str, str]:
        """Write both files; return their ids."""
        walls = list(batch.walls)
        output, errors = (
            self._files.writer(f"{batch.id}-{batch.lease}-{kind}", f"{batch.id}_{kind}.jsonl", walls)
            for kind in ("output", "error")
        )
        async for row in self._results(batch):
            if row["state"] == "completed":
                await output.write(row["response"])
            elif row["response"] is not None:
                await errors.write(row["response"])
            else:
                await errors.write(results.not_run(batch.id, row["line"], row["custom_id"], batch.ending))
        return await output.finish(), await errors.finish()

    async def _results(self, batch: Batch) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines in order; memory is bounded by `PAGE_BYTES` and one result."""
        last = 0
        while sizes := await self._database.all(SIZES, batch.number, last, PAGE_LINES):
            end, size = 0, 0
            for row in sizes:
                if end and size + row["bytes"] > PAGE_BYTES:
                    break
                end, size = row["line"], size + row["bytes"]
            for row in await self._database.all(RESULTS, batch.number, last, end):
                yield row
            last = end
