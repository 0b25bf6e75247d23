"""Compensation: undoes the steps of a failed run, the last one first.

Each compensation is a step of the run with its own attempts and result, so that a crash repeats none that has finished.
A compensation that fails does not stop the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drw.api.workflow.v1.templates_pb2 import Node
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.run_journal import Run, RunJournal
from drw.workflow.orchestration.execution.step_executor import StepExecutor, retry_while_unavailable

SUFFIX = "~undo"
"""Of the id of a step that undoes another one. No node id contains it."""


@dataclass(frozen=True, slots=True)
class Compensation:
    """The activity that undoes a step, with its arguments."""

    step: str
    """The id of the step that it undoes."""
    activity: str
    arguments: Mapping[str, Any]
    max_attempts: int = 8
    timeout_seconds: int = 120


class Compensator:
    """Executes compensations."""

    def __init__(self, journal: RunJournal, step_executor: StepExecutor) -> None:
        self._journal = journal
        self._step_executor = step_executor

    async def compensate(self, run: Run, compensations: Iterable[Compensation]) -> list[str]:
        """Execute the compensations of the steps that may have taken effect, the last step first; return the errors.

        These are the steps that succeeded, that are ambiguous, or that were interrupted by the failure of another one.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        by_step = {compensation.step: compensation for compensation in compensations}
        steps = await retry_while_unavailable(self._journal.steps_to_compensate, run, list(by_step))
        return [error for step in steps if (error := await self._undo(run, by_step[step]))]

    async def _undo(self, run: Run, compensation: Compensation) -> str:
        node = Node(
            id=compensation.step + SUFFIX,
            uses=compensation.activity,
            max_attempts=compensation.max_attempts,
            timeout_seconds=compensation.timeout_seconds,
        )
        step = Step(node.id, node, None, None, ())
        result = await self._step_executor.execute(run, step, dict(compensation.arguments))
        return f"the compensation of {compensation.step!r} failed: {result['error']}" if "error" in result else ""
