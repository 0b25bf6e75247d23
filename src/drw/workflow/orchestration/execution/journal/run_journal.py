"""The run journal: the executor's record of runs, one transaction per change, rejected after the run is lost.

An attempt is counted before it starts, and a finished step never starts again. No finished step runs twice, even if
the process dies between the end of a step and the engine's record of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any, LiteralString

import orjson

from drw.api.workflow.v1.orchestration_pb2 import AMBIGUOUS, PERMANENT, FailureClass
from drw.api.workflow.v1.templates_pb2 import Node, Template
from drw.kernel.errors import DrwError
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage import advisory_lock
from drw.kernel.storage.advisory_lock import LockId
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events, failed_runs
from drw.workflow.orchestration.compensation import steps as undo
from drw.workflow.orchestration.control.pauses import RunPaused, check_not_paused, once_resumed
from drw.workflow.orchestration.control.run_queue import CLAIM, QUEUE_LOCK, START_NEXT, QueueLimits
from drw.workflow.orchestration.execution import output_check
from drw.workflow.orchestration.execution.journal import signals
from drw.workflow.orchestration.execution.journal.signals import Signals
from drw.workflow.orchestration.execution.journal.statements import ACQUIRE, BEGIN_STEP, END_STEP
from drw.workflow.orchestration.metrics import ENDED_RUNS
from drw.workflow.orchestration.payloads.payload_store import PayloadDamaged, PayloadStore, Reference, Stored
from drw.workflow.orchestration.ports import LeadershipLost
from drw.workflow.orchestration.runs import CHANNEL as RUN_CHANNEL
from drw.workflow.orchestration.runs import cancel_children, cancel_open_steps


@dataclass(frozen=True, slots=True)
class Run:
    """A run owned by this process."""

    id: str
    fence: int
    caller: Principal
    template: Template
    inputs: dict[str, Any]
    """The small inputs, until `RunJournal.with_inputs` reads the others."""
    trace: str
    started_at: str = ""
    """When it was started, as the journal has it."""
    depth: int = 0
    """The number of runs above it."""
    inputs_payload: Reference | None = None
    """Reference to all inputs, if they are a payload."""
    event_depth: int = 0
    """The number of runs that an event started, one by another, up to this one."""
    undo_state: str = ""
    """The state in which it ends after its steps are undone; empty: it does not undo them."""
    undo_reason: str = ""


class RecordedFailure(DrwError):
    """A step has failed, as the journal records."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A control node or a waiting step: what it decided first, and its output or error if it has finished."""

    decision: Any
    finished: bool = False
    output: Any = None
    error: str = ""

    def result(self) -> Any:
        """Return the output of a finished step.

        Raises:
            RecordedFailure: it failed before the process that executed it ended.
        """
        if self.error:
            raise RecordedFailure(self.error)
        return self.output


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a step, or the recorded result of a finished step."""

    number: int
    after_interruption: bool = False
    """An earlier attempt has no recorded end: its process died, or lost the run."""
    finished: bool = False
    output: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class StepFailure:
    """The error of a failed attempt."""

    error: str
    failure_class: FailureClass = PERMANENT
    reason: str = ""
    """The name of the error class."""


def arguments_digest(arguments: Mapping[str, Any]) -> str:
    """Return the digest of a step's arguments for the journal."""
    return digest(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS))


class RunJournal:
    """The tables `run` and `step`, as used by the executor.

    A run that was interrupted more than `max_interruptions` times without a finished step fails: it may be the cause.
    Methods that begin a step, or end a run, wait while the run is paused.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        payloads: PayloadStore,
        notifications: Signals,
        queue_limits: QueueLimits,
        max_interruptions: int = 20,
        executor: str = "",
    ) -> None:
        self._database = database
        self._audit = audit
        self._payloads = payloads
        self._notifications = notifications
        self._queue_limits = queue_limits
        self._max_interruptions = max_interruptions
        self._executor = executor

    async def claim_runs(self, limit: int) -> list[str]:
        """Claim queued runs that can start, and that no other executor has claimed; return them in their order."""
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (QUEUE_LOCK,))
            await connection.execute(START_NEXT, self._queue_limits.parameters())
            cursor = await connection.execute(CLAIM, {"executor": self._executor, "limit": limit})
            return [row["id"] for row in await cursor.fetchall()]

    async def fence_runs(self, executor: str) -> None:
        """Reject later writes of an executor that has lost its runs, and return those that it only claimed."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "update run set fence = fence + (state = 'RUNNING')::int,"
                " executor = case when state = 'QUEUED' then '' else executor end"
                " where executor = %s and state in ('QUEUED', 'RUNNING')",
                (executor,),
            )
            await connection.execute("select pg_notify(%s, '')", (RUN_CHANNEL,))

    async def executors_without_leader(self, lock_kind: int) -> list[str]:
        """Return the other executors that have unfinished runs, and whose lock of this kind nobody holds."""
        rows = await self._database.all(
            "select distinct executor from run where state in ('QUEUED', 'RUNNING') and executor not in ('', %s)",
            self._executor,
        )
        if not rows:
            return []
        held = {row["number"] for row in await self._database.all(advisory_lock.holders_query(lock_kind))}
        names = [row["executor"] for row in rows]
        return [name for name in names if LockId.named(lock_kind, name).number % 2**32 not in held]

    async def ended_runs(self, runs: list[str]) -> list[str]:
        """Return those of the runs that have ended."""
        rows = await self._database.all(
            "select id from run where id = any(%s) and state not in ('QUEUED', 'RUNNING')", runs
        )
        return [row["id"] for row in rows]

    async def acquire(self, run: str) -> Run | None:
        """Take ownership of the run; return None if it has ended."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(ACQUIRE, {"executor": self._executor, "run": run})
            if (row := await cursor.fetchone()) is None:
                return None
            detail = "" if row["fence"] == 1 else "resumed"
            await events.add(connection, run, "started", detail=detail)
            acquired = _run(row)
            interrupted = row["interruptions"] > self._max_interruptions
            if interrupted and (undoing := await self._undo_interrupted(connection, acquired, row["interruptions"])):
                return undoing
            if interrupted:
                await self._fail_interrupted(connection, acquired, row["interruptions"])
        if interrupted:
            ENDED_RUNS.labels("failed").inc()
            return None
        return acquired

    async def with_inputs(self, run: Run) -> Run | None:
        """Return an acquired run with all inputs. If they are damaged, end the run and return None."""
        try:
            return replace(run, inputs=await self._payloads.load(run.caller, run.inputs, run.inputs_payload))
        except PayloadDamaged as error:
            with context.acting_for(run.caller):
                await self.end_run(run, error=error.message)
            return None

    async def acquire_undo(self, run: Run) -> Run | None:
        """Return a run that was cancelled while this process executed it, to undo its steps; None: it does not.

        The cancellation has raised the fence by one, for the process that executed the run.
        """
        row = await self._database.one(
            "select * from run where id = %s and fence = %s and state = 'RUNNING' and undo_state <> ''",
            run.id,
            run.fence + 1,
        )
        return _run(row) if row else None

    async def begin_undo(self, run: Run, error: str) -> Run | None:
        """Record that a failed run undoes its steps; return it, or None if there is nothing to undo."""
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            return await self._begin_undo(connection, run, error)

    async def plan_undo(self, run: Run, step: str, plan: str) -> None:
        """Store the arguments of a compensation before its step starts."""
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await _add_step(connection, run.id, step)
            await connection.execute(
                "update step set undo = %s where run = %s and id = %s and undo is null", (plan, run.id, step)
            )

    async def steps_to_undo(self, run: Run) -> list[dict[str, Any]]:
        """Return the steps to undo, the last one first: `id`, `node`, and `undo`, the plan of the compensation."""
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            return await undo.steps(connection, run.id, run.template)

    async def undoing_runs(self, runs: list[str]) -> list[str]:
        """Return those of the runs that undo their steps."""
        rows = await self._database.all(
            "select id from run where id = any(%s) and state = 'RUNNING' and undo_state <> ''", runs
        )
        return [row["id"] for row in rows]

    async def release(self, runs: list[str]) -> None:
        """Record that this process stopped these runs on purpose, which is no interruption."""
        await self._database.all(
            "update run set interruptions = greatest(-1, interruptions - 1)"
            " where id = any(%s) and state = 'RUNNING' and executor = %s returning id",
            runs,
            self._executor,
        )

    async def begin_step(self, run: Run, step: str, arguments: str = "") -> Attempt:
        """Count an attempt at a step durably, before it starts.

        Raises:
            LeadershipLost: this process no longer owns the run.
            PayloadDamaged: the step has succeeded, and its output cannot be read.
        """
        if await self._begin_first(run, step, arguments):
            return Attempt(1)
        attempt, reference = await once_resumed(self._notifications, lambda: self._begin_step(run, step, arguments))
        return replace(attempt, output=await self._payloads.load(run.caller, attempt.output, reference))

    async def _begin_step(self, run: Run, step: str, arguments: str) -> tuple[Attempt, dict[str, Any] | None]:
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await _add_step(connection, run.id, step)
            cursor = await connection.execute(
                "update step set attempts = attempts + 1, state = 'RUNNING', arguments = %s,"
                " started_at = coalesce(started_at, clock_timestamp())"
                " where run = %s and id = %s and state in ('QUEUED', 'RUNNING', 'RETRYING') and not run_is_paused(run)"
                " returning attempts, old.state as previous",
                (arguments, run.id, step),
            )
            if (row := await cursor.fetchone()) is None:
                return await _finished_attempt(connection, run, step)
            number = int(row["attempts"])
            detail = "" if number == 1 else f"attempt {number}"
            await events.add(connection, run.id, "started", step=step, detail=detail)
            await self._record_step(connection, "step.begin", run, step, "ok", {"attempt": number})
        return Attempt(number, after_interruption=row["previous"] == "RUNNING"), None

    async def open_step(self, run: Run, step: str, decision: Any, arguments: str = "") -> OpenStep:
        """Record what a control node or a waiting step decided; return what it decided first.

        Raises:
            LeadershipLost: this process no longer owns the run.
            PayloadDamaged: what the step decided, or its output, cannot be read.
        """
        decision_json = orjson.dumps(decision)
        await self._payloads.check(run.caller, run.id, len(decision_json))
        stored = await self._payloads.store(run.caller, run.id, decision_json)
        row = await once_resumed(self._notifications, lambda: self._open_step(run, step, stored, arguments))
        if row is None:
            return OpenStep(decision)
        if row["state"] not in ("RUNNING", "SUCCEEDED", "FAILED"):
            raise _cannot_execute(run, step)
        return OpenStep(
            await self._payloads.load(run.caller, row["decision"], row["decision_payload"]),
            finished=row["state"] != "RUNNING",
            output=await self._payloads.load(run.caller, row["output"], row["output_payload"]),
            error=row["error"] if row["state"] == "FAILED" else "",
        )

    async def _open_step(self, run: Run, step: str, decision: Stored, arguments: str) -> dict[str, Any] | None:
        """Open a step and return None, or return the step that was opened before."""
        if await self._begin_first(run, step, arguments, decision):
            return None
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            cursor = await connection.execute("select * from step where run = %s and id = %s", (run.id, step))
            row = await cursor.fetchone() or {"state": "QUEUED"}
        if row["state"] == "QUEUED":
            raise RunPaused(f"the run {run.id!r} is paused")
        return row

    async def fail_open_step(self, run: Run, step: str, failure: StepFailure) -> None:
        """Record that a control node or a waiting step has failed, even before it was opened."""
        if not (await self.open_step(run, step, None)).finished:
            await self.end_step(run, step, 1, failure=failure)

    async def retry_step(self, run: Run, step: str, failure: StepFailure, attempt: int) -> None:
        """Record that an attempt failed and will be retried."""
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            await connection.execute(
                "update step set state = 'RETRYING', error = %s, failure_class = %s, reason = %s"
                " where run = %s and id = %s",
                (*_failure_columns(failure), run.id, step),
            )
            await events.add(connection, run.id, "retrying", step=step, detail=failure.error)
            details = {"attempt": attempt, "class": FailureClass.Name(failure.failure_class)}
            await self._record_step(connection, "step.retry", run, step, "failed", details)

    async def check_output(self, run: Run, node: Node, output: Any) -> None:
        """Check the output of a step before it is recorded.

        Raises:
            TooLarge: it exceeds the bounds of payloads.
            InvalidRequest: it does not match the schema of the node.
        """
        await self.check_size(run, output)
        output_check.check(node, output)

    async def check_size(self, run: Run, output: Any) -> None:
        """Raise `TooLarge` if an output exceeds the bounds of payloads."""
        await self._payloads.check(run.caller, run.id, len(orjson.dumps(output)))

    async def end_step(
        self,
        run: Run,
        step: str,
        attempt: int,
        *,
        output: Any = None,
        failure: StepFailure | None = None,
        effect: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        """Record the end of a step once, with its effect; with a failure, it failed permanently."""
        output_json = orjson.dumps(output)
        stored = Stored(None) if failure else await self._payloads.store(run.caller, run.id, output_json)
        details: dict[str, Any] = {"attempt": attempt, "output": digest(output_json)}
        if failure:
            details["class"] = FailureClass.Name(failure.failure_class)
        error, failure_class, reason = _failure_columns(failure)
        values = {
            **{"state": "FAILED" if failure else "SUCCEEDED", "output": stored.inline, "payload": stored.reference},
            **{"error": error, "class": failure_class, "reason": reason, "detail": error[: events.MAX_DETAIL]},
        }
        change = self._change(END_STEP, "step.end", run, step, "failed" if failure else "ok", details, values)
        if effect is None and await self._database.all_named(*change):
            return
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            if effect is None:
                return  # an earlier call was committed, although its answer was lost
            if (await connection.execute(*change)).rowcount:
                await effect(connection)

    async def end_run(self, run: Run, *, output: Any = None, error: str = "", not_undone: bool = False) -> None:
        """Record the end of the run; with an error, it failed, or was cancelled.

        `not_undone`: a compensation failed, which is a dead letter.
        """
        output_json = orjson.dumps(output)
        stored = Stored(None) if error else await self._payloads.store(run.caller, run.id, output_json)

        async def end() -> str:
            async with self._database.transaction() as connection:
                await events.lock_run(connection, run.id, run.fence)
                await check_not_paused(connection, run.id)
                return await self._end_run(connection, run, stored, digest(output_json), error, not_undone=not_undone)

        ENDED_RUNS.labels(await once_resumed(self._notifications, end)).inc()

    async def _end_run(
        self,
        connection: Connection,
        run: Run,
        output: Stored,
        output_digest: str,
        error: str,
        *,
        not_undone: bool = False,
    ) -> str:
        state = run.undo_state.lower() or ("failed" if error else "succeeded")
        await events.add(connection, run.id, state, detail=error)
        await connection.execute(
            "update run set state = %s, error = %s, output = %s, output_payload = %s, ended_at = clock_timestamp()"
            " where id = %s",
            (state.upper(), error, output.inline, output.reference, run.id),
        )
        if not_undone or (state == "failed" and not run.depth):  # the failure of a child run fails its parent
            await failed_runs.number(connection, run.id)
        await cancel_open_steps(connection, run.id)
        await cancel_children(connection, self._audit, run.id)
        await signals.notify(connection)
        await connection.execute("select pg_notify(%s, '')", (RUN_CHANNEL,))  # another run can start
        outcome = "ok" if state == "succeeded" else state
        details = {"output": output_digest, "fence": run.fence} | ({"not_undone": True} if not_undone else {})
        await self._audit.record("run.end", run.id, outcome=outcome, details=details, connection=connection)
        return state

    async def _begin_undo(self, connection: Connection, run: Run, error: str) -> Run | None:
        if not await undo.begin(connection, run.id, run.template, "FAILED", error):
            return None
        await cancel_open_steps(connection, run.id)
        await cancel_children(connection, self._audit, run.id)
        await self._audit.record("run.undo", run.id, details={"fence": run.fence}, connection=connection)
        return replace(run, undo_state="FAILED", undo_reason=error)

    async def _undo_interrupted(self, connection: Connection, run: Run, interruptions: int) -> Run | None:
        if run.undo_state:
            return None
        error = _interrupted(interruptions)
        if not await undo.steps(connection, run.id, run.template):
            return None
        await _fail_running_steps(connection, run, StepFailure(error, AMBIGUOUS, "Interrupted"))
        with context.acting_for(run.caller):
            return await self._begin_undo(connection, run, error)

    async def _fail_interrupted(self, connection: Connection, run: Run, interruptions: int) -> None:
        error = _interrupted(interruptions)
        await _fail_running_steps(connection, run, StepFailure(error, reason="Interrupted"))
        reason = f"{run.undo_reason}; not all steps are undone: {error}" if run.undo_state else error
        with context.acting_for(run.caller):
            await self._end_run(connection, run, Stored(None), digest("null"), reason, not_undone=bool(run.undo_state))

    async def _begin_first(self, run: Run, step: str, arguments: str, decision: Stored | None = None) -> bool:
        """Begin a step that never began, unless the run is paused; return whether it did."""
        stored = decision or Stored(None)
        values = {
            **{"state": "STARTED", "detail": "", "arguments": arguments},
            **{"decision": stored.inline, "payload": stored.reference},
        }
        change = self._change(BEGIN_STEP, "step.begin", run, step, "ok", {"attempt": 1}, values)
        return bool(await self._database.all_named(*change))

    def _change(
        self,
        query: LiteralString,
        action: str,
        run: Run,
        step: str,
        outcome: str,
        details: dict[str, Any],
        values: dict[str, Any],
    ) -> tuple[LiteralString, dict[str, Any]]:
        """Return a statement that changes a step, with its values; it returns a row if it changed the step."""
        record = self._audit.line(action, f"{run.id}/{step}", outcome, details | {"fence": run.fence})
        shared = {"run": run.id, "fence": run.fence, "step": step, "record": record, "channel": events.CHANNEL}
        return query, values | shared | {"event": values["state"].lower()}

    async def _record_step(
        self, connection: Connection, action: str, run: Run, step: str, outcome: str, details: dict[str, Any]
    ) -> None:
        await self._audit.record(
            action, f"{run.id}/{step}", outcome=outcome, details=details | {"fence": run.fence}, connection=connection
        )


def _interrupted(times: int) -> str:
    return f"interrupted {times} times without a finished step: it may end the process that executes it"


async def _fail_running_steps(connection: Connection, run: Run, failure: StepFailure) -> None:
    await connection.execute(
        "update step set state = 'FAILED', error = %s, failure_class = %s, reason = %s,"
        " ended_at = clock_timestamp() where run = %s and state = 'RUNNING'",
        (*_failure_columns(failure), run.id),
    )


def _run(row: dict[str, Any]) -> Run:
    return Run(
        id=row["id"],
        fence=row["fence"],
        caller=Principal(row["org"], row["desk"], row["key"], frozenset(row["scopes"]), frozenset(row["walls"])),
        template=Template.FromString(row["template"]),
        inputs=row["inputs"],
        trace=row["trace"],
        started_at=row["created_at"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        depth=row["depth"],
        inputs_payload=row["inputs_payload"],
        event_depth=row["event_depth"],
        undo_state=row["undo_state"],
        undo_reason=row["undo_reason"],
    )


def _failure_columns(failure: StepFailure | None) -> tuple[str, str, str]:
    """Return the columns `error`, `failure_class` and `reason` of a step."""
    return (failure.error, FailureClass.Name(failure.failure_class), failure.reason) if failure else ("", "", "")


async def _finished_attempt(connection: Connection, run: Run, step: str) -> tuple[Attempt, dict[str, Any] | None]:
    """Return the result of a step that cannot begin, and the reference to its output."""
    cursor = await connection.execute("select * from step where run = %s and id = %s", (run.id, step))
    row = await cursor.fetchone()
    if row is None or row["state"] == "CANCELLED":
        raise _cannot_execute(run, step)
    if row["state"] not in ("SUCCEEDED", "FAILED"):
        raise RunPaused(f"the run {run.id!r} is paused")
    error = row["error"] if row["state"] == "FAILED" else ""
    return Attempt(row["attempts"], finished=True, output=row["output"], error=error), row["output_payload"]


async def _add_step(connection: Connection, run: str, step: str) -> None:
    """Add a step inside of a control node, unless it exists. It is listed after the steps that began before."""
    await connection.execute(
        "insert into step (run, id, position) select id, %s, 100000 + events from run where id = %s"
        " on conflict do nothing",
        (step, run),
    )


def _cannot_execute(run: Run, step: str) -> LeadershipLost:
    return LeadershipLost(f"the step {step!r} of the run {run.id!r} cannot be executed any more", run=run.id)
