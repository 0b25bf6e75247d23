"""Replays recorded runs: the interpreter executes the stored template with a journal that only reads.

Activities and waiting steps are replaced by their recorded ends. Time stands still: the event loop of a replay calls
the history when nothing else is ready, so that a replay is deterministic and takes no longer than its computations.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from drw.kernel.errors import DeadlineExceeded, DrwError
from drw.workflow.orchestration.activities import ACTIVITIES
from drw.workflow.orchestration.activities.activity import validated
from drw.workflow.orchestration.compensation.plan import UndoPlan
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.interpreter import Interpreter
from drw.workflow.orchestration.execution.journal.run_journal import (
    OpenStep,
    RecordedFailure,
    Run,
    RunJournal,
    StepFailure,
    arguments_digest,
)
from drw.workflow.orchestration.execution.step_arguments import StepArguments
from drw.workflow.orchestration.execution.step_executor import StepExecutor
from drw.workflow.orchestration.execution.waiting import WAITING, WaitingSteps
from drw.workflow.orchestration.ports import LeadershipLost
from drw.workflow.orchestration.replay.history import History, canonical
from drw.workflow.orchestration.replay.recorded import RecordedRun, RecordedStep

MAX_SECONDS = 20.0
UNBOUNDED = 1_000_000
"""Concurrent steps of a replay: a step may start earlier than the recorded one, and not later."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a replay."""

    run: str
    steps: int
    """Steps that were replayed."""
    step: str = ""
    """The step of the first divergence; empty: the run itself."""
    divergence: str = ""
    """Empty: the present code does what the journal has."""


def replay(recorded: RecordedRun, seconds: float = MAX_SECONDS) -> Replay:
    """Replay a run in an event loop of its own. Call it in a thread.

    Raises:
        DeadlineExceeded: the replay takes longer than `seconds`.
    """
    history = History(recorded)
    selector = _IdleSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(_execute(recorded, history, selector, time.monotonic() + seconds))
    return Replay(recorded.id, history.replayed, history.step, history.divergence)


async def _execute(recorded: RecordedRun, history: History, selector: _IdleSelector, end: float) -> None:
    interpreter = Interpreter(
        RecordedJournal(recorded, history), RecordedActivities(history), RecordedWaiting(history), UNBOUNDED
    )
    task = asyncio.create_task(interpreter.run(recorded.id))
    is_late = False

    def on_idle() -> None:
        nonlocal is_late
        is_late = time.monotonic() > end
        if is_late or not history.advance():
            task.cancel()

    selector.on_idle = on_idle
    try:
        with suppress(LeadershipLost, asyncio.CancelledError):
            await task
    finally:
        selector.on_idle = None
    if is_late:
        raise DeadlineExceeded(f"the replay of {recorded.id!r} takes too long")


class _IdleSelector(selectors.DefaultSelector):
    """Calls a function when the event loop would wait. Timers do not fire before: time stands still."""

    on_idle: Callable[[], None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.on_idle is None:
            return super().select(timeout)
        if timeout is None or timeout > 0:
            self.on_idle()
        return super().select(0)


class RecordedJournal(RunJournal):
    """A journal that returns what was recorded, and compares what the present code records."""

    def __init__(self, recorded: RecordedRun, history: History) -> None:
        self._recorded = recorded
        self._history = history

    async def acquire(self, run: str) -> Run | None:
        """Return the recorded run."""
        return self._recorded.run()

    async def with_inputs(self, run: Run) -> Run | None:
        """Return the run, which has all inputs."""
        return run

    async def check_size(self, run: Run, output: Any) -> None:
        """Accept what was recorded."""

    async def open_step(self, run: Run, step: str, decision: Any, arguments: str = "") -> OpenStep:
        """Return the recorded decision of a control node."""
        recorded = self._history.begin(step)
        if recorded.decision is not None and canonical(recorded.decision) != canonical(decision):
            text, was = (canonical(value).decode()[:120] for value in (decision, recorded.decision))
            raise self._history.diverge(step, f"{step!r} decides {text}, not {was}")
        return OpenStep(decision if recorded.decision is None else recorded.decision)

    async def fail_open_step(self, run: Run, step: str, failure: StepFailure) -> None:
        """Compare the failure of a control node; that of a waiting step is the recorded one."""
        self._history.begin(step)
        self._history.check_end(step, "FAILED", failure.error)

    async def end_step(
        self, run: Run, step: str, attempt: int, *, output: Any = None, failure: StepFailure | None = None, **_: Any
    ) -> None:
        """Compare the output of a control node."""
        self._history.check_end(step, "SUCCEEDED", output)

    async def acquire_undo(self, run: Run) -> Run | None:
        """Return None: compensations have only effects."""
        return None

    async def begin_undo(self, run: Run, error: str) -> Run | None:
        """Return None, as above."""
        return None

    async def plan_undo(self, run: Run, step: str, plan: str) -> None:
        """Store nothing."""

    async def end_run(self, run: Run, *, output: Any = None, error: str = "", **_: Any) -> None:
        """Compare the end of the run."""
        self._history.check_run("FAILED" if error else "SUCCEEDED", error or output)


class RecordedActivities(StepExecutor):
    """Activities that return what was recorded."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def execute(
        self, run: Run, step: Step, arguments: StepArguments, undo: UndoPlan | None = None
    ) -> dict[str, Any]:
        """Return the recorded end of a step."""
        recorded = self._history.begin(step.id, arguments_digest(arguments.values))
        if recorded.state == "SUCCEEDED":
            _check(self._history, step, recorded, lambda: ACTIVITIES[step.node.uses].validate(arguments.values))
        recorded = await self._history.end(recorded)
        return {"output": recorded.output} if recorded.state == "SUCCEEDED" else {"error": recorded.error}


class RecordedWaiting(WaitingSteps):
    """Waiting steps that end as they were recorded."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def execute(self, run: Run, step: Step, values: dict[str, Any], undo: UndoPlan | None = None) -> Any:
        """Return the recorded output of a step.

        Raises:
            RecordedFailure: it has failed.
        """
        recorded = self._history.begin(step.id, arguments_digest(values))
        if recorded.state == "SUCCEEDED":
            _check(self._history, step, recorded, lambda: validated(WAITING[step.node.uses][0], values))
        recorded = await self._history.end(recorded)
        if recorded.state == "FAILED":
            raise RecordedFailure(recorded.error)
        return recorded.output


def _check(history: History, step: Step, recorded: RecordedStep, validate: Callable[[], object]) -> None:
    """Check that the present code still accepts the inputs of a step that has succeeded."""
    try:
        validate()
    except KeyError as error:
        raise history.diverge(step.id, f"the present code does not have {step.node.uses!r}") from error
    except DrwError as error:
        raise history.diverge(step.id, f"the present code refuses {recorded.id!r}: {error.message}") from error
