"""Reads YAML as plain values: what is ambiguous in it is refused."""

from __future__ import annotations

from typing import Any

import yaml

from drw.kernel.errors import InvalidRequest, TooLarge

MAX_SOURCE_BYTES = 64 * 1024


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, of which YAML would silently keep the last, and aliases, which can explode."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (name := str(key.value)) in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {name!r} stands here twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def read(source: bytes, place: str) -> dict[str, Any]:
    """Return the mapping in a YAML source; `place` is what errors call it.

    Raises:
        TooLarge: the source has more than `MAX_SOURCE_BYTES`.
        InvalidRequest: it is not YAML, or not a mapping; the message has line and column.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise TooLarge(f"{place} has {len(source)} bytes; at most {MAX_SOURCE_BYTES}")
    try:
        value = yaml.load(source.decode(), Loader=_Loader)  # a SafeLoader, only stricter
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{place} is not YAML that a template can be read from: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place} must be a mapping with the keys name, inputs, nodes and output")
    return value
