"""Labels of list paragraphs and numbered headings in DOCX (ECMA-376, 17.9)."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from drw.rag.documents.parsing.ooxml.elements import attribute, child, children, integer, value

ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l")),
    *((40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
LEVELS = 9


class Numbering:
    """Counts the paragraphs of each list, by the numbering definitions of `numbering.xml`."""

    def __init__(self, root: Element | None) -> None:
        self._levels_by_definition: dict[str, dict[int, Element]] = {}
        self._definitions: dict[str, str] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for item in children(root, "abstractNum"):
            self._levels_by_definition[attribute(item, "abstractNumId")] = {
                integer(attribute(level, "ilvl")): level for level in children(item, "lvl")
            }
        for item in children(root, "num"):
            self._definitions[attribute(item, "numId")] = value(child(item, "abstractNumId"))

    def label(self, id_: str, level: int) -> str:
        """Count a paragraph of a list and return its label, such as `1.a)`; a bullet becomes a dash."""
        definition = self._definitions.get(id_, "")
        levels = self._levels_by_definition.get(definition, {})
        if level not in levels:
            return ""
        counts = self._counts.setdefault(definition, {})
        counts[level] = counts.get(level, _start(levels[level]) - 1) + 1
        for deeper in range(level + 1, LEVELS):
            counts.pop(deeper, None)
        number_format = value(child(levels[level], "numFmt"))
        if number_format == "none":
            return ""
        if number_format == "bullet":
            return "-"
        text = value(child(levels[level], "lvlText"))
        return re.sub("%([1-9])", lambda match: _number_text(levels, counts, int(match[1]) - 1), text)


def _start(level: Element) -> int:
    return integer(value(child(level, "start")), 1)


def _number_text(levels: dict[int, Element], counts: dict[int, int], level: int) -> str:
    if level not in levels:
        return ""
    number = counts.get(level, _start(levels[level]))
    number_format = value(child(levels[level], "numFmt"))
    if number_format.endswith("Letter") and number > 0:
        letters = chr(97 + (number - 1) % 26) * min((number - 1) // 26 + 1, 10)
        return letters.upper() if number_format.startswith("upper") else letters
    if number_format.endswith("Roman") and 0 < number < 5000:
        return _roman(number).upper() if number_format.startswith("upper") else _roman(number)
    return f"{number:02d}" if number_format == "decimalZero" else str(number)


def _roman(number: int) -> str:
    numeral = ""
    for amount, letters in ROMAN:
        numeral += letters * (number // amount)
        number %= amount
    return numeral
