"""File types by file extension, the parser of each, and validation of file names.

To support a new file type, add its extension to `PARSERS` and its parser to `drw.rag.documents.adapters`.
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
"""File extensions by module of `drw.rag.documents.adapters`. The service itself imports no parser."""
PARSER_BY_EXTENSION = {extension: parser for parser, extensions in PARSERS.items() for extension in extensions}
IMAGES = frozenset({"png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "heic"})
WITH_ATTACHMENTS = frozenset({"pdf", "eml", "msg"})
"""Extensions of file types that can have attachments."""
MAX_NAME_BYTES = 255
MAX_EXTENSION = 16
DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
"""Unicode direction marks, which make a name look like another one."""


def extension_of(name: str) -> str:
    """Return the extension of a file name in lower case, such as `pdf`.

    Raises:
        ParseFailed: no parser supports this file type.
    """
    extension = PurePath(name).suffix.lstrip(".").lower()
    if extension in IMAGES:
        raise ParseFailed(f"'.{extension}' files are images: run text recognition (OCR) over it first", UNSUPPORTED)
    if extension not in PARSER_BY_EXTENSION:
        described = f"'.{extension}' files" if extension else "files without an ending"
        raise ParseFailed(
            f"{described} cannot be parsed; supported are: {', '.join(sorted(PARSER_BY_EXTENSION))}", UNSUPPORTED
        )
    return extension


def validate_name(name: str) -> str:
    """Validate and normalise the name of an uploaded file. No path is ever built from it.

    Raises:
        InvalidRequest: the name is a path, is too long, or has characters that cannot be displayed.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or name in {".", ".."} or "/" in name or "\\" in name:
        raise InvalidRequest(f"{name!r} is not a file name: it must be one name, without a folder", param="file")
    if any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} or c in DIRECTION_MARKS for c in name):
        raise InvalidRequest(f"{name!r} has characters that cannot be displayed", param="file")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(f"the name has {len(name.encode())} bytes; at most {MAX_NAME_BYTES}", param="file")
    return name


def sanitize_name(name: str) -> str:
    """Return a valid file name for an attachment, whose name comes from an untrusted sender."""
    displayable = "".join("_" if c in "/\\" or unicodedata.category(c)[0] == "C" else c for c in name)
    stem, dot, extension = unicodedata.normalize("NFC", displayable).strip(" .").rpartition(".")
    extension = f"{dot}{extension}" if dot and len(extension) <= MAX_EXTENSION else ""
    stem = stem if extension else f"{stem}{dot}{displayable.rpartition('.')[2]}" if dot else displayable
    stem_bytes = stem.strip()[:MAX_NAME_BYTES].encode("utf-8", "replace")[: MAX_NAME_BYTES - len(extension.encode())]
    return validate_name(f"{stem_bytes.decode('utf-8', 'ignore') or 'attachment'}{extension}")
