"""Execution of a list of nodes: each step starts once its dependencies have succeeded.

Steps are identified by their ids and depend only on inputs and on recorded outputs. What a node decides, such as the
case of a `switch`, is recorded before its body starts. Replay is therefore deterministic, in whatever order steps end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import Field

from drw.api.workflow.v1.templates_pb2 import Block, Node
from drw.expressions.cel import evaluate, render
from drw.kernel.errors import DrwError, InvalidRequest
from drw.workflow.orchestration.activities.activity import Arguments, validated
from drw.workflow.orchestration.compensation.plan import UndoPlan
from drw.workflow.orchestration.execution import dependency_graph, failures
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal, StepFailure
from drw.workflow.orchestration.execution.step_arguments import StepArguments
from drw.workflow.orchestration.execution.step_executor import StepExecutor, retry_while_unavailable
from drw.workflow.orchestration.execution.waiting import WAITING, WaitingSteps
from drw.workflow.orchestration.ports import LeadershipLost

Scope = Mapping[str, Any]
MAX_ITEMS = 10_000


class StepFailed(DrwError):
    """A step has failed permanently, and so has the run."""


class MapArguments(Arguments):
    """The list of a `map`, and how many items run at the same time."""

    items: list[Any] = Field(max_length=MAX_ITEMS)
    concurrency: int = Field(default=4, ge=1, le=100)


class LoopArguments(Arguments):
    """The bound of a `loop`."""

    max_iterations: int = Field(ge=1, le=100)


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of one run."""

    run: Run
    journal: RunJournal
    step_executor: StepExecutor
    waiting: WaitingSteps
    concurrency: asyncio.Semaphore

    async def block(self, nodes: Sequence[Node], scope: Scope, prefix: str, result: Callable[[Scope], Any]) -> Any:
        """Execute all steps of a block, and return `result` of their outputs.

        The first failure ends the execution and abandons the running steps.
        """
        tasks: dict[str, asyncio.Task[Any]] = {}
        steps = dependency_graph.build_steps(nodes, self.run.inputs, prefix)
        for step in steps:  # dependencies come first, so that their tasks exist
            name = f"{self.run.id}/{step.id}"
            tasks[step.id] = asyncio.create_task(self._after(step, nodes, scope, prefix, tasks), name=name)
        await _all(list(tasks.values()))
        return result(_scope(nodes, self.run.inputs, scope, prefix, tasks, None))

    async def _after(
        self, step: Step, nodes: Sequence[Node], scope: Scope, prefix: str, tasks: Mapping[str, asyncio.Task[Any]]
    ) -> Any:
        if dependencies := [tasks[name] for name in step.dependencies]:
            await asyncio.wait(dependencies)
            for task in dependencies:
                task.result()
        return await self._step(step, _scope(nodes, self.run.inputs, scope, prefix, tasks, step))

    async def _step(self, step: Step, scope: Scope) -> Any:
        try:
            arguments = StepArguments.rendered(step.node, scope)
        except DrwError as error:
            raise StepFailed(f"the step {step.id!r} cannot run: {error.message}") from error
        undo = UndoPlan.of(step.id, step.node, scope)
        if step.node.uses in _CONTROL:
            return await self._control(step, arguments.values, scope, undo)
        if step.node.uses in WAITING:
            return await self._reported(step, lambda: self.waiting.execute(self.run, step, arguments.values, undo))
        if undo and (plan := undo.early()):
            await retry_while_unavailable(self.journal.plan_undo, self.run, step.id, plan)
        async with self.concurrency:
            result = await self.step_executor.execute(self.run, step, arguments, undo)
        if "error" in result:
            raise StepFailed(f"the step {step.id!r} failed: {result['error']}")
        return result["output"]

    async def _control(self, step: Step, arguments: dict[str, Any], scope: Scope, undo: UndoPlan | None) -> Any:
        async def execute() -> Any:
            decision = _decide(step.node, arguments, scope)
            recorded = await retry_while_unavailable(self.journal.open_step, self.run, step.id, decision)
            if recorded.finished:
                return recorded.result()
            output = await _CONTROL[step.node.uses](self, step, recorded.decision, scope)
            await retry_while_unavailable(self.journal.check_output, self.run, step.node, output)
            effect = undo.effect(self.run, output) if undo else None
            await retry_while_unavailable(self.journal.end_step, self.run, step.id, 1, output=output, effect=effect)
            return output

        return await self._reported(step, execute)

    async def _reported(self, step: Step, function: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of a function; record its failure as that of the step."""
        try:
            return await function()
        except (LeadershipLost, StepFailed):
            raise
        except DrwError as error:
            failure = StepFailure(error.message, failures.classify(error, repeatable=True), error.reason)
            await retry_while_unavailable(self.journal.fail_open_step, self.run, step.id, failure)
            raise StepFailed(f"the step {step.id!r} failed: {error.message}") from error

    async def _switch(self, step: Step, decision: Any, scope: Scope) -> Any:
        if decision["case"] is None:
            return None
        return await self._body(step.node.blocks[decision["case"]], scope, f"{step.id}.{decision['case']}.")

    async def _loop(self, step: Step, decision: Any, scope: Scope) -> Any:
        body, previous = step.node.blocks[0], None
        for index in range(decision["max_iterations"]):
            inner = {**scope, "index": index, "previous": previous}
            is_last, previous = await self.block(
                body.nodes, inner, f"{step.id}.{index}.", lambda final: _iteration(step.node, body, final)
            )
            if is_last:
                return previous
        if step.node.until:
            raise InvalidRequest(f"${{{step.node.until}}} is not true after {decision['max_iterations']} iterations")
        return previous

    async def _map(self, step: Step, decision: Any, scope: Scope) -> Any:
        items, body = decision["items"], step.node.blocks[0]
        outputs: list[Any] = [None] * len(items)
        remaining = iter(range(len(items)))

        async def work() -> None:
            for index in remaining:
                inner = {**scope, "item": items[index], "index": index}
                outputs[index] = await self._body(body, inner, f"{step.id}.{index}.")

        await _all([asyncio.create_task(work()) for _ in range(min(decision["concurrency"], len(items)))])
        return outputs

    async def _body(self, block: Block, scope: Scope, prefix: str) -> Any:
        return await self.block(block.nodes, scope, prefix, lambda final: render(_output(block), final))


_ControlFunction = Callable[[Execution, Step, Any, Scope], Coroutine[Any, Any, Any]]
_CONTROL: dict[str, _ControlFunction] = {
    "switch": Execution._switch,
    "loop": Execution._loop,
    "map": Execution._map,
}


def _decide(node: Node, arguments: dict[str, Any], scope: Scope) -> dict[str, Any]:
    match node.uses:
        case "map":
            return validated(MapArguments, arguments).model_dump()
        case "loop":
            return validated(LoopArguments, arguments).model_dump()
    for number, case in enumerate(node.blocks):
        if not case.when or _is_true(case.when, scope):
            return {"case": number}
    return {"case": None}


def _iteration(node: Node, body: Block, scope: Scope) -> tuple[bool, Any]:
    """Return whether a loop ends, and the output of the iteration."""
    return bool(node.until) and _is_true(node.until, scope), render(_output(body), scope)


def _is_true(condition: str, scope: Scope) -> bool:
    value = evaluate(condition, scope)
    if not isinstance(value, bool):
        raise InvalidRequest(f"${{{condition}}} is {str(value)[:80]!r}; it must be true or false")
    return value


def _output(block: Block) -> Any:
    return orjson.loads(block.output_json or "null")


def _scope(
    nodes: Sequence[Node],
    inputs: dict[str, Any],
    outer: Scope,
    prefix: str,
    tasks: Mapping[str, asyncio.Task[Any]],
    step: Step | None,
) -> dict[str, Any]:
    """Return the values that expressions may name: for a step those of its dependencies, else all of the block."""
    steps: dict[str, Any] = dict(outer["steps"])
    for node in nodes:
        ids = dependency_graph.step_ids(node, inputs, prefix)
        if step is not None and step.index is not None and node.for_each == step.node.for_each:
            ids = [f"{prefix}{node.id}/{step.index}"]
            if _succeeded(tasks.get(ids[0])):
                steps[node.id] = {"output": tasks[ids[0]].result()}
        elif all(_succeeded(tasks.get(name)) for name in ids):
            outputs = [tasks[name].result() for name in ids]
            steps[node.id] = {"output": outputs if node.for_each else outputs[0]}
    scope = {**outer, "steps": steps}
    if step is not None and step.index is not None:
        scope |= {"item": step.item, "index": step.index}
    return scope


def _succeeded(task: asyncio.Task[Any] | None) -> bool:
    return task is not None and task.done() and not task.cancelled() and task.exception() is None


async def _all(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for all tasks. The first failure cancels the others, and is raised when they have ended."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
