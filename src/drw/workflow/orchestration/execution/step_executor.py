"""The step executor: runs the attempts of one step until it succeeds or fails permanently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from drw.api.workflow.v1.orchestration_pb2 import TRANSIENT, FailureClass
from drw.kernel.errors import DeadlineExceeded, DrwError, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.transport import translated_errors
from drw.killswitch.watch import Killed, KillList
from drw.workflow.orchestration.activities import ACTIVITIES, Services
from drw.workflow.orchestration.compensation.plan import UndoPlan, both
from drw.workflow.orchestration.execution import attempts as activity_calls
from drw.workflow.orchestration.execution import failures, retries
from drw.workflow.orchestration.execution.attempts import Result
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal, StepFailure, arguments_digest
from drw.workflow.orchestration.execution.lease import Lease
from drw.workflow.orchestration.execution.step_arguments import StepArguments
from drw.workflow.orchestration.metrics import STEP_ATTEMPTS
from drw.workflow.orchestration.ports import LeadershipLost

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class _Paused(DrwError):
    """The kill switch has paused the run."""


class _Interrupted(DrwError):
    """An attempt at a step that must not be repeated was interrupted."""


class StepExecutor:
    """Executes the steps of all runs of this process."""

    def __init__(
        self, journal: RunJournal, services: Services, initial_retry_seconds: float, kills: KillList, lease: Lease
    ) -> None:
        self._journal = journal
        self._lease = lease
        self._kills = kills
        self._services = services
        self._initial_retry_seconds = initial_retry_seconds

    async def execute(
        self, run: Run, step: Step, arguments: StepArguments, undo: UndoPlan | None = None
    ) -> dict[str, Any]:
        """Return `{"output": ...}`, or `{"error": ...}` if the step has failed permanently.

        While the workflow, or the run's key or desk, is killed, no attempt starts and a running one is cancelled. The
        run pauses until the kill is lifted.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        attempts, digest = 0, arguments_digest(arguments.values)
        repeatable = _is_repeatable(step, arguments)
        while True:
            await self._kills.wait_until_lifted(run.caller, run.template.name)
            attempt = await retry_while_unavailable(self._journal.begin_step, run, step.id, digest)
            if attempt.finished:
                return {"error": attempt.error} if attempt.error else {"output": attempt.output}
            attempts += 1
            attributes = {"drw.run": run.id, "drw.step": step.id, "drw.attempt": attempt.number}
            try:
                if attempt.after_interruption and not repeatable:
                    raise _Interrupted("its process ended during an attempt, which may have taken effect")
                with telemetry.span(f"step {step.node.uses}", attributes=attributes):
                    result = await self._attempt_unless_killed(run, step, arguments)
            except LeadershipLost:
                raise
            except DrwError as error:
                failure_class = failures.classify(error, repeatable=repeatable)
                if isinstance(error, _Paused) and repeatable:
                    attempts -= 1  # not a failure of the step
                    failure_class = TRANSIENT
                    delay: float | None = (
                        self._initial_retry_seconds
                    )  # services may learn of a kill before this process
                else:
                    delay = retries.retry_delay(
                        error, failure_class, attempts, step.node.max_attempts or 1, self._initial_retry_seconds
                    )
                    STEP_ATTEMPTS.labels(step.node.uses, "failed" if delay is None else "retried").inc()
                if delay is None:
                    return await self._record_failure(run, step, attempt.number, error, attempts, failure_class)
                await self._record_retry(run, step, attempt.number, error, failure_class)
                await asyncio.sleep(delay)
            else:
                output, effect = result.output, both(result.effect, undo.effect(run, result.output) if undo else None)
                await retry_while_unavailable(
                    self._journal.end_step, run, step.id, attempt.number, output=output, effect=effect
                )
                STEP_ATTEMPTS.labels(step.node.uses, "ok").inc()
                return {"output": output}

    async def _attempt_unless_killed(self, run: Run, step: Step, arguments: StepArguments) -> Result:
        try:
            return await self._kills.guard_call(
                run.caller, run.template.name, lambda: self._attempt(run, step, arguments)
            )
        except Killed as error:
            if error.metadata.get("killed") == "model":
                raise  # the run can be restarted with another model; pausing would hide that
            raise _Paused(f"paused: {error.message}") from error

    async def _attempt(self, run: Run, step: Step, arguments: StepArguments) -> Result:
        seconds = float(step.node.timeout_seconds or 120)
        self._lease.check()
        with context.acting_for(run.caller), context.deadline(seconds), translated_errors("orchestration", step.id):
            try:
                async with asyncio.timeout(seconds):
                    result = await activity_calls.perform(self._services, run, step, arguments, seconds)
            except TimeoutError as error:
                raise DeadlineExceeded(f"it did not finish within {seconds:g} s") from error
        await retry_while_unavailable(self._journal.check_output, run, step.node, result.output)
        return result

    async def _record_retry(
        self, run: Run, step: Step, attempt: int, error: DrwError, failure_class: FailureClass
    ) -> None:
        log.warning("retrying a step", extra={"fields": _log_fields(run, step, attempt, error)})
        failure = StepFailure(error.message, failure_class, error.reason)
        await retry_while_unavailable(self._journal.retry_step, run, step.id, failure, attempt)

    async def _record_failure(
        self,
        run: Run,
        step: Step,
        attempt: int,
        error: DrwError,
        attempts: int,
        failure_class: FailureClass,
    ) -> dict[str, Any]:
        log.warning("a step has failed", extra={"fields": _log_fields(run, step, attempt, error)})
        message = f"{error.message} (after {attempts} attempts)" if attempts > 1 else error.message
        failure = StepFailure(message, failure_class, error.reason)
        await retry_while_unavailable(self._journal.end_step, run, step.id, attempt, failure=failure)
        return {"error": message}


def _is_repeatable(step: Step, arguments: StepArguments) -> bool:
    activity = ACTIVITIES[step.node.uses]
    if activity.repeats_safely is None:
        return activity.repeatable
    return activity.repeats_safely(arguments.values, arguments.key)


def _log_fields(run: Run, step: Step, attempt: int, error: DrwError) -> dict[str, Any]:
    """Return the log fields of an attempt. The full error is in the run, for those who may read it."""
    failure = {telemetry.ERROR_TYPE: telemetry.error_type(error), "error": telemetry.loggable(error)}
    return {"run": run.id, "step": step.id, "attempt": attempt, **failure}


async def retry_while_unavailable(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of the function. Retry while the database is unavailable.

    The run does not fail. The process abandons it when it detects that it has lost leadership.
    """
    while True:
        try:
            return await function(*args, **kwargs)
        except Unavailable as error:
            log.warning("cannot record a step: %s; retrying in one second", error.message)
            await asyncio.sleep(1)
