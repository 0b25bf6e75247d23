"""Parser of PDF on PDFium, one page at a time: memory does not grow with the number of pages."""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from drw.rag.documents.ports import (
    PASSWORD_REQUIRED,
    WRONG_PASSWORD,
    Attachment,
    ParseFailed,
    Parser,
    ParserLimits,
)

ERROR_PASSWORD = 4
"""FPDF_ERR_PASSWORD of fpdfview.h."""
MAX_PAGE_CHARACTERS = 1_000_000
MAX_ANNOTATIONS = 2000
"""Of one page; further annotations are ignored."""
ATTACHMENT_MARK = b"/FileAttachment"
SECOND_FILE_ID = re.compile(rb"(/ID\[<[0-9A-F]{32}><)([0-9A-F]{32})(>\])")
"""PDFium writes a random second id; the same file must give the same bytes."""
OBJECT_STREAM = b"/ObjStm"
"""In object streams annotations are compressed, so `ATTACHMENT_MARK` is not visible."""


class Pdfium(Parser):
    """Returns lines in drawing order: the cells of a table row stay on one line."""

    extensions = frozenset({"pdf"})

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        with _opened(file, limits):
            pass

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        has_text = False
        has_images = False
        failed: list[str] = []
        with _opened(file, limits) as document:
            total = len(document)
            for number in range(total):
                try:
                    text, images = _page_text(document, number)
                except _DamagedPage as error:
                    self.warnings.append(f"page {number + 1} {error}")
                    failed.append(str(number + 1))
                    text = ""
                    images = False
                has_text, has_images = has_text or bool(text.strip()), has_images or images
                yield text
        if total and len(failed) == total:
            raise ParseFailed("this PDF is damaged: none of its pages can be read")
        if not has_text and has_images:
            self.warnings.append("its pages are images: run text recognition (OCR) over it first")

    def attachments(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[Attachment]:
        with _opened(file, limits) as document:
            for number in range(pdfium.FPDFDoc_GetAttachmentCount(document)):
                yield from _file(pdfium.FPDFDoc_GetAttachment(document, number))
            if _may_have_annotations(file):
                for number in range(len(document)):
                    yield from _page_attachments(document, number)

    def decrypt(self, file: Path, extension: str, password: str) -> bytes:
        try:
            document = pypdfium2.PdfDocument(file, password=password or None)
        except pypdfium2.PdfiumError as error:
            raise _open_error(error, password) from None
        content = io.BytesIO()
        try:
            document.save(content, flags=pdfium.FPDF_REMOVE_SECURITY)
        except pypdfium2.PdfiumError:
            raise ParseFailed("this PDF cannot be written without its encryption") from None
        finally:
            document.close()
        return SECOND_FILE_ID.sub(lambda match: match[1] + b"0" * 32 + match[3], content.getvalue())


class _DamagedPage(Exception):
    """A page cannot be read."""


@contextmanager
def _opened(file: Path, limits: ParserLimits) -> Iterator[pypdfium2.PdfDocument]:
    with file.open("rb") as content:
        if b"%PDF-" not in content.read(1024):
            raise ParseFailed("this is not a PDF: it does not begin as one")
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        raise _open_error(error, "") from error
    try:
        if len(document) > limits.pages:
            raise ParseFailed(f"this PDF has {len(document):,} pages; at most {limits.pages:,}")
        yield document
    finally:
        document.close()


def _open_error(error: pypdfium2.PdfiumError, password: str) -> ParseFailed:
    if getattr(error, "err_code", None) != ERROR_PASSWORD:
        return ParseFailed("this PDF is damaged, and cannot be opened")
    if password:
        return ParseFailed("the password of this PDF is wrong", WRONG_PASSWORD)
    return ParseFailed("this PDF is encrypted: give its password in the field 'password'", PASSWORD_REQUIRED)


def _page_text(document: pypdfium2.PdfDocument, number: int) -> tuple[str, bool]:
    """Return the text of a page and, if the page has no text, whether it has images."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError as error:
        raise _DamagedPage("is damaged and could not be read") from error
    try:
        text = page.get_textpage()
        try:
            if text.count_chars() > MAX_PAGE_CHARACTERS:
                raise _DamagedPage(f"has more than {MAX_PAGE_CHARACTERS:,} characters and was not read")
            characters: str = text.get_text_bounded()
        finally:
            text.close()
        images = page.get_objects(filter=(pdfium.FPDF_PAGEOBJ_IMAGE,), max_depth=3)
        has_images = not characters.strip() and next(iter(images), None) is not None
    except pypdfium2.PdfiumError as error:
        raise _DamagedPage("is damaged and could not be read") from error
    finally:
        page.close()
    # PDFium writes U+FFFE for a hyphen at a line end, and U+0000 for a glyph without a character.
    return characters.replace("\r\n", "\n").replace("\ufffe", "").replace("\0", ""), has_images


def _may_have_annotations(file: Path) -> bool:
    content = file.read_bytes()
    return ATTACHMENT_MARK in content or OBJECT_STREAM in content


def _page_attachments(document: pypdfium2.PdfDocument, number: int) -> Iterator[Attachment]:
    """Yield the files attached to the annotations of a page."""
    page = pdfium.FPDF_LoadPage(document, number)
    if not page:
        return
    try:
        for index in range(min(pdfium.FPDFPage_GetAnnotCount(page), MAX_ANNOTATIONS)):
            annotation = pdfium.FPDFPage_GetAnnot(page, index)
            if not annotation:
                continue
            try:
                if pdfium.FPDFAnnot_GetSubtype(annotation) == pdfium.FPDF_ANNOT_FILEATTACHMENT:
                    yield from _file(pdfium.FPDFAnnot_GetFileAttachment(annotation))
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)
    finally:
        pdfium.FPDF_ClosePage(page)


def _file(attachment: Any) -> Iterator[Attachment]:
    size = ctypes.c_ulong()
    if not attachment or not pdfium.FPDFAttachment_GetFile(attachment, None, 0, size) or not size.value:
        return
    content = ctypes.create_string_buffer(size.value)
    if pdfium.FPDFAttachment_GetFile(attachment, content, size.value, size):
        yield Attachment(_attachment_name(attachment) or "attachment.bin", content.raw[: size.value])


def _attachment_name(attachment: Any) -> str:
    size = pdfium.FPDFAttachment_GetName(attachment, None, 0)
    buffer = ctypes.create_string_buffer(size)
    pdfium.FPDFAttachment_GetName(attachment, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return buffer.raw.decode("utf-16-le", "replace").strip("\0")
