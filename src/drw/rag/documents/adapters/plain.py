"""Parser of plain text, Markdown, CSV and TSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drw.rag.documents.parsing import encodings
from drw.rag.documents.parsing.pages import split_long
from drw.rag.documents.parsing.sheets import delimited, tables
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

DELIMITED = frozenset({"csv", "tsv"})


class Plain(Parser):
    """Reads text in any detectable encoding; a form feed ends a page."""

    extensions = frozenset({"txt", "text", "md", "markdown", "log"}) | DELIMITED

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        self._text(file, limits)

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        text = self._text(file, limits)
        if extension in DELIMITED:
            return tables.pages([delimited.sheet(text, extension)])
        return split_long(text.split("\f"))

    def _text(self, file: Path, limits: ParserLimits) -> str:
        if file.stat().st_size > 4 * limits.characters:
            raise ParseFailed(f"this file has {file.stat().st_size:,} bytes; text may have {4 * limits.characters:,}")
        text, self.encoding = encodings.decode(file.read_bytes())
        return text
