"""Reads PDF with PDFium: page after page, so that a long file takes no more memory than a short one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pypdfium2

from drw.rag.documents.ports import Limits, Parser, Refused

ENCRYPTED = 4
"""FPDF_ERR_PASSWORD of fpdfview.h."""
MAX_PAGE_CHARACTERS = 1_000_000


class Pdfium(Parser):
    """Gives the lines in the order in which the file draws them: rows of tables are whole."""

    kinds = frozenset({"pdf"})

    def check(self, file: Path, kind: str, limits: Limits) -> None:
        with _opened(file, limits):
            pass

    def pages(self, file: Path, kind: str, limits: Limits) -> Iterator[str]:
        with _opened(file, limits) as document:
            for number in range(len(document)):
                yield _text(document, number)


@contextmanager
def _opened(file: Path, limits: Limits) -> Iterator[pypdfium2.PdfDocument]:
    with file.open("rb") as content:
        if b"%PDF-" not in content.read(1024):
            raise Refused("this is not a PDF: it does not begin as one")
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == ENCRYPTED:
            raise Refused("this PDF is encrypted: upload it without its password") from error
        raise Refused("this PDF is damaged, and cannot be opened") from error
    try:
        if len(document) > limits.pages:
            raise Refused(f"this PDF has {len(document):,} pages; at most {limits.pages:,}")
        yield document
    finally:
        document.close()


def _text(document: pypdfium2.PdfDocument, number: int) -> str:
    try:
        page = document[number]
    except pypdfium2.PdfiumError as error:
        raise Refused(f"page {number + 1} of this PDF is damaged") from error
    text = page.get_textpage()
    try:
        if text.count_chars() > MAX_PAGE_CHARACTERS:
            raise Refused(f"page {number + 1} has more than {MAX_PAGE_CHARACTERS:,} characters")
        found: str = text.get_text_bounded()
    finally:
        text.close()
        page.close()
    # PDFium writes U+FFFE for a hyphen at a line's end, and U+0000 for what has no letter.
    return found.replace("\r\n", "\n").replace("\ufffe", "").replace("\0", "")
