"""Lookups in XML elements by local names: namespaces differ between the strict and transitional formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element

MAX_DIGITS = 9


def tag(element: Element) -> str:
    """Return the local name of an element, without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Element, name: str) -> str:
    """Return an attribute by its local name; empty if it is missing."""
    if (text := element.get(name)) is not None:
        return text
    return next((value for key, value in element.attrib.items() if key.endswith(f"}}{name}")), "")


def relation_id(element: Element, name: str = "id") -> str:
    """Return the relationship id of an element, an attribute in the namespace of relationships; empty if missing."""
    return next((v for k, v in element.attrib.items() if k.endswith(f"}}{name}") and "elationships" in k), "")


def child(element: Element, *path: str) -> Element | None:
    """Return the first descendant along a path of local names; None if there is none."""
    current: Element | None = element
    for name in path:
        if current is None:
            return None
        current = next((item for item in current if tag(item) == name), None)
    return current


def children(element: Element | None, name: str) -> Iterator[Element]:
    """Yield the children with a local name."""
    if element is not None:
        yield from (item for item in element if tag(item) == name)


def descendants(element: Element | None, name: str) -> Iterator[Element]:
    """Yield the element and its descendants with a local name, in document order."""
    if element is not None:
        yield from (item for item in element.iter() if tag(item) == name)


def value(element: Element | None, name: str = "val") -> str:
    """Return an attribute of an element, by default `val`; empty if the attribute or the element is missing."""
    return attribute(element, name) if element is not None else ""


def is_on(element: Element | None) -> bool:
    """Return whether an on/off property is present and not switched off."""
    return element is not None and attribute(element, "val") not in {"0", "false"}


def items(element: Element | None) -> Iterable[Element]:
    """Return all children of an element; empty if the element is missing."""
    return () if element is None else element


def integer(text: str, default: int = 0) -> int:
    """Parse a non-negative integer of at most `MAX_DIGITS` digits; return the default for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else default
