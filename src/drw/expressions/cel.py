"""CEL expressions: compiled with types, evaluated with bounds on size and cost.

The library is Google's C++ implementation. It has no loops other than comprehensions over lists and maps, reads
nothing but its variables, and has neither a clock nor random numbers: the same variables give the same result. It
limits nesting to 32 levels and comprehensions to 10,000 iterations. It copies a variable at each access, so that the
bounds below also limit the bytes that all iterations together may read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from cel_expr_python import cel

from drw.expressions.placeholders import placeholders, references
from drw.kernel.errors import InvalidRequest, TooLarge

MAX_EXPRESSION_CHARACTERS = 1000
MAX_OPERATORS = 32
"""Maximum number of `+` in one expression. Each can double the size of a text or a list."""
MAX_RESULT_BYTES = 64 * 1024
MAX_ITERATIONS = 10_000
MAX_COST_BYTES = 16 * 1024 * 1024
"""Maximum product of iterations and bytes of the variables: about 0.1 s on one core. The library holds Python's lock
meanwhile, so that a thread would not help the other runs of the process."""
ELEMENT_BYTES = 12
"""Cost of an element of a list or map in addition to its bytes: each iteration of a `map` copies the list so far."""

ROOTS = ("inputs", "steps", "run", "item", "index", "previous", "event")
"""The variables of an expression; `event` only in triggers."""

_COMPREHENSION = re.compile(r"\.\s*(?:map|filter|all|exists|exists_one)\s*\(")
_NAME = re.compile(r"\s*[A-Za-z_]\w*\s*(?:\.\s*[A-Za-z_]\w*\s*)*")
_POSITION = re.compile(r"<input>:(-?\d+):(-?\d+): (.*)")


class InvalidExpression(InvalidRequest):
    """An expression cannot be compiled or evaluated."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.column = column
        """Offset of the mistake in the expression, in characters."""


def check(expression: str, variables: Mapping[str, str]) -> str:
    """Return the type of an expression, such as `int`, `list(string)` or `dyn`.

    `variables` maps dotted names to types.

    Raises:
        InvalidExpression: it is too long, has wrong syntax, names an unknown variable, or does not fit the types.
    """
    env = cel.NewEnv(variables={name: cel_type(of) for name, of in variables.items()})
    return _type_name(_compile(env, expression).return_type())


def has_comprehension(expression: str) -> bool:
    """Return whether an expression iterates over a list or a map."""
    return bool(_COMPREHENSION.search(expression))


def cel_type(name: str) -> cel.Type:
    """Return a type by its name: `dyn`, `string`, `int`, `double`, `bool`, `list(T)` or `map`."""
    if name.startswith("list("):
        return cel.Type.List(cel_type(name[5:-1]))
    if name == "map":
        return cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    simple: cel.Type = getattr(cel.Type, name.upper())
    return simple


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """Return the JSON value of an expression. The keys of `scope` are among `ROOTS`.

    Raises:
        InvalidExpression: the expression is invalid, or a value has the wrong type or does not exist.
        TooLarge: the result, or the work, exceeds the bounds. An expression that only names a value has no bound.
    """
    compiled = _compiled(expression)
    if (large := _large_value(expression, scope)) is not None:
        return large
    values = _referenced(expression, scope)
    _check_cost(expression, values)
    try:
        result = compiled.eval(data=values)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvalidExpression(f"${{{expression}}}: {_first_line(error)}") from None
    return _Converter(expression).json(result)


def render(value: Any, scope: Mapping[str, Any]) -> Any:
    """Return a JSON value with all placeholders replaced. A text that is one placeholder gets the type of its value.

    Raises:
        InvalidExpression, TooLarge: as `evaluate`.
    """
    if isinstance(value, str):
        return _render_text(value, scope)
    if isinstance(value, dict):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, scope) for item in value]
    return value


def _render_text(text: str, scope: Mapping[str, Any]) -> Any:
    found = placeholders(text)
    if len(found) == 1 and (found[0].start, found[0].end) == (0, len(text)):
        return evaluate(found[0].expression, scope)
    parts, position = [], 0
    for placeholder in found:
        value = evaluate(placeholder.expression, scope)
        parts += [text[position : placeholder.start], value if isinstance(value, str) else orjson.dumps(value).decode()]
        position = placeholder.end
    if sum(map(len, parts)) > MAX_RESULT_BYTES:
        raise TooLarge(f"the text {text[:40]!r}... is rendered to more than {MAX_RESULT_BYTES} characters")
    return "".join([*parts, text[position:]])


@lru_cache(maxsize=1)
def _dynamic_env() -> cel.Env:
    return cel.NewEnv(variables=dict.fromkeys(ROOTS, cel.Type.DYN))


@lru_cache(maxsize=2000)
def _compiled(expression: str) -> cel.Expression:
    return _compile(_dynamic_env(), expression)


def _compile(env: cel.Env, expression: str) -> cel.Expression:
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        raise InvalidExpression(f"an expression has {len(expression)} characters; at most {MAX_EXPRESSION_CHARACTERS}")
    if expression.count("+") > MAX_OPERATORS:
        raise InvalidExpression(f"an expression has {expression.count('+')} '+'; at most {MAX_OPERATORS}")
    try:
        return env.compile(expression)
    except RuntimeError as error:
        match = _POSITION.search(str(error))
        column = max(0, int(match[2]) - 1) if match and match[1] == "1" else 0
        raise InvalidExpression(f"${{{expression}}}: {_first_line(error)}", column) from None


def _referenced(expression: str, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the scope that an expression names, so that large outputs of other steps are not copied."""
    values: dict[str, Any] = {}
    for reference in references(expression):
        root, *path = reference.split(".")
        if root not in scope:
            continue
        if root in ("inputs", "steps") and path and path[0] in scope[root]:
            values.setdefault(root, {})[path[0]] = scope[root][path[0]]
        elif root in ("inputs", "steps") and path:
            values.setdefault(root, {})
        else:
            values[root] = scope[root]
    return values


def _large_value(expression: str, scope: Mapping[str, Any]) -> Any:
    """Return a copy of the value that an expression names, without CEL, if it exceeds `MAX_RESULT_BYTES`; else None."""
    if not _NAME.fullmatch(expression):
        return None
    value: Any = scope
    for name in expression.split("."):
        if not isinstance(value, Mapping) or (value := value.get(name.strip())) is None:
            return None
    value_json = orjson.dumps(value)
    return orjson.loads(value_json) if len(value_json) > MAX_RESULT_BYTES else None


def _check_cost(expression: str, values: Mapping[str, Any]) -> None:
    comprehensions = len(_COMPREHENSION.findall(expression))
    if not comprehensions:
        return
    longest, elements = _lengths(values)
    written = expression.count(",") + 1  # the most elements that a list in the expression itself can have
    iterations = min(MAX_ITERATIONS, max(written, longest) ** comprehensions)
    size = len(orjson.dumps(values)) + ELEMENT_BYTES * elements
    if iterations * size > MAX_COST_BYTES:
        raise TooLarge(
            f"${{{expression}}} is too costly: {iterations} iterations over {size} bytes;"
            f" the product is at most {MAX_COST_BYTES}"
        )


def _lengths(value: Any) -> tuple[int, int]:
    """Return the length of the longest list or map in a value, and the elements of all of them."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [_lengths(item) for item in (value.values() if isinstance(value, dict) else value)]
    longest = max([len(value), *(length for length, _ in inner)])
    return longest, len(value) + sum(elements for _, elements in inner)


class _Converter:
    """Converts a result to JSON, within the bound of `MAX_RESULT_BYTES`."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._size = 0

    def json(self, result: cel.Value) -> Any:
        """Return the JSON value of a result.

        Raises:
            InvalidExpression: it is an error, or has no form in JSON.
            TooLarge: it exceeds the bound.
        """
        kind = str(result.type()).partition("<")[0]
        if kind in ("ERROR", "UNKNOWN"):
            raise InvalidExpression(f"${{{self._expression}}}: {_first_line(result.plain_value())}")
        value = result.value()
        self._count(value)
        match kind:
            case "LIST":
                return [self.json(item) for item in value]
            case "MAP":
                return {self._key(key): self.json(item) for key, item in value.items()}
            case "TIMESTAMP":
                return value.isoformat().replace("+00:00", "Z")
            case "DURATION":
                return value.total_seconds()
            case "BOOL" | "INT" | "UINT" | "DOUBLE" | "STRING" | "NULL":
                return value
        raise InvalidExpression(f"${{{self._expression}}} has the type {kind.lower()}, which JSON cannot represent")

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise InvalidExpression(f"${{{self._expression}}} has the key {key!r}; keys must be strings")
        self._count(key)
        return key

    def _count(self, value: Any) -> None:
        self._size += len(value) if isinstance(value, str | bytes | list | dict) else 1
        if self._size > MAX_RESULT_BYTES:
            raise TooLarge(f"${{{self._expression}}} has a result of more than {MAX_RESULT_BYTES} bytes")


def _type_name(of: cel.Type) -> str:
    name = str(of).lower().replace("<", "(").replace(">", ")")
    return "map" if name.startswith("map") else name


def _first_line(error: object) -> str:
    text = str(error)
    if match := _POSITION.search(text):
        text = match[3]
    text = re.sub(r"^[A-Z_]+: (?:ERROR: )?", "", text.splitlines()[0])
    return re.sub(r" \[[A-Z_]+\]$| \(in container ''\)", "", text)
