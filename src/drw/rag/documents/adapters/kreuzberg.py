"""Parser of HTML, OpenDocument text, EPUB, RTF, reStructuredText, XML and JSON on Kreuzberg; the text is Markdown."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import kreuzberg

from drw.rag.documents.parsing import archive_limits, encodings
from drw.rag.documents.parsing.pages import split_long
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
ARCHIVES = frozenset({"odt", "epub"})
TEXT_TYPES = frozenset({"html", "htm", "rst", "json"})
"""Kreuzberg expects these in UTF-8; XML declares its encoding."""
FRONT_MATTER = re.compile(r"\A---\n\n## title: (.*)\n\n")
LATIN_1 = frozenset({"iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"})
"""Browsers read these names as cp1252 (Encoding standard, 4.2)."""
CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w:.-]{2,40})", re.IGNORECASE)


class Kreuzberg(Parser):
    """Tables become Markdown; scripts and menus of web pages are skipped. No OCR, no model."""

    extensions = frozenset(MEDIA_TYPES) - {"msg"}

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        if extension in ARCHIVES:
            archive_limits.check(file, extension, limits.unpacked_bytes)
        elif extension in TEXT_TYPES:
            self._decode(file.read_bytes())

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, extension, limits)
        content = file.read_bytes()
        if extension in TEXT_TYPES:
            content = self._decode(content).encode("utf-8", "replace")
        return split_long([text(content, extension)])

    def _decode(self, content: bytes) -> str:
        """Decode text by its byte order mark, its declared encoding, or detection."""
        declared = None if content.startswith(codecs.BOM_UTF8) else CHARSET.search(content[:4096])
        name = declared[1].decode("ascii").lower() if declared else ""
        name = "cp1252" if name in LATIN_1 else name
        if _has_ascii(name) and (decoded := encodings.decode_as(content, name)) is not None:
            self.encoding = name
            return decoded.removeprefix("\ufeff")
        decoded, self.encoding = encodings.decode(content)
        return decoded


def text(content: bytes, extension: str) -> str:
    """Return the text of a file in memory, as Markdown.

    Raises:
        ParseFailed: the file cannot be parsed.
    """
    config = kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,  # type: ignore[call-arg]  # its type stub lags behind
    )
    try:
        result = kreuzberg.extract_bytes_sync(content, mime_type=MEDIA_TYPES[extension], config=config)
    except kreuzberg.KreuzbergError as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ParseFailed(f"this {extension.upper()} file cannot be read: {reason}") from error
    # Kreuzberg writes the title of a web page as a second-level heading between rules.
    return FRONT_MATTER.sub(r"# \1\n\n", str(result.content), count=1)


def _has_ascii(encoding: str) -> bool:
    """Return whether the encoding exists and extends ASCII: otherwise its declaration could not have been read."""
    try:
        return "<meta>".encode(encoding) == b"<meta>"
    except (LookupError, ValueError):
        return False
