"""Reads office files, web pages, mail and tables with Kreuzberg, as Markdown."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kreuzberg

from drw.rag.documents.pages import parted
from drw.rag.documents.ports import Limits, Parser, Refused

MEDIA_TYPES = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "epub": "application/epub+zip",
    "html": "text/html",
    "htm": "text/html",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "eml": "message/rfc822",
    "rtf": "application/rtf",
    "rst": "text/x-rst",
    "json": "application/json",
    "xml": "application/xml",
}
PACKED = frozenset({"docx", "pptx", "xlsx", "odt", "epub"})
ZIP = b"PK\x03\x04"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How Office's encrypted files begin, and those of before 2007."""
FRONT_MATTER = re.compile(r"\A---\n\n## title: (.*)\n\n")


class Kreuzberg(Parser):
    """Tables come as Markdown, scripts and menus of web pages stay away; no OCR, no model."""

    kinds = frozenset(MEDIA_TYPES)

    def check(self, file: Path, kind: str, limits: Limits) -> None:
        with file.open("rb") as content:
            begin = content.read(8)
        if begin.startswith(ZIP):
            _check_unpacked(file, limits.unpacked_bytes)
        elif begin == OLE:
            raise Refused("this file is encrypted, or of an Office before 2007: save it as a new one without password")
        if kind in PACKED and not zipfile.is_zipfile(file):
            raise Refused(f"this is not a {kind.upper()} file, whatever its name says")

    def pages(self, file: Path, kind: str, limits: Limits) -> Iterator[str]:
        self.check(file, kind, limits)
        try:
            result = kreuzberg.extract_file_sync(file, mime_type=MEDIA_TYPES[kind], config=_config())
        except kreuzberg.KreuzbergError as error:
            raise Refused(f"this {kind.upper()} file cannot be read: {_reason(error)}") from error
        return parted(_pages(result))


def _config() -> Any:
    return kreuzberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,  # type: ignore[call-arg]  # its type stub lags behind
        pages=kreuzberg.PageConfig(extract_pages=True),
    )


def _pages(result: Any) -> list[str]:
    if not result.pages:
        # It writes a web page's title as a second-level heading between rules.
        return [FRONT_MATTER.sub(r"# \1\n\n", result.content, count=1)]
    return [page["content"] if isinstance(page, dict) else page.content for page in result.pages]


def _check_unpacked(file: Path, most: int) -> None:
    """Unpack and count: what the folder says of itself may be a lie."""
    left = most
    try:
        with zipfile.ZipFile(file) as packed:
            for entry in packed.infolist():
                with packed.open(entry) as content:
                    while piece := content.read(1 << 20):
                        if (left := left - len(piece)) < 0:
                            raise Refused(f"this file unpacks to more than {most:,} bytes")
    except RuntimeError as error:  # how zipfile says that a password is needed
        raise Refused("this file is encrypted: upload it without its password") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OSError) as error:
        raise Refused("this file is damaged, and cannot be unpacked") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
