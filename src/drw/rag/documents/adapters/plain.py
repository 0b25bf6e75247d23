"""Parser of plain text, Markdown, CSV and TSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drw.rag.documents.parsing import encodings
from drw.rag.documents.parsing.pages import parted
from drw.rag.documents.parsing.sheets import delimited, tables
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

TABLES = frozenset({"csv", "tsv"})


class Plain(Parser):
    """Text in any detectable encoding; a form feed ends a page."""

    kinds = frozenset({"txt", "text", "md", "markdown", "log"}) | TABLES

    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        self._text(file, limits)

    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        text = self._text(file, limits)
        if kind in TABLES:
            return tables.pages([delimited.sheet(text, kind)])
        return parted(text.split("\f"))

    def _text(self, file: Path, limits: ParserLimits) -> str:
        if file.stat().st_size > 4 * limits.characters:
            raise ParseFailed(f"this file has {file.stat().st_size:,} bytes; text may have {4 * limits.characters:,}")
        text, self.encoding = encodings.decoded(file.read_bytes())
        return text
