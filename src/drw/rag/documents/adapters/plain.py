"""Reads plain text and Markdown as they stand."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from drw.rag.documents.pages import parted
from drw.rag.documents.ports import Limits, Parser, Refused

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Plain(Parser):
    """Text in UTF-8, or in what its byte order mark says; a form feed ends a page."""

    kinds = frozenset({"txt", "text", "md", "markdown", "log"})

    def check(self, file: Path, kind: str, limits: Limits) -> None:
        if file.stat().st_size > 4 * limits.characters:
            raise Refused(f"this file has {file.stat().st_size:,} bytes; text may have {4 * limits.characters:,}")
        with file.open("rb") as content:
            begin = content.read(1 << 16)
        if b"\0" in begin and not begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise Refused("this is not text: it has zero bytes")

    def pages(self, file: Path, kind: str, limits: Limits) -> Iterator[str]:
        self.check(file, kind, limits)
        return parted(_decoded(file.read_bytes()).split("\f"))


def _decoded(content: bytes) -> str:
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Refused(f"this is not text in {encoding.upper()}: byte {error.start} is wrong") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
