"""Checks the nodes of a template: activities, arguments, control nodes, expressions, unreachable nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drw.workflow.templates.activities import (
    ACTIVITIES,
    ARGUMENTS_OF_CONTROL,
    CONTROL,
    KEYED,
    SECRET_ARGUMENTS,
    WAITING,
    Activity,
)
from drw.workflow.templates.checks.expression_check import ExpressionCheck, Scope, condition_of, constant
from drw.workflow.templates.checks.graph_check import ancestors, check_graph
from drw.workflow.templates.problems import Problem, nearest
from drw.workflow.templates.schema import (
    MAX_NODES,
    CaseSource,
    CompensationSource,
    InputSource,
    NodeSource,
    TemplateSource,
)
from drw.workflow.templates.yaml_source import Path, Positions

MAX_DEPTH = 4
"""Maximum nesting of control nodes."""
CEL_TYPES = {
    "STRING": "string",
    "INTEGER": "int",
    "NUMBER": "double",
    "BOOLEAN": "bool",
    "FILES": "list(string)",
    "LIST": "list(dyn)",
    "OBJECT": "map",
}
NULLABLE = ("NUMBER", "BOOLEAN", "OBJECT")
JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "INTEGER": int,
    "NUMBER": (int, float),
    "BOOLEAN": bool,
    "FILES": list,
    "LIST": list,
    "OBJECT": dict,
}
BODY = {"switch": ("cases",), "map": ("nodes", "output"), "loop": ("nodes", "output", "until")}
"""The keys that only control nodes have."""


def check(template: TemplateSource, positions: Positions) -> list[Problem]:
    """Return all problems of a template that fits the schema."""
    checker = _NodeCheck(template, positions)
    return [*checker.inputs(), *checker.block(template.nodes, ("nodes",), checker.scope, 0), *checker.output()]


def all_nodes(nodes: Sequence[NodeSource], path: Path) -> Iterator[tuple[NodeSource, Path]]:
    """Yield the nodes, and those inside of them, with their paths."""
    for index, node in enumerate(nodes):
        here: Path = (*path, index)
        yield node, here
        yield from all_nodes(node.nodes, (*here, "nodes"))
        for number, case in enumerate(node.cases):
            yield from all_nodes(case.nodes, (*here, "cases", number, "nodes"))


class _NodeCheck:
    def __init__(self, template: TemplateSource, positions: Positions) -> None:
        self._template = template
        self._positions = positions
        self._nodes = list(all_nodes(template.nodes, ("nodes",)))
        self._expressions = ExpressionCheck(positions, frozenset(node.id for node, _ in self._nodes))
        inputs = {f"inputs.{name}": _input_type(source) for name, source in template.inputs.items()}
        self.scope = Scope().with_variables(inputs)

    def inputs(self) -> Iterator[Problem]:
        """Yield the problems of the inputs and of the ids of the nodes."""
        for name, source in self._template.inputs.items():
            expected = JSON_TYPES[source.type]
            wrong = not isinstance(source.default, expected) or isinstance(source.default, bool) != (expected is bool)
            is_number_text = source.type == "INTEGER" and str(source.default).lstrip("-").isdigit()
            if source.default is not None and wrong and not is_number_text:
                message = f"the default of the input {name!r} must be of the type {source.type}"
                yield self._positions.problem(("inputs", name, "default"), message)
        seen: set[str] = set()
        for node, path in self._nodes:
            if node.id in seen:
                yield self._positions.problem((*path, "id"), f"node {node.id!r} is defined more than once")
            seen.add(node.id)
        if len(self._nodes) > MAX_NODES:
            message = f"the template has {len(self._nodes)} nodes; at most {MAX_NODES}"
            yield self._positions.problem(("nodes",), message, at_key=True)

    def output(self) -> Iterator[Problem]:
        """Yield the problems of the template's output."""
        scope = self.scope
        for node in self._template.nodes:
            scope = _with_output(scope, node)
        yield from self._expressions.value(self._template.output, ("output",), scope)

    def block(self, nodes: Sequence[NodeSource], path: Path, scope: Scope, depth: int) -> Iterator[Problem]:
        """Yield the problems of a list of nodes."""
        yield from check_graph(nodes, path, self._positions)
        by_id = {node.id: node for node in nodes}
        earlier = ancestors(nodes)
        for index, node in enumerate(nodes):
            node_scope = scope
            for name in sorted(earlier[node.id]):
                node_scope = _with_output(node_scope, by_id[name])
            yield from self._node(node, (*path, index), node_scope, depth)

    def _node(self, node: NodeSource, path: Path, scope: Scope, depth: int) -> Iterator[Problem]:
        yield from self._for_each(node, path)
        if node.for_each:
            scope = scope.with_variables({"item": "dyn", "index": "int"})
        activity = ARGUMENTS_OF_CONTROL.get(node.uses) or ACTIVITIES.get(node.uses)
        if activity is None:
            hint = nearest(node.uses, [*ACTIVITIES, *CONTROL])
            yield self._positions.problem((*path, "uses"), f"{node.uses!r} is not an activity; {hint}")
        else:
            yield from self._arguments(node, node.id, activity, path, scope)
        yield from self._key(node, path, scope)
        yield from self._compensation(node, path, scope)
        yield from self._body_keys(node, path)
        if depth == MAX_DEPTH and node.uses in CONTROL:
            yield self._positions.problem(path, f"control nodes are nested more than {MAX_DEPTH} deep")
        elif node.uses == "switch":
            yield from self._cases(node, path, scope, depth)
        elif node.uses in CONTROL:
            yield from self._body(node, path, scope, depth)

    def _key(self, node: NodeSource | CompensationSource, path: Path, scope: Scope) -> Iterator[Problem]:
        place: Path = (*path, "idempotency_key")
        if node.idempotency_key and node.uses not in KEYED:
            owners = " and ".join(map(repr, KEYED))
            message = f"{node.uses!r} does not accept 'idempotency_key', which belongs to {owners}"
            yield self._positions.problem(place, message, at_key=True)
        yield from self._expressions.value(node.idempotency_key, place, scope, "string")

    def _compensation(self, node: NodeSource, path: Path, scope: Scope) -> Iterator[Problem]:
        if (undo := node.compensate) is None:
            return
        place: Path = (*path, "compensate")
        scope = _with_output(scope, node, each=True)
        activity = ACTIVITIES.get(undo.uses)
        if activity is None or undo.uses in WAITING:
            hint = nearest(undo.uses, ACTIVITIES.keys() - set(WAITING))
            message = f"{undo.uses!r} is not an activity that can compensate; {hint}"
            yield self._positions.problem((*place, "uses"), message)
        else:
            yield from self._arguments(undo, f"{node.id}.compensate", activity, place, scope)
        yield from self._key(undo, place, scope)

    def _arguments(
        self, node: NodeSource | CompensationSource, name_of_node: str, activity: Activity, path: Path, scope: Scope
    ) -> Iterator[Problem]:
        types = {**activity.required, **activity.optional}
        if missing := sorted(activity.required.keys() - node.with_.keys()):
            names = ", ".join(map(repr, missing))
            yield self._positions.problem(path, f"node {name_of_node!r}: {node.uses!r} needs {names} under 'with'")
        for name, value in node.with_.items():
            place: Path = (*path, "with", name)
            if name not in types:
                message = f"{node.uses!r} does not accept {name!r}; {nearest(name, types)}"
                yield self._positions.problem(place, message, at_key=True)
            secrets = name in SECRET_ARGUMENTS.get(node.uses, ())
            yield from self._expressions.value(value, place, scope, types.get(name, "dyn"), secrets=secrets)

    def _for_each(self, node: NodeSource, path: Path) -> Iterator[Problem]:
        lists = [f"${{inputs.{n}}}" for n, source in self._template.inputs.items() if source.type in ("FILES", "LIST")]
        if node.for_each and node.for_each not in lists:
            choices = ", ".join(lists) or "none"
            message = f"for_each is {node.for_each!r}; the lists are: {choices}. Use a 'map' for other lists"
            yield self._positions.problem((*path, "for_each"), message)
        if node.for_each and node.uses in CONTROL:
            message = f"a {node.uses!r} cannot have 'for_each': put it into a 'map'"
            yield self._positions.problem((*path, "for_each"), message, at_key=True)

    def _body_keys(self, node: NodeSource, path: Path) -> Iterator[Problem]:
        allowed = BODY.get(node.uses, ())
        for key in sorted(node.model_fields_set & {"cases", "nodes", "output", "until"}):
            if key not in allowed:
                owners = [repr(uses) for uses, keys in BODY.items() if key in keys]
                message = f"{node.uses!r} does not accept {key!r}, which belongs to {' and '.join(owners)}"
                yield self._positions.problem((*path, key), message, at_key=True)
        for key in allowed[:1]:
            if not getattr(node, key):
                yield self._positions.problem(path, f"node {node.id!r}: a {node.uses!r} needs {key!r}")

    def _body(self, node: NodeSource, path: Path, scope: Scope, depth: int) -> Iterator[Problem]:
        own = {"item": "dyn", "index": "int"} if node.uses == "map" else {"index": "int", "previous": "dyn"}
        inner = scope.with_variables(own)
        yield from self.block(node.nodes, (*path, "nodes"), inner, depth + 1)
        for child in node.nodes:
            inner = _with_output(inner, child)
        yield from self._expressions.value(node.output, (*path, "output"), inner)
        if node.until:
            yield from self._expressions.condition(node.until, (*path, "until"), inner)

    def _cases(self, node: NodeSource, path: Path, scope: Scope, depth: int) -> Iterator[Problem]:
        decided = ""
        for number, case in enumerate(node.cases):
            place: Path = (*path, "cases", number)
            if decided:
                yield self._positions.problem(place, f"this case is unreachable: {decided}")
            yield from self._case(case, place, scope, depth)
            value = constant(condition_of(case.when) or "") if case.when else True
            if value is False:
                yield self._positions.problem((*place, "when"), "this case is unreachable: it is always false")
            elif value is True:
                decided = f"case {number + 1} is {'always true' if case.when else 'the default'}"

    def _case(self, case: CaseSource, path: Path, scope: Scope, depth: int) -> Iterator[Problem]:
        if case.when:
            yield from self._expressions.condition(case.when, (*path, "when"), scope)
        yield from self.block(case.nodes, (*path, "nodes"), scope, depth + 1)
        for child in case.nodes:
            scope = _with_output(scope, child)
        yield from self._expressions.value(case.output, (*path, "output"), scope)


def _input_type(source: InputSource) -> str:
    optional = source.type in NULLABLE and source.default is None and not source.required
    return "dyn" if optional else CEL_TYPES[source.type]


def _with_output(scope: Scope, node: NodeSource, *, each: bool = False) -> Scope:
    """Return a scope with the output of a node; `each`: that of one item."""
    if (node.for_each and not each) or node.uses == "map":
        return scope.with_output(node.id, "list(dyn)", None)
    activity = ACTIVITIES.get(node.uses)
    if activity is None or activity.output is None:
        return scope.with_output(node.id, "dyn", None)
    return scope.with_output(node.id, "map", activity.output)
