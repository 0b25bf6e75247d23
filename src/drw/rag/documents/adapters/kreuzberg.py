"""Parser of HTML, OpenDocument text, EPUB, RTF, reStructuredText, XML and JSON on Kreuzberg; the text is Markdown."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kreuzberg

from drw.rag.documents.parsing import archive_limits, encodings
from drw.rag.documents.parsing.pages import parted
from drw.rag.documents.ports import ParseFailed, Parser, ParserLimits

MEDIA_TYPES = {
    "odt": "application/vnd.oasis.opendocument.text",
    "epub": "application/epub+zip",
    "html": "text/html",
    "htm": "text/html",
    "msg": "application/vnd.ms-outlook",
    "rtf": "application/rtf",
    "rst": "text/x-rst",
    "json": "application/json",
    "xml": "application/xml",
}
PACKED = frozenset({"odt", "epub"})
TEXT = frozenset({"html", "htm", "rst", "json"})
"""Kreuzberg takes these as UTF-8; XML says its encoding itself."""
FRONT_MATTER = re.compile(r"\A---\n\n## title: (.*)\n\n")
LATIN_1 = frozenset({"iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"})
"""Browsers read these names as cp1252 (Encoding standard, 4.2)."""
CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w:.-]{2,40})", re.IGNORECASE)


class Kreuzberg(Parser):
    """Tables become Markdown; scripts and menus of web pages are left out. No OCR, no model."""

    kinds = frozenset(MEDIA_TYPES) - {"msg"}

    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        if kind in PACKED:
            archive_limits.check(file, kind, limits.unpacked_bytes)
        elif kind in TEXT:
            self._decoded(file.read_bytes())

    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, kind, limits)
        content = file.read_bytes()
        if kind in TEXT:
            content = self._decoded(content).encode("utf-8", "replace")
        return parted([text(content, kind)])

    def _decoded(self, content: bytes) -> str:
        """Decode a page by its byte order mark, the encoding that it declares, or detection."""
        named = None if content.startswith(codecs.BOM_UTF8) else CHARSET.search(content[:4096])
        name = named[1].decode("ascii").lower() if named else ""
        name = "cp1252" if name in LATIN_1 else name
        if _has_ascii(name) and (decoded := encodings.decoded_as(content, name)) is not None:
            self.encoding = name
            return decoded.removeprefix("\ufeff")
        decoded, self.encoding = encodings.decoded(content)
        return decoded


def text(content: bytes, kind: str) -> str:
    """Return the text of a file in memory, as Markdown.

    Raises:
        ParseFailed: it cannot be read.
    """
    try:
        result = kreuzberg.extract_bytes_sync(content, mime_type=MEDIA_TYPES[kind], config=_config())
    except kreuzberg.KreuzbergError as error:
        raise ParseFailed(f"this {kind.upper()} file cannot be read: {_reason(error)}") from error
    # It writes a web page's title as a second-level heading between rules.
    return FRONT_MATTER.sub(r"# \1\n\n", str(result.content), count=1)


def _has_ascii(encoding: str) -> bool:
    """Say whether there is an encoding of this name with ASCII in it, as that of a page whose name could be read."""
    try:
        return "<meta>".encode(encoding) == b"<meta>"
    except (LookupError, ValueError):
        return False


def _config() -> Any:
    return kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,  # type: ignore[call-arg]  # its type stub lags behind
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
