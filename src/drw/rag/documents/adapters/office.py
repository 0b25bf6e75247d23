"""Parser of DOCX, PPTX and XLSX (Office Open XML), on the readers in `parsing/ooxml`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drw.rag.documents.parsing import archive_limits, encodings
from drw.rag.documents.parsing.ooxml import encryption, slides, word, workbook
from drw.rag.documents.parsing.ooxml.package import Package
from drw.rag.documents.parsing.pages import parted
from drw.rag.documents.parsing.sheets import tables
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

WORD = frozenset({"docx", "docm"})
SLIDES = frozenset({"pptx", "pptm", "ppsx"})
SHEETS = frozenset({"xlsx", "xlsm"})


class Office(Parser):
    """A page is a page of the last layout by Word, a slide, or a sheet."""

    kinds = WORD | SLIDES | SHEETS

    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        encryption.check(file)
        archive_limits.check(file, kind, limits.unpacked_bytes)

    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, kind, limits)
        with Package(file) as package:
            yield from parted(self._pages(package, kind, limits))

    def decrypted(self, file: Path, kind: str, password: str) -> bytes:
        return encryption.decrypted(file, password)

    def _pages(self, package: Package, kind: str, limits: ParserLimits) -> Iterator[str]:
        if kind in SHEETS:
            book = workbook.WorkbookReader(package, hidden=limits.hidden).read()
            self.warnings += book.warnings
            yield from tables.pages(book.sheets)
            return
        reader: slides.SlidesReader | word.WordReader
        if kind in SLIDES:
            reader = slides.SlidesReader(package, hidden=limits.hidden)
        else:
            reader = word.WordReader(package, _converted, hidden=limits.hidden)
        try:
            yield from reader.pages()
        finally:
            self.warnings += reader.warnings


def _converted(kind: str, content: bytes) -> str:
    """Return the text of a document that is embedded in another one."""
    if kind in {"txt", "text"}:
        return encodings.decoded(content)[0]
    # Large, and few documents need them.
    from drw.rag.documents.adapters import kreuzberg, mail

    if kind in {"mht", "mhtml"}:
        return mail.web_archive(content)
    if kind in kreuzberg.MEDIA_TYPES:
        return kreuzberg.text(content, kind)
    raise ParseFailed(f"'.{kind}' files cannot be read")
