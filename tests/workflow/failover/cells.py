"""The cells of the failover matrix: one run for each kind of node, stopped at one point of its steps.

Each template has a step before and a step after the node. A run is stopped in one of these ways:

- at the boundary of a step: the database rejects the transaction that begins or ends it, as if it were unavailable,
- in the middle of a step: the service that it calls does not answer, or its wait does not end.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CELL = """
name: {name}
description: A node of one kind between two steps.
inputs:
  token: {{type: STRING, required: true}}
  folder: {{type: STRING, required: true}}
  seconds: {{type: NUMBER, required: true}}
nodes:
  - {{id: before, uses: ingest, with: {{file: "${{inputs.token}}-before", collection: c}}}}
  - {{id: node, needs: [before], {node}}}
  - {{id: after, uses: ingest, needs: [node], with: {{file: "${{inputs.token}}-after", collection: c}}}}
output: done
"""

_BODY = 'nodes: [{id: inner, uses: ingest, with: {file: "${inputs.token}-${index}", collection: c}}]'
_CHILD = "{token: '${inputs.token}-child', folder: '${inputs.folder}', seconds: 0}"


@dataclass(frozen=True)
class Kind:
    """A kind of node."""

    node: str
    calls: tuple[str, ...] = ()
    """The calls of the node, and of the steps inside of it. `T` is the token of the run."""
    inner: tuple[str, ...] = ()
    """The steps inside of it whose boundaries are tested."""
    waits: bool = False
    """Its middle is a wait, and no call."""


KINDS = {
    "ingest": Kind('uses: ingest, with: {file: "${inputs.token}-x", collection: c}', ("index T-x",)),
    "model": Kind('uses: model, with: {prompt: "Write:\\n\\nText of ${inputs.token}."}', ("chat T",)),
    "retrieve": Kind('uses: retrieve, with: {collection: "${inputs.token}", question: q}', ("search T",)),
    "summarise": Kind('uses: serving.summarise, with: {file: "file-${inputs.token}"}', ("read file-T", "chat file-T")),
    "write": Kind('uses: documents.write, with: {name: "${inputs.token}.md", text: t}', ("put T",)),
    "python": Kind(
        'uses: python, with: {function: record, arguments: {folder: "${inputs.folder}", name: "${inputs.token}"}}',
        ("python T",),
    ),
    "switch": Kind(
        'uses: switch, cases: [{nodes: [{id: inner, uses: ingest, with: {file: "${inputs.token}-0", collection: c}}]}]',
        ("index T-0",),
        ("node.0.inner",),
    ),
    "loop": Kind(f"uses: loop, with: {{max_iterations: 2}}, {_BODY}", ("index T-0", "index T-1"), ("node.1.inner",)),
    "map": Kind(f"uses: map, with: {{items: [7, 8]}}, {_BODY}", ("index T-0", "index T-1"), ("node.1.inner",)),
    "wait": Kind('uses: wait, with: {seconds: "${inputs.seconds}"}', waits=True),
    "approval": Kind('uses: approval, with: {title: "Go?"}', waits=True),
    "workflow": Kind(
        f"uses: workflow, with: {{template: cell_ingest, inputs: {_CHILD}}}",
        ("index T-child-before", "index T-child-x", "index T-child-after"),
    ),
}
BEGIN, END = "RUNNING", "SUCCEEDED"


@dataclass
class Cell:
    """One run, and where it is stopped: at a step's begin or end, or in a call or wait."""

    kind: str
    step: str = ""
    state: str = ""
    call: str = ""
    token: str = field(default="", init=False)
    number: int = field(default=0, init=False)
    run: str = field(default="", init=False)

    @property
    def name(self) -> str:
        return f"{self.kind}: " + (f"{self.step} {self.state}" if self.step else self.call or "wait")

    def expected(self) -> Counter[str]:
        """Return how often each call happens if nothing is repeated."""
        calls = ("index T-before", *KINDS[self.kind].calls, "index T-after")
        return Counter(call.replace("T", self.token) for call in calls)

    def in_flight(self) -> set[str]:
        """Return the calls of the step that is in flight when the run is stopped. They may happen once more."""
        node = KINDS[self.kind]
        if self.state == BEGIN:
            return set()
        if self.state == END:
            inner = self.step in node.inner
            calls = {node.calls[-1]} if inner else set() if node.inner or self.kind == "workflow" else set(node.calls)
            calls |= {"index T-0"} if self.kind == "map" and inner else set()
        else:
            calls = {self.call} | ({"index T-0", "index T-1"} if self.kind == "map" else set())
            calls |= set(node.calls) if self.kind == "summarise" else set()
        return {call.replace("T", self.token) for call in calls}


def all_cells() -> list[Cell]:
    """Return a cell for each boundary of a step and for the middle of each kind of node."""
    cells = list(_cells())
    for number, cell in enumerate(cells):
        cell.number, cell.token = number, f"t{number}"
    return cells


def _cells() -> Iterator[Cell]:
    for kind, node in KINDS.items():
        for step, state in itertools.product(("node", *node.inner), (BEGIN, END)):
            yield Cell(kind, step, state)
        yield Cell(kind, "after", BEGIN)
        if node.waits:
            yield Cell(kind)
        for call in node.calls[1:2] if kind == "workflow" else node.calls:
            yield Cell(kind, call=call)


def python_calls(folder: Path) -> Counter[str]:
    """Return the calls of the function `record`."""
    return Counter(f"python {path.stem}" for path in folder.glob("*.log") for _ in path.read_text().splitlines())
