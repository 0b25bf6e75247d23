"""A recorded run: its template, its inputs and the journal of its steps, from the database or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.workflow.orchestration.execution.journal.run_journal import Run

ENDED = ("SUCCEEDED", "FAILED")
NOBODY = Principal("", "", "replay")
UNSAMPLED = f"00-{1:032x}-{1:016x}-00"
"""A trace context that no span of a replay is recorded for."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of the journal."""

    id: str
    state: str
    arguments: str
    """The digest of its arguments; empty if the step did not begin, or an earlier release executed it."""
    decision: Any
    output: Any
    error: str
    started_at: str
    """In ISO 8601 with microseconds; empty: it has not started."""
    ended_at: str


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as its journal has it."""

    id: str
    state: str
    """SUCCEEDED, FAILED, or another one if the run did not end by its template."""
    template: Template
    inputs: dict[str, Any]
    started_at: str
    output: Any
    error: str
    steps: tuple[RecordedStep, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> RecordedRun:
        """Return the run of a row and its steps."""
        is_interrupted = any(step["reason"] == "Interrupted" for step in steps)
        return cls(
            id=row["id"],
            state="INTERRUPTED" if is_interrupted else row["state"],
            template=Template.FromString(row["template"]),
            inputs=row["inputs"],
            started_at=_text(row["created_at"]),
            output=row["output"],
            error=row["undo_reason"] or row["error"],  # the rest is about compensations
            steps=tuple(
                RecordedStep(
                    **{name: step[name] for name in ("id", "state", "arguments", "decision", "output", "error")},
                    started_at=_text(step["started_at"]),
                    ended_at=_text(step["ended_at"]),
                )
                for step in steps
            ),
        )

    @classmethod
    def from_json(cls, text: bytes) -> RecordedRun:
        """Parse the output of `to_json`."""
        fields = orjson.loads(text)
        template = from_json(fields.pop("template"), Template)
        steps = tuple(RecordedStep(**step) for step in fields.pop("steps"))
        return cls(template=template, steps=steps, **fields)

    def to_json(self) -> bytes:
        """Return the run as JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields |= {"template": to_json(self.template), "steps": [asdict(step) for step in self.steps]}
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    def run(self) -> Run:
        """Return the run that the interpreter executes."""
        return Run(self.id, 0, NOBODY, self.template, self.inputs, UNSAMPLED, self.started_at)


def _text(at: datetime | None) -> str:
    """Return a time as expressions see it: its order is that of the times."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if at else ""
