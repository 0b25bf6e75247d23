"""The run journal: the executor's record of runs, one transaction per change, rejected after the run is lost.

An attempt is counted before it starts, and a finished step never starts again. No finished step runs twice, even if
the process dies between the end of a step and the engine's record of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.execution import signals
from drw.workflow.orchestration.metrics import ENDED_RUNS
from drw.workflow.orchestration.ports import LeadershipLost
from drw.workflow.orchestration.runs import cancel_children, cancel_open_steps


@dataclass(frozen=True, slots=True)
class Run:
    """A run owned by this process."""

    id: str
    fence: int
    caller: Principal
    template: Template
    inputs: dict[str, Any]
    trace: str
    started_at: str = ""
    """When it was started, as the journal has it."""
    depth: int = 0
    """The number of runs above it."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A control node or a waiting step: what it decided first, and its output if it has finished."""

    decision: Any
    finished: bool = False
    output: Any = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a step, or the recorded result of a finished step."""

    number: int
    finished: bool = False
    output: Any = None
    error: str = ""


class RunJournal:
    """The tables `run` and `step`, as used by the executor."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def queued_runs(self) -> list[str]:
        """Return the queued runs, oldest first."""
        rows = await self._database.all("select id from run where state = 'QUEUED' order by created_at")
        return [row["id"] for row in rows]

    async def ended_runs(self, runs: list[str]) -> list[str]:
        """Return those of the runs that have ended."""
        rows = await self._database.all(
            "select id from run where id = any(%s) and state not in ('QUEUED', 'RUNNING')", runs
        )
        return [row["id"] for row in rows]

    async def acquire(self, run: str) -> Run | None:
        """Take ownership of the run; return None if it has ended."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "update run set fence = fence + 1, state = 'RUNNING' where id = %s and state in ('QUEUED', 'RUNNING')"
                " returning *",
                (run,),
            )
            if (row := await cursor.fetchone()) is None:
                return None
            detail = "" if row["fence"] == 1 else "resumed"
            await events.add(connection, run, "started", detail=detail)
        return Run(
            id=run,
            fence=row["fence"],
            caller=Principal(row["org"], row["desk"], row["key"], frozenset(row["scopes"]), frozenset(row["walls"])),
            template=Template.FromString(row["template"]),
            inputs=row["inputs"],
            trace=row["trace"],
            started_at=row["created_at"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            depth=row["depth"],
        )

    async def begin_step(self, run: Run, step: str) -> Attempt:
        """Count an attempt at a step durably, before it starts.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await _add_step(connection, run.id, step)
            cursor = await connection.execute(
                "update step set attempts = attempts + 1, state = 'RUNNING',"
                " started_at = coalesce(started_at, clock_timestamp())"
                " where run = %s and id = %s and state in ('QUEUED', 'RUNNING', 'RETRYING') returning attempts",
                (run.id, step),
            )
            if (row := await cursor.fetchone()) is None:
                return await _finished_attempt(connection, run, step)
            number = int(row["attempts"])
            detail = "" if number == 1 else f"attempt {number}"
            await events.add(connection, run.id, "started", step=step, detail=detail)
            await self._record_step(connection, "step.begin", run, step, "ok", {"attempt": number})
        return Attempt(number)

    async def open_step(self, run: Run, step: str, decision: Any) -> OpenStep:
        """Record what a control node or a waiting step decided; return what it decided first.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await _add_step(connection, run.id, step)
            cursor = await connection.execute(
                "update step set attempts = 1, state = 'RUNNING', decision = %s, started_at = clock_timestamp()"
                " where run = %s and id = %s and state = 'QUEUED'",
                (orjson.dumps(decision).decode(), run.id, step),
            )
            if cursor.rowcount:
                await events.add(connection, run.id, "started", step=step)
                await self._record_step(connection, "step.begin", run, step, "ok", {"attempt": 1})
                return OpenStep(decision)
            cursor = await connection.execute("select * from step where run = %s and id = %s", (run.id, step))
            row = await cursor.fetchone()
        if row is None or row["state"] not in ("RUNNING", "SUCCEEDED"):
            raise _cannot_execute(run, step)
        return OpenStep(row["decision"], finished=row["state"] == "SUCCEEDED", output=row["output"])

    async def fail_open_step(self, run: Run, step: str, error: str) -> None:
        """Record that a control node or a waiting step has failed, even before it was opened."""
        await self.open_step(run, step, None)
        await self.end_step(run, step, 1, error=error)

    async def retry_step(self, run: Run, step: str, error: str, attempt: int) -> None:
        """Record that an attempt failed and will be retried."""
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await connection.execute(
                "update step set state = 'RETRYING', error = %s where run = %s and id = %s", (error, run.id, step)
            )
            await events.add(connection, run.id, "retrying", step=step, detail=error)
            await self._record_step(connection, "step.retry", run, step, "failed", {"attempt": attempt})

    async def end_step(self, run: Run, step: str, attempt: int, *, output: Any = None, error: str = "") -> None:
        """Record the end of a step; with an error, it failed permanently."""
        state = "failed" if error else "succeeded"
        output_json = orjson.dumps(output).decode()
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await connection.execute(
                "update step set state = %s, error = %s, output = %s, ended_at = clock_timestamp()"
                " where run = %s and id = %s",
                (state.upper(), error, None if error else output_json, run.id, step),
            )
            await events.add(connection, run.id, state, step=step, detail=error)
            details = {"attempt": attempt, "output": digest(output_json)}
            await self._record_step(connection, "step.end", run, step, "failed" if error else "ok", details)

    async def end_run(self, run: Run, *, output: Any = None, error: str = "") -> None:
        """Record the end of the run; with an error, it failed."""
        state = "failed" if error else "succeeded"
        output_json = orjson.dumps(output).decode()
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await events.add(connection, run.id, state, detail=error)
            await connection.execute(
                "update run set state = %s, error = %s, output = %s, ended_at = clock_timestamp() where id = %s",
                (state.upper(), error, None if error else output_json, run.id),
            )
            await cancel_open_steps(connection, run.id)
            await cancel_children(connection, self._audit, run.id)
            await signals.notify(connection)
            outcome = "failed" if error else "ok"
            details = {"output": digest(output_json), "fence": run.fence}
            await self._audit.record("run.end", run.id, outcome=outcome, details=details, connection=connection)
        ENDED_RUNS.labels(state).inc()

    async def _record_step(
        self, connection: Connection, action: str, run: Run, step: str, outcome: str, details: dict[str, Any]
    ) -> None:
        await self._audit.record(
            action, f"{run.id}/{step}", outcome=outcome, details=details | {"fence": run.fence}, connection=connection
        )


async def _finished_attempt(connection: Connection, run: Run, step: str) -> Attempt:
    cursor = await connection.execute("select * from step where run = %s and id = %s", (run.id, step))
    row = await cursor.fetchone()
    if row is None or row["state"] == "CANCELLED":
        raise _cannot_execute(run, step)
    error = row["error"] if row["state"] == "FAILED" else ""
    return Attempt(row["attempts"], finished=True, output=row["output"], error=error)


async def _add_step(connection: Connection, run: str, step: str) -> None:
    """Add a step inside of a control node, unless it exists. It is listed after the steps that began before."""
    await connection.execute(
        "insert into step (run, id, position) select id, %s, 100000 + events from run where id = %s"
        " on conflict do nothing",
        (step, run),
    )


def _cannot_execute(run: Run, step: str) -> LeadershipLost:
    return LeadershipLost(f"the step {step!r} of the run {run.id!r} cannot be executed any more", run=run.id)
