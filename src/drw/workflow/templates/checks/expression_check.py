"""Checks the expressions of a template: references, syntax and types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from drw.expressions import cel
from drw.expressions.cel import InvalidExpression
from drw.expressions.placeholders import placeholders, references, secret_name, texts_in, without_strings
from drw.kernel.errors import InvalidRequest
from drw.workflow.templates.activities import SECRET_ARGUMENTS
from drw.workflow.templates.problems import Problem, nearest
from drw.workflow.templates.yaml_source import Path, Positions

_SECRETS = re.compile(r"(?<![\w.])secrets\b")
RUN_VARIABLES = {"run.id": "string", "run.started_at": "string"}


@dataclass(frozen=True, slots=True)
class Scope:
    """The variables at one place of a template, by dotted name, with their types."""

    variables: Mapping[str, str] = field(default_factory=lambda: dict(RUN_VARIABLES))
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The fields of the outputs that have fixed fields, by node."""

    def with_variables(self, variables: Mapping[str, str]) -> Scope:
        """Return a scope with more variables."""
        return replace(self, variables={**self.variables, **variables})

    def with_output(self, node: str, of_type: str, fields: Mapping[str, str] | None) -> Scope:
        """Return a scope with the output of a node."""
        root = f"steps.{node}.output"
        names = {root: of_type} | {f"{root}.{name}": kind for name, kind in (fields or {}).items()}
        outputs = self.outputs if fields is None else {**self.outputs, node: fields}
        return Scope({**self.variables, **names}, outputs)

    def names(self, root: str) -> set[str]:
        """Return the names below `inputs` or `steps`."""
        return {name.split(".")[1] for name in self.variables if name.startswith(f"{root}.")}


class ExpressionCheck:
    """Checks expressions at their positions."""

    def __init__(self, positions: Positions, nodes: frozenset[str]) -> None:
        self._positions = positions
        self._nodes = nodes
        """The ids of all nodes of the template."""

    def value(
        self, value: JsonValue, path: Path, scope: Scope, expected: str = "dyn", *, secrets: bool = False
    ) -> Iterator[Problem]:
        """Yield the problems of a value with expressions, whose type must fit `expected`.

        `secrets`: it can contain secrets.
        """
        whole_type = _literal_type(value)
        for place, text in texts_in(value, path):
            try:
                found = placeholders(text)
            except InvalidRequest as error:
                yield self._positions.problem(place, error.message)
                continue
            is_whole = len(found) == 1 and found[0].end - found[0].start == len(text)
            for placeholder in found:
                outcome = _secret(placeholder.expression, secrets) or self._type(placeholder.expression, scope)
                if isinstance(outcome, str):
                    whole_type = outcome if is_whole and place == path else whole_type
                    continue
                whole_type = "dyn"
                for problem in outcome:
                    offset = placeholder.start + 2 + problem.column
                    yield self._positions.problem(place, problem.message, offset=offset)
        if not fits(whole_type, expected):
            yield self._positions.problem(path, f"this is of the type {whole_type}; it must be {expected}")

    def condition(self, text: str, path: Path, scope: Scope) -> Iterator[Problem]:
        """Yield the problems of a condition."""
        if condition_of(text) is None:
            yield self._positions.problem(path, f"{text!r} must be one expression, such as ${{inputs.limit > 5}}")
        else:
            yield from self.value(text, path, scope, "bool")

    def _type(self, expression: str, scope: Scope) -> str | list[InvalidExpression]:
        if problems := list(self._unknown_references(expression, scope)):
            return problems
        try:
            return cel.check(expression, scope.variables)
        except InvalidExpression as error:
            return [error]

    def _unknown_references(self, expression: str, scope: Scope) -> Iterator[InvalidExpression]:
        for reference in references(expression):
            if message := self._unknown(reference.split("."), scope):
                yield InvalidExpression(f"${{{reference}}}: {message}", max(0, expression.find(reference)))

    def _unknown(self, path: list[str], scope: Scope) -> str:
        match path:
            case ["inputs", name, *_] if name not in scope.names("inputs"):
                return f"there is no input {name!r}; {nearest(name, scope.names('inputs'))}"
            case ["steps", name, *_] if name not in self._nodes:
                return f"there is no node {name!r}; {nearest(name, self._nodes)}"
            case ["steps", name, *_] if name not in scope.names("steps"):
                return f"{name!r} is not a dependency here; add it to 'needs'"
            case ["steps", name, "output", key, *_] if key not in scope.outputs.get(name, {key: ""}):
                return f"the output of {name!r} has no {key!r}; {nearest(key, scope.outputs[name])}"
            case ["item" | "index", *_] if path[0] not in scope.variables:
                return f"{path[0]!r} is only available in a node with 'for_each', and in the body of a 'map'"
            case ["inputs" | "steps"] | ["steps", _]:
                return "write ${inputs.NAME} or ${steps.NODE.output}"
        return ""


def _secret(expression: str, allowed: bool) -> str | list[InvalidExpression]:
    """Return the type of a secret, or its problem; an empty string: the expression names no secret."""
    match = _SECRETS.search(without_strings(expression))
    if match is None:
        return ""
    if not secret_name(expression):
        message = "a secret stands alone, as in 'Bearer ${secrets.NAME}': expressions cannot compute with it"
        return [InvalidExpression(message, match.start())]
    if not allowed:
        places = " and ".join(f"{', '.join(map(repr, names))} of {uses!r}" for uses, names in SECRET_ARGUMENTS.items())
        return [InvalidExpression(f"secrets can only be in {places}", match.start())]
    return "string"


def condition_of(text: str) -> str | None:
    """Return the expression of a condition, or None if the text is not one expression."""
    try:
        found = placeholders(text)
    except InvalidRequest:
        return None
    if len(found) == 1 and (found[0].start, found[0].end) == (0, len(text)):
        return found[0].expression
    return None


def constant(expression: str) -> object:
    """Return the value of an expression without variables, or None if it has some."""
    if references(expression):
        return None
    try:
        value: object = cel.evaluate(expression, {})
    except InvalidRequest:
        return None
    return value


def fits(actual: str, expected: str) -> bool:
    """Return whether a value of one type can be used where another is expected."""
    if "dyn" in (actual, expected) or actual == expected or (actual, expected) == ("int", "double"):
        return True
    if actual.startswith("list(") and expected.startswith("list("):
        return fits(actual[5:-1], expected[5:-1])
    return False


def _literal_type(value: JsonValue) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "string"
        case list():
            return "list(dyn)"
        case dict():
            return "map"
    return "null"
