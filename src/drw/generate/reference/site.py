"""Prepares the sources of the documentation site: the pages of docs/, the changelog, and the API's operations.

`make docs` runs it, then builds the site with Zensical (zensical.toml). Links to files outside docs/ become text.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from drw.generate.protos import ROOT
from drw.generate.reference.api_pages import pages
from drw.generate.reference.openapi import PATH

API = Path("reference/api")
OUTSIDE_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:tests|src|README|CHANGELOG)[^)]*\)")


def prepare(target: Path) -> None:
    """Write the sources of the site into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target)
    for page in target.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        if (linked := OUTSIDE_LINK.sub(r"`\1`", text)) != text:
            page.write_text(linked, encoding="utf-8")
    shutil.copy(ROOT / "CHANGELOG.md", target / "changelog.md")
    (target / API).mkdir()
    for name, text in pages(json.loads((ROOT / PATH).read_text(encoding="utf-8"))).items():
        (target / API / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
