"""Steps that wait without occupying a process: `wait`, `approval` and `workflow`.

What they wait for is in the database: a time, a signal, votes, or the end of another run. After a crash they wait on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson
from pydantic import Field

from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, TooLarge
from drw.workflow.orchestration.activities.activity import Arguments, validated
from drw.workflow.orchestration.approvals.arguments import YEAR_SECONDS, ApprovalArguments
from drw.workflow.orchestration.approvals.store import Approvals
from drw.workflow.orchestration.compensation.plan import UndoPlan
from drw.workflow.orchestration.control.run_signals import RunSignals
from drw.workflow.orchestration.execution.child_runs import ChildRuns
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.journal import signals
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal, arguments_digest
from drw.workflow.orchestration.execution.journal.signals import Signals
from drw.workflow.orchestration.execution.step_executor import retry_while_unavailable
from drw.workflow.orchestration.payloads.payload_store import MAX_INLINE_BYTES


class NotApproved(Forbidden):
    """An approval was rejected, or its deadline has passed: a failure of policy."""


class SignalLate(DrwError):
    """The deadline of a signal has passed."""


class WaitArguments(Arguments):
    """The duration, the time at which the wait ends, or the signal that ends it."""

    seconds: float = Field(default=0, ge=0, le=YEAR_SECONDS)
    until: str = Field(default="", max_length=40)
    signal: str = Field(default="", max_length=63)
    payload_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")
    deadline_seconds: int = Field(default=7 * 24 * 3600, ge=1, le=YEAR_SECONDS)
    if_late: Literal["fail", "continue"] = "fail"


class WorkflowArguments(Arguments):
    """The template of the child run, and its inputs."""

    template: str = Field(min_length=1, max_length=63)
    inputs: dict[str, Any] = Field(default_factory=dict)


WAITING: dict[str, tuple[type[Arguments], tuple[str, ...]]] = {
    "wait": (WaitArguments, ()),
    "approval": (ApprovalArguments, ()),
    "workflow": (WorkflowArguments, ("workflows:run",)),
}
"""Argument model and required scopes of each."""


class WaitingSteps:
    """Executes waiting steps."""

    def __init__(
        self,
        journal: RunJournal,
        approvals: Approvals,
        children: ChildRuns,
        signals: Signals,
        run_signals: RunSignals,
    ) -> None:
        self._journal = journal
        self._approvals = approvals
        self._children = children
        self._signals = signals
        self._run_signals = run_signals

    async def execute(self, run: Run, step: Step, values: dict[str, Any], undo: UndoPlan | None = None) -> Any:
        """Wait, and return the output of the step.

        Raises:
            SignalLate: a signal did not arrive in time, and the step does not continue then.
            NotApproved: an approval was denied, and the step does not continue then.
            InvalidRequest: an argument is invalid, or the child run has failed.
        """
        arguments = validated(WAITING[step.node.uses][0], values)
        decision = {"until": _end(arguments).isoformat()}
        recorded = await retry_while_unavailable(
            self._journal.open_step, run, step.id, decision, arguments_digest(values)
        )
        if recorded.finished:
            return recorded.result()
        end = datetime.fromisoformat(recorded.decision["until"])
        match arguments:
            case ApprovalArguments():
                output = await self._approval(run, step, arguments, end)
            case WorkflowArguments():
                output = await self._workflow(run, step, arguments)
            case WaitArguments(signal=name) if name:
                output = await self._signal(run, step, arguments, end)
            case _:
                output = await self._wait(end)
        await retry_while_unavailable(self._journal.check_output, run, step.node, output)
        effect = undo.effect(run, output) if undo else None
        await retry_while_unavailable(self._journal.end_step, run, step.id, 1, output=output, effect=effect)
        return output

    async def _wait(self, end: datetime) -> Any:
        async def has_ended() -> Any:
            return {"until": end.isoformat()} if _seconds_until(end) <= 0 else None

        return await self._poll(has_ended, lambda: _seconds_until(end))

    async def _signal(self, run: Run, step: Step, arguments: WaitArguments, deadline: datetime) -> Any:
        output: dict[str, Any] = await self._poll(
            lambda: self._run_signals.receive(run, step.id, arguments.signal, deadline),
            lambda: _seconds_until(deadline),
        )
        if not output["received"] and arguments.if_late == "fail":
            raise SignalLate(f"no signal {arguments.signal!r} before {deadline.isoformat(timespec='seconds')}")
        return output

    async def _approval(self, run: Run, step: Step, arguments: ApprovalArguments, deadline: datetime) -> Any:
        if (size := len(orjson.dumps(arguments.details))) > MAX_INLINE_BYTES:
            raise TooLarge(f"details has {size} bytes; at most {MAX_INLINE_BYTES}: show a part of it")
        await retry_while_unavailable(self._approvals.open, run, step.id, arguments, deadline)

        async def decided() -> dict[str, Any] | None:
            nonlocal deadline
            outcome = await self._approvals.outcome(run, step.id)
            deadline = outcome.deadline  # an escalation moves it
            return outcome.output

        output: dict[str, Any] = await self._poll(decided, lambda: _seconds_until(deadline))
        if not output["approved"] and arguments.if_denied == "fail":
            raise NotApproved(output["reason"])
        return output

    async def _workflow(self, run: Run, step: Step, arguments: WorkflowArguments) -> Any:
        child = await retry_while_unavailable(self._children.start, run, step.id, arguments.template, arguments.inputs)
        ended: dict[str, Any] = await self._poll(
            lambda: self._children.outcome(run, child), lambda: signals.MAX_SLEEP_SECONDS
        )
        if ended["state"] != "SUCCEEDED":
            raise InvalidRequest(f"the run {child!r} {ended['state'].lower()}: {ended['error']}")
        return ended["output"]

    async def _poll(self, read: Callable[[], Awaitable[Any]], seconds: Callable[[], float]) -> Any:
        """Return what `read` returns once that is not None. It reads after each notification."""
        while True:
            event = self._signals.next()
            if (value := await retry_while_unavailable(read)) is not None:
                return value
            await signals.wait(event, seconds())


def _end(arguments: Arguments) -> datetime:
    """Return when a step ends at the latest. The journal records it, so that a replay ends at the same time."""
    now = datetime.now(UTC)
    match arguments:
        case WaitArguments(signal=name, deadline_seconds=seconds) if name:
            return now + timedelta(seconds=seconds)
        case WaitArguments(until=until) if until:
            return _parse_time(until)
        case WaitArguments(seconds=seconds) | ApprovalArguments(deadline_seconds=seconds):
            return now + timedelta(seconds=seconds)
    return now


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise InvalidRequest(f"until is {text!r}; it must be a time with a zone, such as 2026-01-05T09:30:00Z")
    return time


def _seconds_until(time: datetime) -> float:
    return (time - datetime.now(UTC)).total_seconds()
