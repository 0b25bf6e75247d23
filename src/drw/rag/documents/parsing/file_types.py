"""File types by file name ending, the parser of each, and the rules for file names.

To support a new file type, add its ending to `PARSERS` and the parser to `drw.rag.documents.adapters`.
"""

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
"""The module of `drw.rag.documents.adapters` for each file ending. The service imports no parser."""
BY_KIND = {kind: parser for parser, kinds in PARSERS.items() for kind in kinds}
IMAGES = frozenset({"png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "heic"})
MAY_HAVE_FILES = frozenset({"pdf", "eml", "msg"})
"""File types that can have embedded files."""
MAX_NAME_BYTES = 255
MAX_ENDING = 16
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
"""Direction marks, which make a name look like another one."""


def kind_of(name: str) -> str:
    """Return the file type of a name: its ending in lower case.

    Raises:
        ParseFailed: no parser reads this file type.
    """
    kind = PurePath(name).suffix.lstrip(".").lower()
    if kind in IMAGES:
        raise ParseFailed(f"'.{kind}' files are images: run text recognition (OCR) over it first", UNSUPPORTED)
    if kind not in BY_KIND:
        described = f"'.{kind}' files" if kind else "files without an ending"
        raise ParseFailed(f"{described} cannot be parsed; supported are: {', '.join(sorted(BY_KIND))}", UNSUPPORTED)
    return kind


def checked_name(name: str) -> str:
    """Return the normalised name of a file. No path is ever built from it.

    Raises:
        InvalidRequest: the name is a path, or has characters that cannot be displayed.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or name in {".", ".."} or "/" in name or "\\" in name:
        raise InvalidRequest(f"{name!r} is not a file name: it must be one name, without a folder", param="file")
    if any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} or c in BIDI for c in name):
        raise InvalidRequest(f"{name!r} has characters that cannot be displayed", param="file")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(f"the name has {len(name.encode())} bytes; at most {MAX_NAME_BYTES}", param="file")
    return name


def safe_name(name: str) -> str:
    """Return a valid file name for an attached file, whose sender chose the name."""
    shown = "".join("_" if c in "/\\" or unicodedata.category(c)[0] == "C" else c for c in name)
    stem, dot, ending = unicodedata.normalize("NFC", shown).strip(" .").rpartition(".")
    ending = f"{dot}{ending}" if dot and len(ending) <= MAX_ENDING else ""
    stem = stem if ending else f"{stem}{dot}{shown.rpartition('.')[2]}" if dot else shown
    stem_bytes = stem.strip()[:MAX_NAME_BYTES].encode("utf-8", "replace")[: MAX_NAME_BYTES - len(ending.encode())]
    return checked_name(f"{stem_bytes.decode('utf-8', 'ignore') or 'attachment'}{ending}")
