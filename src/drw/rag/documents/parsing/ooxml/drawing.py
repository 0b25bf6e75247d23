"""Text of drawings in PPTX, DOCX and XLSX: text boxes, tables, charts and diagrams (ECMA-376, DrawingML)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing import markdown
from drw.rag.documents.parsing.ooxml.elements import (
    attribute,
    child,
    children,
    descendants,
    integer,
    relation_id,
    tag,
    value,
)
from drw.rag.documents.parsing.ooxml.package import DamagedPart, Package, Relation
from drw.rag.documents.parsing.sheets import number_formats

MAX_POINTS = 1000
"""Of one series of a chart; further points are ignored."""
CHART_TAGS = frozenset({"chart", "chartEx"})


def texts_of_part(package: Package, part: str) -> list[str]:
    """Return the texts of a drawing part; empty if it is damaged."""
    try:
        root = package.root(part)
    except DamagedPart:
        return []
    return list(texts(package, root, package.relations(part)))


def texts(package: Package, element: Element, relations: dict[str, Relation]) -> Iterator[str]:
    """Yield the texts of the shapes below an element, in document order."""
    name = tag(element)
    if name == "AlternateContent":
        yield from alternative(package, element, relations)
    elif name == "txBody":
        if text := body(element):
            yield text
    elif name == "tbl":
        if text := table(element):
            yield text
    elif name in CHART_TAGS and relation_id(element):
        yield from _related_text(package, relations.get(relation_id(element)), chart)
    elif name == "relIds":
        yield from _related_text(package, relations.get(relation_id(element, "dm")), diagram)
    else:
        for item in element:
            yield from texts(package, item, relations)


def alternative(package: Package, element: Element, relations: dict[str, Relation]) -> list[str]:
    """Return the texts of the first alternative with text: all alternatives have the same content."""
    for option in element:
        if option_texts := [text for item in option for text in texts(package, item, relations)]:
            return option_texts
    return []


def body(element: Element) -> str:
    """Return the paragraphs of a text body."""
    return "\n".join(filter(None, map(paragraph, children(element, "p"))))


def paragraph(element: Element) -> str:
    """Return the text of a paragraph, with a bullet below the first level."""
    text = runs(element).strip()
    level = integer(value(child(element, "pPr"), "lvl"))
    return f"{'  ' * min(level, 8)}- {text}" if text and level else text


def runs(element: Element) -> str:
    """Return the text of an element's runs, fields and line breaks."""
    parts: list[str] = []
    for item in element.iter():
        name = tag(item)
        if name == "t":
            parts.append(item.text or "")
        elif name == "br":
            parts.append("\n")
        elif name == "tab":
            parts.append("\t")
    return "".join(parts)


def table(element: Element) -> str:
    """Return a table as Markdown; the text of a merged cell appears once."""
    rows: list[list[str]] = []
    for row in children(element, "tr"):
        cells: list[str] = []
        for cell in children(row, "tc"):
            is_merged = attribute(cell, "hMerge") in {"1", "true"} or attribute(cell, "vMerge") in {"1", "true"}
            content = child(cell, "txBody")
            cells.append("" if is_merged or content is None else body(content))
        rows.append(cells)
    return markdown.table(rows)


def chart(root: Element) -> str:
    """Return the titles of a chart, and its values as a table of categories by series."""
    titles = [runs(t).strip() for t in descendants(root, "title")]
    names: list[str] = []
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in descendants(root, "ser"):
        points = _points(child(series, "cat")) or _points(child(series, "xVal"))
        categories = {**points, **categories}
        names.append(" ".join(_points(child(series, "tx")).values()) or f"Series {len(names) + 1}")
        columns.append(_points(child(series, "val")) or _points(child(series, "yVal")))
    numbers = sorted(set(categories).union(*columns))[:MAX_POINTS] if columns else []
    rows = [[categories.get(n, str(n + 1)), *(column.get(n, "") for column in columns)] for n in numbers]
    if not columns:
        rows = _chartex_rows(root)
    title = " · ".join(dict.fromkeys(filter(None, titles)))
    heading = f"Chart: {title}" if title else "Chart"
    if not rows:
        return heading if title else ""
    return f"{heading}\n\n{markdown.table([['', *names], *rows] if columns else rows)}"


def diagram(root: Element) -> str:
    """Return the texts of a diagram's nodes as a nested list."""
    nodes = {attribute(p, "modelId"): p for p in descendants(root, "pt")}
    children_of: dict[str, list[tuple[int, str]]] = {}
    for connection in descendants(root, "cxn"):
        if attribute(connection, "type") in {"", "parOf"}:
            item = (integer(attribute(connection, "srcOrd")), attribute(connection, "destId"))
            children_of.setdefault(attribute(connection, "srcId"), []).append(item)
    lines: list[str] = []
    visited: set[str] = set()
    roots = [id_ for id_, node in nodes.items() if attribute(node, "type") == "doc"]
    stack = [(id_, -1) for id_ in reversed([*roots, *(n for n in nodes if n not in roots)])]
    while stack:
        id_, level = stack.pop()
        if id_ in visited or id_ not in nodes:
            continue
        visited.add(id_)
        content = child(nodes[id_], "t")
        if attribute(nodes[id_], "type") in {"", "node", "asst"} and content is not None and (text := body(content)):
            lines.append(f"{'  ' * min(max(level, 0), 8)}- {' '.join(text.split())}")
        stack += [(child_id, level + 1) for _, child_id in sorted(children_of.get(id_, []), reverse=True)]
    return "\n".join(lines)


def _related_text(package: Package, relation: Relation | None, read: Callable[[Element], str]) -> Iterator[str]:
    if relation is None or relation.is_external:
        return
    try:
        root = package.root(relation.target)
    except DamagedPart:
        return
    if text := read(root):
        yield text


def _points(source: Element | None) -> dict[int, str]:
    """Return the cached texts or formatted numbers of a chart's data reference, by index."""
    if source is None:
        return {}
    levels = list(descendants(source, "lvl")) or [source]
    is_number = next(descendants(source, "numCache"), None) is not None
    texts_by_index: dict[int, str] = {}
    for level in levels:
        code = next((e.text or "" for e in descendants(level, "formatCode")), "General")
        for point in islice(descendants(level, "pt"), MAX_POINTS):
            index = integer(attribute(point, "idx"), -1)
            content = child(point, "v")
            if index >= 0 and content is not None and content.text:
                text = _format_number(content.text, code) if is_number else content.text
                texts_by_index[index] = f"{text} {texts_by_index[index]}" if index in texts_by_index else text
    if not texts_by_index and (literal := child(source, "v")) is not None and literal.text:
        texts_by_index[0] = literal.text
    return texts_by_index


def _format_number(text: str, code: str) -> str:
    try:
        return number_formats.format_number(float(text), code) or text
    except ValueError:
        return text


def _chartex_rows(root: Element) -> list[list[str]]:
    """Return the data of an Office 2016 chart (chartex), such as a waterfall or treemap, as rows of its dimensions."""
    columns = [
        [p.text or "" for p in descendants(dimension, "pt")][:MAX_POINTS]
        for data in descendants(root, "data")
        for dimension in data
    ]
    return [list(row) for row in zip(*columns, strict=False)] if columns else []
