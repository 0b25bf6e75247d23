"""Runs one request of a batch: with the present permissions of the creator, metered and recorded like any call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from drw.billing.reservations.errors import EngineOvershot
from drw.kernel.errors import (
    NEVER,
    DeadlineExceeded,
    DrwError,
    InternalError,
    RateLimited,
    Unavailable,
)
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection
from drw.killswitch.watch import Killed, KillList
from drw.models.serving.batches import metrics
from drw.models.serving.batches.endpoints import BatchEndpoint
from drw.models.serving.batches.permissions import PresentPermissions
from drw.models.serving.batches.queues.lease import LeaseLost
from drw.models.serving.batches.queues.line_queue import Line, LineQueue
from drw.models.serving.batches.worker import results
from drw.models.serving.errors import EngineStalled, RequestTimedOut, ResponseTruncated
from drw.models.serving.observability.call_record import CallRecord

log = logging.getLogger(__name__)

INVOKE = "models:invoke"
MAX_ATTEMPTS = 5
"""Attempts at a request whose answers end early or take too long; outages of services do not count."""
MAX_INTERRUPTIONS = 8
"""Attempts that end with their process: then the request is the likely cause."""
MAX_PAUSE_SECONDS = 60
OF_REQUEST = (ResponseTruncated, EngineStalled, RequestTimedOut, EngineOvershot)
"""Errors that can be due to the request: they are retried a few times."""


class LineRunner:
    """Runs claimed requests."""

    def __init__(
        self,
        lines: LineQueue,
        endpoints: Mapping[str, BatchEndpoint],
        permissions: PresentPermissions,
        kills: KillList,
        audit: AuditWriter,
        max_output_bytes: int,
    ) -> None:
        self._lines = lines
        self._endpoints = endpoints
        self._permissions = permissions
        self._kills = kills
        self._audit = audit
        self._max_output_bytes = max_output_bytes

    async def run(self, line: Line) -> None:
        """Run a request, and store its result or release it for another attempt.

        Raises:
            Unavailable: the database does not answer; the claim ends with the lease of the worker.
        """
        trace = telemetry.incoming_context({"traceparent": line.batch.trace})
        with telemetry.continuing(trace), telemetry.span("batch request", attributes={"drw.batch": line.batch.id}):
            if line.interruptions >= MAX_INTERRUPTIONS:
                await self._fail_unanswered(line, *results.INTERRUPTED)
            elif line.batch.output_bytes >= self._max_output_bytes:
                await self._fail_unanswered(line, *results.OUTPUT_FULL)
            else:
                await self._attempt(line)

    async def _attempt(self, line: Line) -> None:
        try:
            await self._call(line)
        except LeaseLost:
            log.warning("a result of a batch is discarded: another worker has the request")
        except (Killed, RateLimited, Unavailable, DeadlineExceeded) as error:
            await self._retry_or_fail(line, error)
        except DrwError as error:
            await self._fail(line, error)
        except Exception:  # a bug fails one request, and must not end the worker
            log.exception("a request of a batch failed")
            await self._fail(line, InternalError("unexpected error; the log has more under this trace id"))

    async def _call(self, line: Line) -> None:
        """Make the call; its result, its charge and its audit record are one commit."""
        endpoint = self._endpoints[line.batch.endpoint]
        creator = line.batch.files_principal
        with context.acting_for(creator):
            record = CallRecord(self._audit, endpoint.operation, line.request)
            record.details |= {"batch": line.batch.id, "line": line.line}

            async def store(connection: Connection, body: bytes) -> None:
                await self._lines.finish(line, "completed", results.success(line, body), record.details, connection)

            try:
                principal = await self._permissions.principal(line.batch)
                principal.require_scope(INVOKE)
                with context.acting_for(principal), self._kills.guard_block(principal, lambda: record.models):
                    await endpoint.run(record, store)
                metrics.count_ended(line.batch.endpoint, "completed")
                metrics.count_tokens(line.batch.endpoint, record.details)
            except LeaseLost:
                await self._record_discarded(line, endpoint.operation)
                raise
            except BaseException as error:
                with suppress(Unavailable):
                    await record.fail(error)
                raise

    async def _record_discarded(self, line: Line, operation: str) -> None:
        """Record a call whose answer is discarded, and not charged."""
        details = {"batch": line.batch.id, "line": line.line, "error": LeaseLost.__name__}
        await self._audit.record(f"model.{operation}", "model/?", outcome="failed", details=details)

    async def _retry_or_fail(self, line: Line, error: DrwError) -> None:
        """Release the request for another attempt, or fail it if another attempt does not help."""
        after = error.metadata.get("retry_after", "")
        if after == NEVER or (isinstance(error, OF_REQUEST) and line.attempts >= MAX_ATTEMPTS):
            await self._fail(line, error)
            return
        seconds = min(MAX_PAUSE_SECONDS, 2 ** min(line.attempts - 1, 6))
        if after.isdecimal():
            seconds = min(MAX_PAUSE_SECONDS, max(seconds, int(after)))
        await self._lines.release(line, seconds, pause_batch=not isinstance(error, OF_REQUEST))

    async def _fail(self, line: Line, error: DrwError) -> None:
        await self._finish(line, results.failure(line, error))

    async def _fail_unanswered(self, line: Line, code: str, message: str) -> None:
        with context.acting_for(line.batch.files_principal):
            details = {"batch": line.batch.id, "line": line.line, "code": code}
            await self._audit.record("batch.request", f"batch/{line.batch.id}", outcome="failed", details=details)
        await self._finish(line, results.not_answered(line, code, message))

    async def _finish(self, line: Line, response: bytes) -> None:
        with suppress(LeaseLost):
            await self._lines.finish(line, "failed", response, {})
            metrics.count_ended(line.batch.endpoint, "failed")
