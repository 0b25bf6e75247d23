"""The interpreter of a run: starts each step once its dependencies have succeeded, with bounded concurrency.

All steps take their slots in topological order before the first one starts, and depend only on the outputs of
their dependencies. Replay is therefore deterministic, regardless of the order in which steps end.
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
from drw.workflow.orchestration.execution.expression_rendering import render
from drw.workflow.orchestration.execution.run_journal import Run, RunJournal
from drw.workflow.orchestration.execution.step_executor import MAX_OUTPUT_BYTES, StepExecutor, retry_while_unavailable
from drw.workflow.orchestration.ports import LeadershipLost, ReserveSlot, Slot

log = logging.getLogger(__name__)


class StepFailed(DrwError):
    """A step has failed permanently, and so has the run."""


class Interpreter:
    """The function that the engine executes durably."""

    def __init__(self, journal: RunJournal, step_executor: StepExecutor, max_concurrent_steps: int) -> None:
        self._journal = journal
        self._step_executor = step_executor
        self._max_concurrent_steps = max_concurrent_steps

    async def run(self, run_id: str, reserve_slot: ReserveSlot) -> None:
        """Execute one run."""
        run = await retry_while_unavailable(self._journal.acquire, run_id)
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
                output, error = await self._execute(run, reserve_slot)
                await retry_while_unavailable(self._journal.end_run, run, output=output, error=error)
            except LeadershipLost as exception:
                log.warning("%s", exception.message)

    async def _execute(self, run: Run, reserve_slot: ReserveSlot) -> tuple[Any, str]:
        try:
            with translated_errors("orchestration", run.id):
                execution = _Execution(run, self._step_executor, asyncio.Semaphore(self._max_concurrent_steps))
                await execution.run_steps(reserve_slot)
                output = render(run.template.output, execution.expression_scope())
                if (size := len(orjson.dumps(output))) > MAX_OUTPUT_BYTES:
                    raise TooLarge(f"the output has {size} bytes; at most {MAX_OUTPUT_BYTES}")
        except LeadershipLost:
            raise
        except DrwError as error:
            return None, error.message
        return output, ""


class _Execution:
    """One execution of one run."""

    def __init__(self, run: Run, step_executor: StepExecutor, concurrency: asyncio.Semaphore) -> None:
        self._run = run
        self._step_executor = step_executor
        self._concurrency = concurrency
        self._steps = dependency_graph.build_steps(run.template, run.inputs)
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def run_steps(self, reserve_slot: ReserveSlot) -> None:
        """Execute all steps. The first failure ends the execution and abandons the running steps."""
        slots = [(step, reserve_slot()) for step in self._steps]
        for step, slot in slots:
            self._tasks[step.id] = asyncio.create_task(self._run_step(step, slot), name=f"{self._run.id}/{step.id}")
        try:
            await asyncio.gather(*self._tasks.values())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def expression_scope(self, step: Step | None = None) -> dict[str, Any]:
        """Return the values that references may name: for a step those of its dependencies, else all."""
        nodes = {node.id: node for node in self._run.template.nodes}
        scope: dict[str, Any] = {"inputs": self._run.inputs, "run": {"id": self._run.id}, "steps": {}}
        for name, node in nodes.items():
            ids = dependency_graph.step_ids(node, self._run.inputs)
            if step is not None and step.item is not None and node.for_each == step.node.for_each:
                ids = [f"{name}/{step.id.rpartition('/')[2]}"]
                scope["steps"][name] = {"output": self._output(ids[0])}
            elif all(self._succeeded(i) for i in ids):
                outputs = [self._output(i) for i in ids]
                scope["steps"][name] = {"output": outputs if node.for_each else outputs[0]}
        if step is not None and step.item is not None:
            scope["item"] = step.item
        return scope

    async def _run_step(self, step: Step, slot: Slot) -> Any:
        if dependencies := [self._tasks[name] for name in step.dependencies]:
            await asyncio.wait(dependencies)
            for task in dependencies:
                task.result()
        arguments = self._arguments(step)
        async with self._concurrency:
            result = await slot.execute_once(step.id, lambda: self._step_executor.execute(self._run, step, arguments))
        if "error" in result:
            raise StepFailed(f"the step {step.id!r} failed: {result['error']}")
        return result["output"]

    def _arguments(self, step: Step) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = render(orjson.loads(step.node.with_json), self.expression_scope(step))
        except DrwError as error:
            raise StepFailed(f"the step {step.id!r} cannot run: {error.message}") from error
        return arguments

    def _succeeded(self, step: str) -> bool:
        task = self._tasks[step]
        return task.done() and not task.cancelled() and task.exception() is None

    def _output(self, step: str) -> Any:
        return self._tasks[step].result() if self._succeeded(step) else None
