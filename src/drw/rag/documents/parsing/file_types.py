"""Says what kind a file is by the end of its name, and which names may be kept."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

from drw.kernel.errors import InvalidRequest
from drw.rag.documents.ports import UNSUPPORTED, ParseFailed

PARSERS = {
    "pdfium": ("pdf",),
    "plain": ("txt", "text", "md", "markdown", "log", "csv", "tsv"),
    "office": ("docx", "docm", "pptx", "pptm", "ppsx", "xlsx", "xlsm"),
    "calamine": ("xls", "xlsb"),
    "opendocument": ("ods",),
    "mail": ("eml", "msg"),
    "kreuzberg": ("html", "htm", "odt", "epub", "rtf", "rst", "xml", "json"),
}
"""Which adapter reads which files. Known here, so that the service need not import what reads them."""
BY_KIND = {kind: parser for parser, kinds in PARSERS.items() for kind in kinds}
IMAGES = frozenset({"png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "heic"})
MAY_HAVE_FILES = frozenset({"pdf", "eml", "msg"})
"""Kinds that other files are attached to."""
MAX_NAME_BYTES = 255
MAX_ENDING = 16
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
"""Marks that make a name look like another."""


def kind_of(name: str) -> str:
    """Return the kind of the file of this name.

    Raises:
        Refused: nothing reads such files.
    """
    kind = PurePath(name).suffix.lstrip(".").lower()
    if kind in IMAGES:
        raise ParseFailed(f"'.{kind}' files are images: run text recognition (OCR) over it first", UNSUPPORTED)
    if kind not in BY_KIND:
        said = f"'.{kind}' files" if kind else "files without an ending"
        raise ParseFailed(f"{said} cannot be read; there are: {', '.join(sorted(BY_KIND))}", UNSUPPORTED)
    return kind


def checked_name(name: str) -> str:
    """Return the name of a file as it may be kept and shown. No path is ever made of it.

    Raises:
        InvalidRequest: it is a path, or has characters that cannot be shown.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or name in {".", ".."} or "/" in name or "\\" in name:
        raise InvalidRequest(f"{name!r} is not the name of a file: it must be one name, without a folder", param="file")
    if any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} or c in BIDI for c in name):
        raise InvalidRequest(f"{name!r} has characters that cannot be shown", param="file")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(f"the name has {len(name.encode())} bytes; at most {MAX_NAME_BYTES}", param="file")
    return name


def safe_name(name: str) -> str:
    """Return the name of an attached file, which its sender chose, as one that may be kept."""
    shown = "".join("_" if c in "/\\" or unicodedata.category(c)[0] == "C" else c for c in name)
    stem, dot, ending = unicodedata.normalize("NFC", shown).strip(" .").rpartition(".")
    ending = f"{dot}{ending}" if dot and len(ending) <= MAX_ENDING else ""
    stem = stem if ending else f"{stem}{dot}{shown.rpartition('.')[2]}" if dot else shown
    kept = stem.strip()[:MAX_NAME_BYTES].encode("utf-8", "replace")[: MAX_NAME_BYTES - len(ending.encode())]
    return checked_name(f"{kept.decode('utf-8', 'ignore') or 'attachment'}{ending}")
