"""Text of drawings: text boxes, tables, charts and diagrams, in PPTX, DOCX and XLSX (ECMA-376, DrawingML)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from xml.etree.ElementTree import Element

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
"""Of one series of a chart; a longer one is not read as a table by anybody."""
CHARTS = frozenset({"chart", "chartEx"})


def texts_of_part(package: Package, part: str) -> list[str]:
    """Return the texts of a drawing part; empty if it is damaged."""
    try:
        root = package.root(part)
    except DamagedPart:
        return []
    return list(texts(package, root, package.relations(part)))


def texts(package: Package, element: Element, relations: dict[str, Relation]) -> Iterator[str]:
    """Yield the texts of the shapes below an element, in the order of the document."""
    name = tag(element)
    if name == "AlternateContent":
        yield from alternative(package, element, relations)
    elif name == "txBody":
        if text := body(element):
            yield text
    elif name == "tbl":
        if text := table(element):
            yield text
    elif name in CHARTS and relation_id(element):
        yield from _of_relation(package, relations.get(relation_id(element)), chart)
    elif name == "relIds":
        yield from _of_relation(package, relations.get(relation_id(element, "dm")), diagram)
    else:
        for item in element:
            yield from texts(package, item, relations)


def alternative(package: Package, element: Element, relations: dict[str, Relation]) -> list[str]:
    """Return the texts of the first alternative that has any: all say the same."""
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
    """Return a table as Markdown; a cell over several columns or rows is shown once."""
    rows: list[list[str]] = []
    for row in children(element, "tr"):
        cells: list[str] = []
        for cell in children(row, "tc"):
            is_merged = attribute(cell, "hMerge") in {"1", "true"} or attribute(cell, "vMerge") in {"1", "true"}
            content = child(cell, "txBody")
            cells.append("" if is_merged or content is None else body(content))
        rows.append(cells)
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """Return rows of cells as a table; empty where no cell has text."""
    if not any(any(cell.strip() for cell in row) for row in rows):
        return ""
    width = max(map(len, rows))
    lines = [
        "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in row + [""] * (width - len(row))) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * width) + " |", *lines[1:]])


def chart(root: Element) -> str:
    """Return a chart's titles, and its values as a table of categories by series."""
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
        rows = _extended(root)
    title = " · ".join(dict.fromkeys(filter(None, titles)))
    head = f"Chart: {title}" if title else "Chart"
    if not rows:
        return head if title else ""
    return f"{head}\n\n{markdown([['', *names], *rows] if columns else rows)}"


def diagram(root: Element) -> str:
    """Return the texts of a diagram's nodes, as a list by how they are nested."""
    nodes = {attribute(p, "modelId"): p for p in descendants(root, "pt")}
    below: dict[str, list[tuple[int, str]]] = {}
    for link in descendants(root, "cxn"):
        if attribute(link, "type") in {"", "parOf"}:
            item = (integer(attribute(link, "srcOrd")), attribute(link, "destId"))
            below.setdefault(attribute(link, "srcId"), []).append(item)
    lines: list[str] = []
    seen: set[str] = set()
    starts = [id_ for id_, node in nodes.items() if attribute(node, "type") == "doc"]
    stack = [(id_, -1) for id_ in reversed([*starts, *(n for n in nodes if n not in starts)])]
    while stack:
        id_, level = stack.pop()
        if id_ in seen or id_ not in nodes:
            continue
        seen.add(id_)
        content = child(nodes[id_], "t")
        if attribute(nodes[id_], "type") in {"", "node", "asst"} and content is not None and (text := body(content)):
            lines.append(f"{'  ' * min(max(level, 0), 8)}- {' '.join(text.split())}")
        stack += [(child_id, level + 1) for _, child_id in sorted(below.get(id_, []), reverse=True)]
    return "\n".join(lines)


def _of_relation(package: Package, relation: Relation | None, read: object) -> Iterator[str]:
    if relation is None or relation.is_external:
        return
    try:
        root = package.root(relation.target)
    except DamagedPart:
        return
    if text := read(root):  # type: ignore[operator]
        yield text


def _points(source: Element | None) -> dict[int, str]:
    """Return the stored texts or numbers of a chart's reference by their index."""
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
                text = _number(content.text, code) if is_number else content.text
                texts_by_index[index] = f"{text} {texts_by_index[index]}" if index in texts_by_index else text
    if not texts_by_index and (literal := child(source, "v")) is not None and literal.text:
        texts_by_index[0] = literal.text
    return texts_by_index


def _number(text: str, code: str) -> str:
    try:
        return number_formats.shown(float(text), code) or text
    except ValueError:
        return text


def _extended(root: Element) -> list[list[str]]:
    """Return the data of a chart of the kinds of 2016, as waterfall and treemap, by its dimensions."""
    columns = [
        [p.text or "" for p in descendants(dimension, "pt")][:MAX_POINTS]
        for data in descendants(root, "data")
        for dimension in data
    ]
    return [list(row) for row in zip(*columns, strict=False)] if columns else []
