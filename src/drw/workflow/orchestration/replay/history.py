"""The history of a recorded run: the starts and ends of its steps, in order, and the first divergence from it.

The present code executes the control flow. It gets the recorded end of a step when it is idle: when it has started all
that it can start. A step that the journal starts next must be among these.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from drw.workflow.orchestration.compensation.steps import SUFFIX
from drw.workflow.orchestration.ports import LeadershipLost
from drw.workflow.orchestration.replay.recorded import ENDED, RecordedRun, RecordedStep

MAX_SHOWN = 120


class Diverged(LeadershipLost):
    """The present code differs from the journal. Like a lost run, it ends the execution and records nothing."""


class History:
    """The recorded steps, and what the present code has started and ended."""

    def __init__(self, recorded: RecordedRun) -> None:
        self._recorded = recorded
        self._steps = {step.id: step for step in recorded.steps}
        self._pending: dict[str, asyncio.Future[RecordedStep]] = {}
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._moments = _moments(recorded)
        self._position = 0
        self.step = ""
        """The step of the first divergence."""
        self.divergence = ""
        """The first divergence; empty: none."""

    @property
    def replayed(self) -> int:
        """How many steps have ended."""
        return len(self._ended)

    def begin(self, step: str, arguments: str = "") -> RecordedStep:
        """Return the recorded step that the present code starts.

        Raises:
            Diverged: the journal has no such step, or other inputs for it.
        """
        recorded = self._steps.get(step)
        if recorded is None or not recorded.started_at:
            if self._recorded.state == "SUCCEEDED":
                raise self.diverge(step, f"the present code starts {step!r}, which the journal does not have")
            recorded = RecordedStep(step, "QUEUED", "", None, None, "", "", "")
        if recorded.arguments and arguments and recorded.arguments != arguments:
            raise self.diverge(step, f"the inputs of {step!r} have the digest {arguments}, not {recorded.arguments}")
        self._begun.add(step)
        return recorded

    async def end(self, recorded: RecordedStep) -> RecordedStep:
        """Return a recorded step when it has ended."""
        if _is_kept(recorded, self._recorded):
            self._ended.add(recorded.id)
            return recorded
        future: asyncio.Future[RecordedStep] = asyncio.get_running_loop().create_future()
        self._pending[recorded.id] = future
        return await future

    def check_end(self, step: str, state: str, value: Any) -> None:
        """Check how a step has ended that the present code evaluates itself.

        Raises:
            Diverged: the journal has another end.
        """
        self._ended.add(step)
        recorded = self._steps.get(step)
        if recorded is None or recorded.state not in ENDED:
            return
        expected = recorded.error if recorded.state == "FAILED" else recorded.output
        if (recorded.state, canonical(expected)) != (state, canonical(value)):
            raise self.diverge(step, f"{step!r} {_outcome(state, value)}, not {_outcome(recorded.state, expected)}")

    def check_run(self, state: str, value: Any) -> None:
        """Check how the run has ended.

        Raises:
            Diverged: the recorded run has another end.
        """
        recorded = self._recorded
        if recorded.state not in ENDED:
            raise self.diverge("", f"the run {_outcome(state, value)}, and the recorded one has not ended")
        expected = recorded.error if recorded.state == "FAILED" else recorded.output
        if (recorded.state, canonical(expected)) != (state, canonical(value)):
            raise self.diverge("", f"the run {_outcome(state, value)}, not {_outcome(recorded.state, expected)}")

    def diverge(self, step: str, message: str) -> Diverged:
        """Record the first divergence; return the error that ends the execution."""
        if not self.divergence:
            self.step, self.divergence = step, message
        return Diverged(message)

    def advance(self) -> bool:
        """Deliver the next recorded end to the present code, which is idle; return False if there is nothing more."""
        while self._position < len(self._moments) and not self.divergence:
            is_end, step = self._moments[self._position]
            self._position += 1
            if step not in self._begun:
                self.diverge(step, f"the journal starts {step!r} here, and the present code does not")
            elif is_end and step in self._pending:
                self._ended.add(step)
                self._pending.pop(step).set_result(self._steps[step])
                return True
            elif is_end and step not in self._ended:
                self.diverge(step, f"the journal ends {step!r} here, and the present code does not")
        if self._recorded.state in ENDED and not self.divergence:
            waiting = min(self._begun - self._ended, default="")
            self.diverge(waiting, f"the recorded run has ended, and the present code still waits for {waiting!r}")
        return False


def _moments(recorded: RecordedRun) -> list[tuple[bool, str]]:
    """Return whether a step ends, and which one, in the order of the journal. Compensations begin after the failure."""
    moments = []
    for step in recorded.steps:
        if step.started_at and not _is_kept(step, recorded) and not step.id.endswith(SUFFIX):
            moments.append((step.started_at, False, step.id))
            if step.ended_at and step.state in ENDED:
                moments.append((step.ended_at, True, step.id))
    return [(is_end, step) for _, is_end, step in sorted(moments)]


def _is_kept(step: RecordedStep, recorded: RecordedRun) -> bool:
    """Return whether a step has its result from another run, which this one restarts."""
    return bool(step.ended_at) and step.ended_at < recorded.started_at or step.id.endswith(SUFFIX)


def canonical(value: Any) -> bytes:
    """Return a JSON value as text that is equal for equal values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _outcome(state: str, value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value).decode()
    return f"{state.lower()} with {text[:MAX_SHOWN]!r}"
