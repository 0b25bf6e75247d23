"""Finds the `${...}` placeholders of a text, whose contents may contain braces and quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drw.kernel.errors import InvalidRequest

_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[{}]""", re.DOTALL)
_STRING = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_REFERENCE = re.compile(
    r"(?<![\w.])(?:inputs|steps|run|item|index|previous|event)\b(?:\s*\.\s*[A-Za-z_]\w*(?!\w|\s*\())*"
)

_SECRET = re.compile(r"\s*secrets\s*\.\s*([A-Za-z_]\w*)\s*")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One `${expression}` of a text."""

    expression: str
    start: int
    """Offset of the `$` in the text."""
    end: int
    """Offset behind the closing brace."""


def placeholders(text: str) -> list[Placeholder]:
    """Return the placeholders of a text.

    Raises:
        InvalidRequest: a placeholder has no closing brace.
    """
    found: list[Placeholder] = []
    position = 0
    while (start := text.find("${", position)) >= 0:
        position = _closing_brace(text, start) + 1
        found.append(Placeholder(text[start + 2 : position - 1], start, position))
    return found


def texts_in(value: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield each text of a JSON value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_in(item, (*path, index))


def references(expression: str) -> list[str]:
    """Return the variables that an expression names, with their fields, such as `steps.read.output.pages`.

    A name may be that of a variable of a comprehension.
    """
    return [re.sub(r"\s", "", match[0]) for match in _REFERENCE.finditer(without_strings(expression))]


def without_strings(expression: str) -> str:
    """Return an expression of the same length whose string literals are blank."""
    return _STRING.sub(lambda match: "'" + " " * (len(match[0]) - 2) + "'", expression)


def secret_name(expression: str) -> str:
    """Return the name in an expression that is a secret, as in `secrets.NAME`; otherwise an empty string."""
    match = _SECRET.fullmatch(expression)
    return match[1] if match else ""


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for token in _TOKEN.finditer(text, start + 2):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    raise InvalidRequest(f"{text[start : start + 80]!r} has a '${{' without its '}}'")
