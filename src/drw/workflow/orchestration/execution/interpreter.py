"""The interpreter of a run: starts each step once its dependencies have succeeded, with bounded concurrency.

All steps take their slots in topological order before the first one starts, and depend only on the outputs of
their dependencies. Replay is therefore deterministic, whichever step ended first.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from drw.kernel.errors import DrwError, TooLarge
from drw.kernel.observability import gen_ai, telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.transport import translated_errors
from drw.workflow.orchestration.execution import dependency_graph
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.expression_rendering import rendered
from drw.workflow.orchestration.execution.run_journal import Run, RunJournal
from drw.workflow.orchestration.execution.step_executor import MAX_OUTPUT_BYTES, StepExecutor, patiently
from drw.workflow.orchestration.ports import LeadershipLost, Reserve, Slot

log = logging.getLogger(__name__)


class StepFailed(DrwError):
    """A step has failed permanently, and so has the run."""


class Interpreter:
    """The function that the engine executes durably."""

    def __init__(self, progress: RunJournal, stepper: StepExecutor, steps_at_once: int) -> None:
        self._progress = progress
        self._stepper = stepper
        self._steps_at_once = steps_at_once

    async def run(self, run_id: str, reserve: Reserve) -> None:
        """Execute one run."""
        run = await patiently(self._progress.take, run_id)
        if run is None:
            return
        parent = telemetry.incoming_context({"traceparent": run.trace})
        name = run.template.name
        attributes = {gen_ai.OPERATION: gen_ai.WORKFLOW, gen_ai.WORKFLOW_NAME: name, "drw.run": run.id}
        with (
            context.acting_for(run.caller),
            telemetry.span(f"{gen_ai.WORKFLOW} {name}", attributes=attributes, context=parent),
        ):
            try:
                output, error = await self._outcome(run, reserve)
                await patiently(self._progress.end_run, run, output=output, error=error)
            except LeadershipLost as lost:
                log.warning("%s", lost.message)

    async def _outcome(self, run: Run, reserve: Reserve) -> tuple[Any, str]:
        try:
            with translated_errors("orchestration", run.id):
                walk = _Walk(run, self._stepper, asyncio.Semaphore(self._steps_at_once))
                await walk.to_the_end(reserve)
                output = rendered(run.template.output, walk.scope())
                if (size := len(orjson.dumps(output))) > MAX_OUTPUT_BYTES:
                    raise TooLarge(f"the output has {size} bytes; at most {MAX_OUTPUT_BYTES}")
        except LeadershipLost:
            raise
        except DrwError as error:
            return None, error.message
        return output, ""


class _Walk:
    """One execution of one run."""

    def __init__(self, run: Run, stepper: StepExecutor, room: asyncio.Semaphore) -> None:
        self._run = run
        self._stepper = stepper
        self._room = room
        self._steps = dependency_graph.steps(run.template, run.inputs)
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def to_the_end(self, reserve: Reserve) -> None:
        """Execute all steps. The first failure ends the execution and abandons the running steps."""
        slots = [(step, reserve()) for step in self._steps]
        for step, slot in slots:
            self._tasks[step.id] = asyncio.create_task(self._step(step, slot), name=f"{self._run.id}/{step.id}")
        try:
            await asyncio.gather(*self._tasks.values())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def scope(self, of: Step | None = None) -> dict[str, Any]:
        """Return the values that references may name: for a step those of its dependencies, else all."""
        nodes = {node.id: node for node in self._run.template.nodes}
        scope: dict[str, Any] = {"inputs": self._run.inputs, "run": {"id": self._run.id}, "steps": {}}
        for name, node in nodes.items():
            ids = dependency_graph.ids(node, self._run.inputs)
            if of is not None and of.item is not None and node.for_each == of.node.for_each:
                ids = [f"{name}/{of.id.rpartition('/')[2]}"]
                scope["steps"][name] = {"output": self._output(ids[0])}
            elif all(self._ended_well(i) for i in ids):
                outputs = [self._output(i) for i in ids]
                scope["steps"][name] = {"output": outputs if node.for_each else outputs[0]}
        if of is not None and of.item is not None:
            scope["item"] = of.item
        return scope

    async def _step(self, step: Step, slot: Slot) -> Any:
        if before := [self._tasks[name] for name in step.after]:
            await asyncio.wait(before)
            for task in before:
                task.result()
        arguments = self._arguments(step)
        async with self._room:
            result = await slot.once(step.id, lambda: self._stepper.make(self._run, step, arguments))
        if "error" in result:
            raise StepFailed(f"the step {step.id!r} failed: {result['error']}")
        return result["output"]

    def _arguments(self, step: Step) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = rendered(orjson.loads(step.node.with_json), self.scope(step))
        except DrwError as error:
            raise StepFailed(f"the step {step.id!r} cannot be made: {error.message}") from error
        return arguments

    def _ended_well(self, step: str) -> bool:
        task = self._tasks[step]
        return task.done() and not task.cancelled() and task.exception() is None

    def _output(self, step: str) -> Any:
        return self._tasks[step].result() if self._ended_well(step) else None
