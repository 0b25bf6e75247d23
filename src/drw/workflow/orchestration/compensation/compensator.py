"""Compensation: undoes the steps of a failed or cancelled run, the last one first.

Each compensation is a step of the run with its own attempts and result, so that a crash repeats none that has finished.
A compensation that fails does not stop the others.
"""

from __future__ import annotations

from typing import Any

from drw.api.workflow.v1.orchestration_pb2 import AMBIGUOUS, PERMANENT
from drw.api.workflow.v1.templates_pb2 import Node
from drw.workflow.orchestration.compensation import steps as undo
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal, StepFailure
from drw.workflow.orchestration.execution.step_arguments import StepArguments
from drw.workflow.orchestration.execution.step_executor import StepExecutor, retry_while_unavailable

NO_OUTPUT = "it is unknown whether the step took effect, and its compensation needs its output"


class Compensator:
    """Executes compensations."""

    def __init__(self, journal: RunJournal, step_executor: StepExecutor) -> None:
        self._journal = journal
        self._step_executor = step_executor

    async def undo(self, run: Run) -> list[str]:
        """Undo the steps of a run that may have taken effect, the last one first; return the errors.

        These are the steps that succeeded, that are ambiguous, or that were interrupted by the end of the run.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        nodes = undo.compensated_nodes(run.template)
        rows = await retry_while_unavailable(self._journal.steps_to_undo, run)
        return [error for row in rows if (error := await self._undo(run, row, nodes[row["node"]].compensate))]

    async def _undo(self, run: Run, row: dict[str, Any], compensation: Node) -> str:
        node = Node()
        node.CopyFrom(compensation)
        node.id = row["id"] + undo.SUFFIX
        plan = row["undo"]
        if plan is None or "error" in plan:
            error = NO_OUTPUT if plan is None else f"its arguments have no value: {plan['error']}"
            failure = StepFailure(error, AMBIGUOUS if plan is None else PERMANENT, "NotUndone")
            await retry_while_unavailable(self._journal.fail_open_step, run, node.id, failure)
        else:
            step = Step(node.id, node, None, None, ())
            result = await self._step_executor.execute(run, step, StepArguments.from_json(plan))
            error = result.get("error", "")
        return f"the compensation of {row['id']!r} failed: {error}" if error else ""
