"""Strict YAML with positions: ambiguous constructs are rejected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from drw.kernel.errors import TooLarge
from drw.workflow.templates.problems import InvalidTemplate, Problem

MAX_SOURCE_BYTES = 64 * 1024
MAX_DEPTH = 50
"""Maximum nesting; deeper documents exhaust the parser's stack."""

Path = tuple[int | str, ...]
"""The keys and indices that lead to a value."""


@dataclass
class Positions:
    """Line and column of each key and value of a document."""

    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    texts: dict[Path, int] = field(default_factory=dict)
    """Columns between the position of a text on one line and its first character: 1 with quotes."""

    def problem(self, path: Path, message: str, *, at_key: bool = False, offset: int | None = None) -> Problem:
        """Return a problem at a key, at a value, or at an offset in a text. A missing path gives its parent."""
        if offset is not None and path in self.texts:
            line, column = self.values[path]
            return Problem(line, column + self.texts[path] + offset, message)
        while True:
            for positions in (self.keys, self.values) if at_key else (self.values,):
                if path in positions:
                    return Problem(*positions[path], message)
            path = path[:-1]


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, aliases (which can expand exponentially) and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _error(self.line, self.column, "aliases (*name) are not allowed")
        if self.depth == MAX_DEPTH:
            raise _error(self.line, self.column, f"more than {MAX_DEPTH} levels of nesting")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            if (name := str(key.value)) in names:
                raise _error(key.start_mark.line, key.start_mark.column, f"duplicate key {name!r}")
            names.add(name)
        return super().construct_mapping(node, deep)


def load(source: bytes, location: str) -> tuple[dict[str, Any], Positions]:
    """Return the mapping in a YAML source, with its positions; `location` names the source in errors.

    Raises:
        TooLarge: the source is larger than `MAX_SOURCE_BYTES`.
        InvalidTemplate: the source is not YAML or not a mapping.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise TooLarge(f"{location} has more than {MAX_SOURCE_BYTES} bytes")
    positions = Positions()
    try:
        loader = _Loader(source.decode())  # a stricter SafeLoader
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
        if node is not None:
            _record(node, (), positions)
    # A ValueError means a number with too many digits, an invalid date, or bytes that are not UTF-8. The scanner of
    # flow collections raises a RecursionError by itself.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidTemplate(location, [_problem(error)]) from error
    if not isinstance(value, dict):
        message = "a template must be a mapping with the keys name, inputs, nodes and output"
        raise InvalidTemplate(location, [Problem(1, 1, message)])
    return value, positions


def _record(node: yaml.Node, path: Path, positions: Positions) -> None:
    positions.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            positions.keys[(*path, key.value)] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _record(value, (*path, key.value), positions)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _record(item, (*path, index), positions)
    elif node.start_mark.line == node.end_mark.line and "\\" not in node.value:
        positions.texts[path] = 0 if getattr(node, "style", None) is None else 1


def _error(line: int, column: int, message: str) -> yaml.MarkedYAMLError:
    mark = yaml.Mark("", 0, line, column, None, 0)
    return yaml.MarkedYAMLError(None, None, message, mark)


def _problem(error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    text = getattr(error, "problem", None) or str(error)
    return Problem(line, column, f"not valid YAML: {text}")
