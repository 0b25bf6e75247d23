"""Reader of DOCX documents, in reading order: text, tables, text boxes, embedded documents, notes, charts, diagrams."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing import markdown
from drw.rag.documents.parsing.ooxml import drawing
from drw.rag.documents.parsing.ooxml.elements import (
    attribute,
    child,
    children,
    descendants,
    integer,
    is_on,
    items,
    relation_id,
    tag,
    value,
)
from drw.rag.documents.parsing.ooxml.numbering import LEVELS, Numbering
from drw.rag.documents.parsing.ooxml.package import DamagedPart, Package, Relation
from drw.rag.documents.ports import ParseFailed

MAX_NESTING = 4
"""Maximum depth of embedded documents, and of nested tables and text boxes."""
WRAPPER_TAGS = frozenset({"sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag", "body"})
SKIPPED_TAGS = frozenset({"del", "moveFrom", "pPr", "sdtPr", "instrText", "delText", "rt", "sectPr"})
MAX_HEADING_LEVEL = 6

Converter = Callable[[str, bytes], str]
"""Returns the text of an embedded file, by its extension, such as `html`, and its bytes."""


@dataclass(slots=True)
class _Paragraph:
    """The text of a paragraph, the texts that follow it, and its page breaks."""

    text: str = ""
    after: list[str] = field(default_factory=list)
    """Texts of text boxes, charts, diagrams and notes that are anchored in the paragraph."""
    breaks_before: bool = False
    breaks_after: bool = False


class WordReader:
    """Reads one document, and collects `warnings` about parts that were not read."""

    def __init__(self, package: Package, convert: Converter, *, hidden: bool, depth: int = 0) -> None:
        self._package = package
        self._convert = convert
        self._hidden = hidden
        self._depth = depth
        self.warnings: list[str] = []
        self._main = package.main_part("word/document.xml")
        self._relations = package.relations(self._main)
        self._styles = self._read_styles()
        self._numbering = Numbering(self._related_root("numbering"))
        self._numbers: dict[str, dict[str, int]] = {"footnote": {}, "endnote": {}}
        self._break = ""
        self._notes: dict[str, str] = {}
        for kind in ("footnote", "endnote", "comment"):
            self._notes |= self._read_notes(f"{kind}s", kind)

    def pages(self) -> Iterator[str]:
        """Yield the pages of Word's last layout; without a layout, split at page breaks.

        Raises:
            ParseFailed: the document cannot be read.
        """
        try:
            root, is_complete = self._package.recover(self._main)
        except DamagedPart as error:
            raise ParseFailed("this document is damaged: its text cannot be read") from error
        if not is_complete:
            self.warnings.append("the document is damaged: what could be read of it was kept")
        page = self._headers_or_footers("header")
        footers = self._headers_or_footers("footer")
        is_laid_out = next(descendants(root, "lastRenderedPageBreak"), None) is not None
        self._break = "lastRenderedPageBreak" if is_laid_out else "br"
        for text, is_new_page in self._blocks(items(child(root, "body")), self._relations, 0):
            if is_new_page and page:
                yield "\n\n".join(page)
                page = []
            page += [text] if text.strip() else []
        page += footers
        if page:
            yield "\n\n".join(page)

    def _blocks(
        self, parent: Iterable[Element], relations: dict[str, Relation], depth: int
    ) -> Iterator[tuple[str, bool]]:
        """Yield the texts of paragraphs and tables, and whether each starts a new page."""
        is_new_page = False
        for element in parent:
            name = tag(element)
            if name == "p":
                paragraph = self._paragraph(element, relations, depth)
                yield paragraph.text, is_new_page or paragraph.breaks_before
                yield from ((text, False) for text in paragraph.after)
                is_new_page = paragraph.breaks_after
            elif name == "tbl":
                for text in self._table(element, relations, depth):
                    yield text, is_new_page
                    is_new_page = False
            elif name == "altChunk":
                yield self._embedded_document(relations.get(relation_id(element))), is_new_page
                is_new_page = False
            elif name in WRAPPER_TAGS:
                yield from self._blocks(element, relations, depth)
            elif name == "AlternateContent":
                alternatives = (self._texts(option, relations, depth) for option in element)
                yield from ((text, False) for text in next(filter(None, alternatives), []))

    def _texts(self, parent: Element, relations: dict[str, Relation], depth: int) -> list[str]:
        if depth > MAX_NESTING:
            return [drawing.runs(parent).strip()]
        return [text for text, _ in self._blocks(parent, relations, depth) if text.strip()]

    def _paragraph(self, element: Element, relations: dict[str, Relation], depth: int) -> _Paragraph:
        paragraph = _Paragraph()
        self._runs(element, paragraph, relations, depth)
        text = paragraph.text.strip("\n ")
        properties = child(element, "pPr")
        level, list_, list_level = self._style(properties)
        label = self._numbering.label(list_, list_level) if list_ and text else ""
        if level and text:
            paragraph.text = f"{'#' * min(level, MAX_HEADING_LEVEL)} {' '.join(f'{label} {text}'.split())}"
        elif label:
            paragraph.text = f"{'  ' * list_level}{label} {text}"
        else:
            paragraph.text = text
        if self._break == "br" and properties is not None and is_on(child(properties, "pageBreakBefore")):
            paragraph.breaks_before = True
        return paragraph

    def _runs(self, element: Element, paragraph: _Paragraph, relations: dict[str, Relation], depth: int) -> None:
        for item in element:
            name = tag(item)
            if name == "t":
                paragraph.text += item.text or ""
            elif name in {"tab", "ptab"}:
                paragraph.text += "\t"
            elif name in {"br", "cr", "lastRenderedPageBreak"}:
                self._add_break(item, name, paragraph)
            elif name in {"noBreakHyphen", "sym"}:
                paragraph.text += "-" if name == "noBreakHyphen" else _symbol(item)
            elif name in {"footnoteReference", "endnoteReference", "commentReference"}:
                self._add_note(name.removesuffix("Reference"), attribute(item, "id"), paragraph)
            elif name in {"drawing", "pict", "object", "txbxContent"}:
                paragraph.after += self._drawing_texts(item, relations, depth + 1)
            elif name == "AlternateContent":
                self._add_alternative(item, paragraph, relations, depth)
            elif name == "r" and not self._hidden and is_on(child(item, "rPr", "vanish")):
                continue
            elif name not in SKIPPED_TAGS:
                self._runs(item, paragraph, relations, depth)

    def _add_break(self, item: Element, name: str, paragraph: _Paragraph) -> None:
        is_page = name == self._break and (name != "br" or attribute(item, "type") == "page")
        if is_page and paragraph.text.strip():
            paragraph.breaks_after = True
        elif is_page:
            paragraph.breaks_before = True
        elif name != "lastRenderedPageBreak":
            paragraph.text += "\n"

    def _add_note(self, kind: str, id_: str, paragraph: _Paragraph) -> None:
        text = self._notes.get(f"{kind} {id_}", "")
        if kind == "comment":
            paragraph.after += [f"Comment: {text}"] if text else []
            return
        numbers = self._numbers[kind]
        number = numbers.setdefault(id_, len(numbers) + 1)
        mark = f"[{number}]" if kind == "footnote" else f"[e{number}]"
        paragraph.text += mark
        paragraph.after += [f"{mark} {text}"] if text else []

    def _add_alternative(
        self, element: Element, paragraph: _Paragraph, relations: dict[str, Relation], depth: int
    ) -> None:
        """Add the first alternative with text: all alternatives have the same content."""
        for option in element:
            alternative = _Paragraph()
            self._runs(option, alternative, relations, depth)
            if alternative.text.strip() or alternative.after:
                paragraph.text += alternative.text
                paragraph.after += alternative.after
                return

    def _drawing_texts(self, element: Element, relations: dict[str, Relation], depth: int) -> list[str]:
        """Return the texts of text boxes, charts and diagrams in a drawing."""
        name = tag(element)
        if name == "txbxContent":
            return self._texts(element, relations, depth)
        if name in drawing.CHART_TAGS or name in {"relIds", "txBody"}:
            return list(drawing.texts(self._package, element, relations))
        if name == "textpath":
            return [attribute(element, "string")]
        if name == "AlternateContent":
            alternatives = (
                [text for item in option for text in self._drawing_texts(item, relations, depth)] for option in element
            )
            return next(filter(None, alternatives), [])
        return [text for item in element for text in self._drawing_texts(item, relations, depth)]

    def _table(self, element: Element, relations: dict[str, Relation], depth: int) -> Iterator[str]:
        """Yield a table as Markdown; yield the texts of a table with a single cell."""
        rows: list[list[str]] = []
        cell_texts: list[str] = []
        for row in self._children_in_wrappers(element, "tr"):
            cells: list[str] = []
            for cell in self._children_in_wrappers(row, "tc"):
                properties = child(cell, "tcPr")
                texts = self._texts(cell, relations, depth + 1)
                merged = child(properties, "vMerge") if properties is not None else None
                is_continued = merged is not None and attribute(merged, "val") != "restart"
                cells.append("" if is_continued else " ".join(texts))
                cell_texts = texts
                span = value(child(properties, "gridSpan")) if properties is not None else ""
                cells += [""] * (min(integer(span), 63) - 1)
            rows.append(cells)
        if len(rows) == 1 and len(rows[0]) == 1:
            yield from cell_texts
        elif rows and (text := markdown.table(rows)):
            yield text

    def _children_in_wrappers(self, element: Element, name: str) -> Iterator[Element]:
        for item in element:
            if tag(item) == name:
                yield item
            elif tag(item) in WRAPPER_TAGS:
                yield from self._children_in_wrappers(item, name)

    def _embedded_document(self, relation: Relation | None) -> str:
        """Return the text of an embedded document (`altChunk`)."""
        if relation is None or relation.is_external:
            return ""
        extension = posixpath.splitext(relation.target)[1].lstrip(".").lower()
        try:
            content = self._package.read(relation.target)
            if extension in {"docx", "docm", "dotx"}:
                if self._depth >= MAX_NESTING:
                    raise ParseFailed("documents are embedded too deep")
                with Package(io.BytesIO(content)) as package:
                    inner = WordReader(package, self._convert, hidden=self._hidden, depth=self._depth + 1)
                    text = "\n\n".join(inner.pages())
                    self.warnings += inner.warnings
                    return text
            return self._convert(extension, content)
        except (DamagedPart, ParseFailed) as error:
            self.warnings.append(f"the embedded document {posixpath.basename(relation.target)!r} was not read: {error}")
            return ""

    def _headers_or_footers(self, kind: str) -> list[str]:
        """Return the distinct texts of all headers or footers."""
        contents: list[str] = []
        for relation in self._relations.values():
            if relation.kind != kind:
                continue
            try:
                root = self._package.root(relation.target)
            except DamagedPart:
                self.warnings.append(f"a {kind} is damaged and could not be read")
                continue
            text = "\n".join(self._texts(root, self._package.relations(relation.target), 1))
            if text and not text.strip().isdigit() and text not in contents:
                contents.append(text)
        return contents

    def _related_root(self, kind: str) -> Element | None:
        relation = next((r for r in self._relations.values() if r.kind == kind), None)
        try:
            return self._package.root(relation.target) if relation else None
        except DamagedPart:
            return None

    def _read_styles(self) -> dict[str, tuple[int, str, int, str]]:
        """Return the heading level, list id, list level and parent of each paragraph style."""
        styles: dict[str, tuple[int, str, int, str]] = {}
        for style in children(self._related_root("styles"), "style"):
            properties = child(style, "pPr")
            name = value(child(style, "name")).lower()
            level = _outline_level(properties)
            if name.startswith("heading ") and (number := integer(name[8:])):
                level = number
            elif name == "title":
                level = 1
            list_, list_level = _list_position(properties)
            styles[attribute(style, "styleId")] = (level, list_, list_level, value(child(style, "basedOn")))
        return styles

    def _style(self, properties: Element | None) -> tuple[int, str, int]:
        """Return the heading level of a paragraph, or 0, its list id and list level, inherited from its styles."""
        if properties is None:
            return 0, "", 0
        level = _outline_level(properties)
        list_, list_level = _list_position(properties)
        is_listed = child(properties, "numPr") is not None
        name = value(child(properties, "pStyle"))
        for _ in range(LEVELS):
            style = self._styles.get(name)
            if style is None:
                break
            level = level or style[0]
            if not is_listed and style[1]:
                list_ = style[1]
                list_level = style[2]
                is_listed = True
            elif is_listed and not list_:
                list_ = style[1]
            name = style[3]
        return level, "" if list_ == "0" else list_, list_level

    def _read_notes(self, relation_kind: str, tag_name: str) -> dict[str, str]:
        root = self._related_root(relation_kind)
        relation = next((r for r in self._relations.values() if r.kind == relation_kind), None)
        relations = self._package.relations(relation.target) if relation else {}
        return {
            f"{tag_name} {attribute(note, 'id')}": " ".join(self._texts(note, relations, 1))
            for note in children(root, tag_name)
            if attribute(note, "type") not in {"separator", "continuationSeparator", "continuationNotice"}
        }


def _outline_level(properties: Element | None) -> int:
    """Return the heading level that is set directly in a paragraph or style, or 0."""
    outline = integer(value(child(properties, "outlineLvl")), LEVELS) if properties is not None else LEVELS
    return outline + 1 if outline < LEVELS else 0


def _list_position(properties: Element | None) -> tuple[str, int]:
    numbering = child(properties, "numPr") if properties is not None else None
    if numbering is None:
        return "", 0
    return value(child(numbering, "numId")), min(integer(value(child(numbering, "ilvl"))), LEVELS - 1)


def _symbol(element: Element) -> str:
    try:
        code = int(attribute(element, "char"), 16)
    except ValueError:
        return ""
    return chr(code) if 32 <= code < 0xD800 else ""
