"""Reader of PPTX presentations: one page for each slide, with tables, charts, diagrams, comments and notes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing.ooxml import drawing
from drw.rag.documents.parsing.ooxml.elements import (
    attribute,
    child,
    children,
    descendants,
    items,
    relation_id,
    tag,
    value,
)
from drw.rag.documents.parsing.ooxml.package import DamagedPart, Package, Relation
from drw.rag.documents.ports import ParseFailed

TITLE_PLACEHOLDERS = frozenset({"title", "ctrTitle"})
SKIPPED_PLACEHOLDERS = frozenset({"sldNum"})


class SlidesReader:
    """Reads one presentation, and collects `warnings` about slides that were not read."""

    def __init__(self, package: Package, *, hidden: bool) -> None:
        self._package = package
        self._hidden = hidden
        self.warnings: list[str] = []

    def pages(self) -> Iterator[str]:
        """Yield the text of each slide, in the order of the presentation; empty for a slide without text.

        Raises:
            ParseFailed: the list of slides cannot be read.
        """
        main = self._package.main_part("ppt/presentation.xml")
        try:
            root = self._package.root(main)
        except DamagedPart as error:
            raise ParseFailed("this presentation is damaged: its list of slides cannot be read") from error
        relations = self._package.relations(main)
        for number, entry in enumerate(descendants(child(root, "sldIdLst"), "sldId"), 1):
            relation = relations.get(relation_id(entry))
            yield self._slide(number, relation.target) if relation and not relation.is_external else ""

    def _slide(self, number: int, part: str) -> str:
        try:
            root, is_complete = self._package.recover(part)
        except DamagedPart:
            self.warnings.append(f"slide {number} is damaged and could not be read")
            return ""
        if not is_complete:
            self.warnings.append(f"slide {number} is damaged: what could be read was kept")
        if attribute(root, "show") in {"0", "false"} and not self._hidden:
            self.warnings.append(f"slide {number} is hidden and was not read")
            return ""
        relations = self._package.relations(part)
        titles = []
        texts = []
        for shape in items(child(root, "cSld", "spTree")):
            shape_texts = [text for text in self._shape(shape, relations) if text.strip()]
            if _placeholder(shape) in TITLE_PLACEHOLDERS:
                titles += shape_texts
            else:
                texts += shape_texts
        heading = ["# " + " ".join(" ".join(titles).split())] if titles else []
        return "\n\n".join([*heading, *texts, *self._notes_and_comments(relations)])

    def _shape(self, shape: Element, relations: dict[str, Relation]) -> Iterator[str]:
        is_hidden = value(_property(shape, "cNvPr"), "hidden") in {"1", "true"}
        if is_hidden or _placeholder(shape) in SKIPPED_PLACEHOLDERS:
            return
        if tag(shape) == "grpSp":
            for item in shape:
                yield from self._shape(item, relations)
        else:
            yield from drawing.texts(self._package, shape, relations)

    def _notes_and_comments(self, relations: dict[str, Relation]) -> Iterator[str]:
        """Yield the speaker notes and the comments of a slide."""
        for relation in relations.values():
            try:
                if relation.kind == "notesSlide":
                    if text := self._notes(self._package.root(relation.target)):
                        yield f"Notes: {text}"
                elif relation.kind == "comments":
                    for comment in _comments(self._package.root(relation.target)):
                        yield f"Comment: {comment}"
            except DamagedPart:
                self.warnings.append(f"the {relation.kind} {relation.target!r} could not be read")

    def _notes(self, root: Element) -> str:
        texts = [
            drawing.body(content)
            for shape in items(child(root, "cSld", "spTree"))
            if _placeholder(shape) not in {"sldNum", "sldImg", "hdr", "ftr", "dt"}
            and (content := child(shape, "txBody")) is not None
        ]
        return "\n".join(filter(None, texts))


def _placeholder(shape: Element) -> str:
    """Return the placeholder type of a shape; empty if the shape is not a placeholder."""
    placeholder = _property(shape, "nvPr", "ph")
    return (attribute(placeholder, "type") or "body") if placeholder is not None else ""


def _property(shape: Element, *path: str) -> Element | None:
    """Return an element along a path below the non-visual properties of a shape, such as `p:nvSpPr`."""
    properties = next((e for e in shape if tag(e).startswith("nv")), None)
    return None if properties is None else child(properties, *path)


def _comments(root: Element) -> Iterator[str]:
    for comment in descendants(root, "cm"):
        texts = [t.text or "" for t in children(comment, "text")]
        texts += [drawing.body(content) for content in descendants(comment, "txBody")]
        if text := " ".join(" ".join(texts).split()):
            yield text
