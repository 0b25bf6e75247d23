"""Sample documents from the sources of packages (requirements/samples.in)."""

from __future__ import annotations

import sys
import tarfile
from functools import cache
from pathlib import Path

ENDINGS = (".docx", ".eml", ".html", ".md", ".pdf", ".pptx", ".txt", ".xlsx")
FOLDER = Path(sys.prefix) / "share" / "samples"


def sample(package: str, name: str) -> bytes:
    """Return a file in the sources of a package, by its path."""
    return _files(package)[name]


@cache
def _files(package: str) -> dict[str, bytes]:
    (archive,) = FOLDER.glob(f"{package}-*.tar.gz")
    with tarfile.open(archive) as archive_file:
        members = (m for m in archive_file if m.isfile() and m.name.endswith(ENDINGS))
        opened = ((m.name.partition("/")[2], archive_file.extractfile(m)) for m in members)
        return {name: file.read() for name, file in opened if file}
