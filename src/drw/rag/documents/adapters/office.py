"""Parser of DOCX, PPTX and XLSX (Office Open XML), on the readers in `parsing/ooxml`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drw.rag.documents.parsing import archive_limits, encodings
from drw.rag.documents.parsing.ooxml import encryption, slides, word, workbook
from drw.rag.documents.parsing.ooxml.package import Package
from drw.rag.documents.parsing.pages import split_long
from drw.rag.documents.parsing.sheets import tables
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

DOCUMENTS = frozenset({"docx", "docm"})
PRESENTATIONS = frozenset({"pptx", "pptm", "ppsx"})
WORKBOOKS = frozenset({"xlsx", "xlsm"})


class Office(Parser):
    """A page is a page of Word's last layout, a slide, or a sheet."""

    extensions = DOCUMENTS | PRESENTATIONS | WORKBOOKS

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        encryption.check(file)
        archive_limits.check(file, extension, limits.unpacked_bytes)

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, extension, limits)
        with Package(file) as package:
            yield from split_long(self._pages(package, extension, limits))

    def decrypt(self, file: Path, extension: str, password: str) -> bytes:
        return encryption.decrypt(file, password)

    def _pages(self, package: Package, extension: str, limits: ParserLimits) -> Iterator[str]:
        if extension in WORKBOOKS:
            parsed = workbook.WorkbookReader(package, hidden=limits.hidden).read()
            self.warnings += parsed.warnings
            yield from tables.pages(parsed.sheets)
            return
        reader: slides.SlidesReader | word.WordReader
        if extension in PRESENTATIONS:
            reader = slides.SlidesReader(package, hidden=limits.hidden)
        else:
            reader = word.WordReader(package, _convert, hidden=limits.hidden)
        try:
            yield from reader.pages()
        finally:
            self.warnings += reader.warnings


def _convert(extension: str, content: bytes) -> str:
    """Return the text of a document that is embedded in a DOCX file."""
    if extension in {"txt", "text"}:
        return encodings.decode(content)[0]
    # Imported here: the libraries are large, and few documents need them.
    from drw.rag.documents.adapters import kreuzberg, mail

    if extension in {"mht", "mhtml"}:
        return mail.web_archive(content)
    if extension in kreuzberg.MEDIA_TYPES:
        return kreuzberg.text(content, extension)
    raise ParseFailed(f"'.{extension}' files cannot be read")
