"""Lookups in XML elements by local names: namespaces differ between the variants of a format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element

MAX_DIGITS = 9


def tag(element: Element) -> str:
    """Return an element's name without its namespace: that of the strict form is another one."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Element, name: str) -> str:
    """Return an attribute by its name without namespace; empty if there is none."""
    if (text := element.get(name)) is not None:
        return text
    return next((value for key, value in element.attrib.items() if key.endswith(f"}}{name}")), "")


def relation_id(element: Element, name: str = "id") -> str:
    """Return the id of a relationship: an attribute with a namespace."""
    return next((v for k, v in element.attrib.items() if k.endswith(f"}}{name}") and "elationships" in k), "")


def child(element: Element, *path: str) -> Element | None:
    """Return the first descendant along a path of names; None if there is none."""
    current: Element | None = element
    for name in path:
        if current is None:
            return None
        current = next((item for item in current if tag(item) == name), None)
    return current


def children(element: Element | None, name: str) -> Iterator[Element]:
    """Yield the children of a name."""
    if element is not None:
        yield from (item for item in element if tag(item) == name)


def descendants(element: Element | None, name: str) -> Iterator[Element]:
    """Yield the descendants of a name, in the order of the document."""
    if element is not None:
        yield from (item for item in element.iter() if tag(item) == name)


def value(element: Element | None, name: str = "val") -> str:
    """Return the `val` of an element; empty if it, or the element, is missing."""
    return attribute(element, name) if element is not None else ""


def items(element: Element | None) -> Iterable[Element]:
    """Return the children of an element; empty if it is missing."""
    return () if element is None else element


def integer(text: str, default: int = 0) -> int:
    """Return an integer of a part; the default if it is not one, as in a damaged part."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else default
