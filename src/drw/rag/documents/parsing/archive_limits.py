"""Decompression limits of ZIP-based files such as DOCX and EPUB: unpacks and counts before a parser reads them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from drw.rag.documents.ports import ParseFailed

BEGIN = b"PK\x03\x04"
BLOCK = 1 << 20


def check(file: Path, kind: str, max_bytes: int) -> None:
    """Unpack every entry and count its bytes: the sizes that an archive declares may be wrong.

    A damaged entry is left to the parser, which warns about it.

    Raises:
        ParseFailed: it is no archive, is encrypted, or unpacks to more than `most_bytes`.
    """
    with file.open("rb") as content:
        begin = content.read(len(BEGIN))
    if not zipfile.is_zipfile(file):
        is_cut = begin == BEGIN
        raise ParseFailed(
            "this file is damaged, and cannot be unpacked"
            if is_cut
            else f"this is not a {kind.upper()} file, although its name ends in .{kind}"
        )
    left = max_bytes
    try:
        with zipfile.ZipFile(file) as packed:
            for entry in packed.infolist():
                left -= _size(packed, entry, left, max_bytes)
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise ParseFailed("this file is damaged, and cannot be unpacked") from error


def _size(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int, max_bytes: int) -> int:
    if entry.flag_bits & 1:
        raise ParseFailed("this file is encrypted: save it without its password")
    size = 0
    try:
        with packed.open(entry) as content:
            while piece := content.read(BLOCK):
                if (size := size + len(piece)) > left:
                    raise ParseFailed(f"this file unpacks to more than {max_bytes:,} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError):
        return size
    return size
