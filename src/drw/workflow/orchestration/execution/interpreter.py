"""The interpreter of a run: takes ownership, executes the template, undoes it if it must, and records the end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Input
from drw.expressions.cel import render
from drw.kernel.errors import DrwError
from drw.kernel.observability import gen_ai, telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.transport import translated_errors
from drw.workflow.orchestration.compensation.compensator import Compensator
from drw.workflow.orchestration.execution.block_execution import Execution
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal
from drw.workflow.orchestration.execution.step_executor import StepExecutor, retry_while_unavailable
from drw.workflow.orchestration.execution.waiting import WaitingSteps
from drw.workflow.orchestration.ports import LeadershipLost

log = logging.getLogger(__name__)

MAX_ERRORS = 5
"""Failed compensations that the error of a run names. Its steps have all of them."""


class Interpreter:
    """The function that the engine executes durably."""

    def __init__(
        self, journal: RunJournal, step_executor: StepExecutor, waiting: WaitingSteps, max_concurrent_steps: int
    ) -> None:
        self._journal = journal
        self._step_executor = step_executor
        self._waiting = waiting
        self._max_concurrent_steps = max_concurrent_steps
        self._compensator = Compensator(journal, step_executor)
        self._executing: dict[str, asyncio.Task[tuple[Any, str]]] = {}

    async def run(self, run_id: str) -> None:
        """Execute one run.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        run = await retry_while_unavailable(self._journal.acquire, run_id)
        while run is not None:
            run = await self._run(run)

    def stop_executing(self, run_id: str) -> None:
        """Stop the steps of a run that was cancelled, so that it undoes them."""
        if task := self._executing.get(run_id):
            task.cancel()

    async def _run(self, acquired: Run) -> Run | None:
        """Execute a run to its end; return it if it was cancelled and undoes its steps next."""
        run = await retry_while_unavailable(self._journal.with_inputs, acquired)
        if run is None:
            return None
        parent = telemetry.incoming_context({"traceparent": run.trace})
        name = run.template.name
        attributes = {gen_ai.OPERATION: gen_ai.WORKFLOW, gen_ai.WORKFLOW_NAME: name, "drw.run": run.id}
        with (
            context.acting_for(run.caller),
            context.at_event_depth(run.event_depth),
            telemetry.span(f"{gen_ai.WORKFLOW} {name}", attributes=attributes, context=parent),
        ):
            try:
                await self._execute_and_end(run)
            except LeadershipLost as exception:
                if undoing := await retry_while_unavailable(self._journal.acquire_undo, run):
                    return undoing
                log.warning("%s", exception.message)
                raise
        return None

    async def _execute_and_end(self, run: Run) -> None:
        if not run.undo_state:
            output, error = await self._stoppable(run)
            undoing = await retry_while_unavailable(self._journal.begin_undo, run, error) if error else None
            if undoing is None:
                await retry_while_unavailable(self._journal.end_run, run, output=output, error=error)
                return
            run = undoing
        errors = await self._undo(run)
        error = "; ".join([run.undo_reason, *errors[:MAX_ERRORS]])
        await retry_while_unavailable(self._journal.end_run, run, error=error, not_undone=bool(errors))

    async def _undo(self, run: Run) -> list[str]:
        try:
            with translated_errors("orchestration", run.id):
                return await self._compensator.undo(run)
        except LeadershipLost:
            raise
        except DrwError as error:
            return [f"the compensations failed: {error.message}"]

    async def _stoppable(self, run: Run) -> tuple[Any, str]:
        """Execute the template of a run.

        Raises:
            LeadershipLost: it was stopped.
        """
        task = self._executing[run.id] = asyncio.create_task(self._execute(run))
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise LeadershipLost(f"the run {run.id!r} was cancelled", run=run.id) from None
        finally:
            del self._executing[run.id]

    async def _execute(self, run: Run) -> tuple[Any, str]:
        concurrency = asyncio.Semaphore(self._max_concurrent_steps)
        execution = Execution(run, self._journal, self._step_executor, self._waiting, concurrency)
        try:
            with translated_errors("orchestration", run.id):
                output = await execution.block(
                    run.template.nodes, _variables(run), "", lambda scope: render(_output(run), scope)
                )
                await retry_while_unavailable(self._journal.check_size, run, output)
        except LeadershipLost:
            raise
        except DrwError as error:
            return None, error.message
        return output, ""


def _variables(run: Run) -> dict[str, Any]:
    """Return the variables of expressions. All of them come from the journal, so that a replay has the same."""
    numbers = {declared.name for declared in run.template.inputs if declared.type == Input.NUMBER}
    inputs = {  # CEL does not multiply a whole number by a fraction
        name: float(value) if name in numbers and value is not None else value for name, value in run.inputs.items()
    }
    return {"inputs": inputs, "run": {"id": run.id, "started_at": run.started_at}, "steps": {}}


def _output(run: Run) -> Any:
    # Runs that an earlier release started have no `output_json`.
    return orjson.loads(run.template.output_json) if run.template.output_json else run.template.output
