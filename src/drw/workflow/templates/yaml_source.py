"""Strict YAML: ambiguous constructs are rejected."""

from __future__ import annotations

from typing import Any

import yaml

from drw.kernel.errors import InvalidRequest, TooLarge

MAX_SOURCE_BYTES = 64 * 1024
MAX_DEPTH = 50
"""Maximum nesting; deeper documents exhaust the parser's stack."""


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, aliases (which can expand exponentially) and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.line + 1}: aliases (*name) are not allowed")
        if self.depth == MAX_DEPTH:
            raise yaml.YAMLError(f"line {self.line + 1}: more than {MAX_DEPTH} levels of nesting")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            if (name := str(key.value)) in names:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: duplicate key {name!r}")
            names.add(name)
        return super().construct_mapping(node, deep)


def load(source: bytes, location: str) -> dict[str, Any]:
    """Return the mapping in a YAML source; `location` names the source in errors.

    Raises:
        TooLarge: the source is larger than `MAX_SOURCE_BYTES`.
        InvalidRequest: the source is not YAML or not a mapping; the message has line and column.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise TooLarge(f"{location} has more than {MAX_SOURCE_BYTES} bytes")
    try:
        value = yaml.load(source.decode(), Loader=_Loader)  # a stricter SafeLoader
    # A ValueError means a number with too many digits, an invalid date, or bytes that are not UTF-8. The scanner of
    # flow collections raises a RecursionError by itself.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{location} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{location} must be a mapping with the keys name, inputs, nodes and output")
    return value
