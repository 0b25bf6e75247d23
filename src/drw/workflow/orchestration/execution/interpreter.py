"""The interpreter of a run: takes ownership, executes the template, and records the end."""

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
from drw.workflow.orchestration.execution.block_execution import Execution, check_size
from drw.workflow.orchestration.execution.run_journal import Run, RunJournal
from drw.workflow.orchestration.execution.step_executor import StepExecutor, retry_while_unavailable
from drw.workflow.orchestration.execution.waiting import WaitingSteps
from drw.workflow.orchestration.ports import LeadershipLost

log = logging.getLogger(__name__)


class Interpreter:
    """The function that the engine executes durably."""

    def __init__(
        self, journal: RunJournal, step_executor: StepExecutor, waiting: WaitingSteps, max_concurrent_steps: int
    ) -> None:
        self._journal = journal
        self._step_executor = step_executor
        self._waiting = waiting
        self._max_concurrent_steps = max_concurrent_steps

    async def run(self, run_id: str) -> None:
        """Execute one run.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        run = await retry_while_unavailable(self._journal.acquire, run_id)
        if run is None:
            return
        parent = telemetry.incoming_context({"traceparent": run.trace})
        name = run.template.name
        attributes = {gen_ai.OPERATION: gen_ai.WORKFLOW, gen_ai.WORKFLOW_NAME: name, "drw.run": run.id}
        with (
            context.acting_for(run.caller),
            context.at_event_depth(run.event_depth),
            telemetry.span(f"{gen_ai.WORKFLOW} {name}", attributes=attributes, context=parent),
        ):
            try:
                output, error = await self._execute(run)
                await retry_while_unavailable(self._journal.end_run, run, output=output, error=error)
            except LeadershipLost as exception:
                log.warning("%s", exception.message)
                raise

    async def _execute(self, run: Run) -> tuple[Any, str]:
        concurrency = asyncio.Semaphore(self._max_concurrent_steps)
        execution = Execution(run, self._journal, self._step_executor, self._waiting, concurrency)
        try:
            with translated_errors("orchestration", run.id):
                output = await execution.block(
                    run.template.nodes, _variables(run), "", lambda scope: render(_output(run), scope)
                )
                check_size(output)
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
