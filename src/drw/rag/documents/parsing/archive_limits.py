"""Protection against decompression bombs: limits the unpacked size of ZIP-based files such as DOCX and EPUB."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from drw.rag.documents.ports import ParseFailed

ZIP_MAGIC = b"PK\x03\x04"
BLOCK_BYTES = 1 << 20


def check(file: Path, extension: str, max_bytes: int) -> None:
    """Unpack every entry and count its bytes: the sizes that an archive declares may be wrong.

    Damaged entries are accepted here; the parser warns about them.

    Raises:
        ParseFailed: the file is no archive, is encrypted, or unpacks to more than `max_bytes`.
    """
    with file.open("rb") as content:
        magic = content.read(len(ZIP_MAGIC))
    if not zipfile.is_zipfile(file):
        is_truncated = magic == ZIP_MAGIC
        raise ParseFailed(
            "this file is damaged, and cannot be unpacked"
            if is_truncated
            else f"this is not a {extension.upper()} file, although its name ends in .{extension}"
        )
    remaining = max_bytes
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                remaining -= _unpacked_size(archive, entry, remaining, max_bytes)
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise ParseFailed("this file is damaged, and cannot be unpacked") from error


def _unpacked_size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, remaining: int, max_bytes: int) -> int:
    if entry.flag_bits & 1:
        raise ParseFailed("this file is encrypted: save it without its password")
    size = 0
    try:
        with archive.open(entry) as content:
            while block := content.read(BLOCK_BYTES):
                if (size := size + len(block)) > remaining:
                    raise ParseFailed(f"this file unpacks to more than {max_bytes:,} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError):
        return size
    return size
