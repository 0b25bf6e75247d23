"""Plans of compensations: the arguments that undo a step, stored with the step's own result.

A plan that needs no output of its step is stored before the step starts. So a step whose outcome is unknown can be
undone too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Node
from drw.expressions.placeholders import placeholders, references, texts_in
from drw.kernel.errors import DrwError
from drw.kernel.storage.database import Connection
from drw.workflow.orchestration.activities.activity import Effect
from drw.workflow.orchestration.execution.journal.run_journal import Run
from drw.workflow.orchestration.execution.step_arguments import StepArguments


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """The compensation of one step, and the variables of its expressions."""

    step: str
    node: Node
    scope: Mapping[str, Any]

    @classmethod
    def of(cls, step: str, node: Node, scope: Mapping[str, Any]) -> UndoPlan | None:
        """Return the plan of a step, or None if its node has no compensation."""
        return cls(step, node, scope) if node.HasField("compensate") else None

    def early(self) -> str | None:
        """Return the plan as JSON before the step starts, or None if it needs the output of the step."""
        own = f"steps.{self.node.id}"
        undo = self.node.compensate
        texts = [text for _, text in texts_in([orjson.loads(undo.with_json or "{}"), undo.idempotency_key])]
        named = [name for text in texts for found in placeholders(text) for name in references(found.expression)]
        if any(name == own or name.startswith(f"{own}.") or name == "steps" for name in named):
            return None
        return self._json(self.scope)

    def effect(self, run: Run, output: Any) -> Effect:
        """Return what stores the plan when the step has succeeded."""
        steps = {**self.scope["steps"], self.node.id: {"output": output}}
        plan = self._json({**self.scope, "steps": steps})

        async def store(connection: Connection) -> None:
            await connection.execute("update step set undo = %s where run = %s and id = %s", (plan, run.id, self.step))

        return store

    def _json(self, scope: Mapping[str, Any]) -> str:
        try:
            arguments = StepArguments.rendered(self.node.compensate, scope).to_json()
        except DrwError as error:  # the step itself succeeded; its compensation fails with this
            return orjson.dumps({"error": error.message}).decode()
        return orjson.dumps(arguments).decode()


def both(first: Effect | None, second: Effect | None) -> Effect | None:
    """Return an effect that writes both."""
    if first is None or second is None:
        return first or second
    one, other = first, second

    async def write(connection: Connection) -> None:
        await one(connection)
        await other(connection)

    return write
