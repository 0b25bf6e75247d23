"""Documentation names files that exist: targets of links, and paths in backticks."""

from __future__ import annotations

import re

import pytest

from drw.generate.protos import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(page for part in ("docs", "tests") for page in (ROOT / part).rglob("*.md"))])
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
NAMED = re.compile(r"`((?:src|tests|docs|proto|bench|deploy|requirements)/[\w./-]+)`")
"""`CLUSTER` and `NAME` stand for any."""
GLOSSARY = re.compile(r"`((?:[\w-]+/)+[\w-]*(?:\.py)?)`")
ANY = re.compile(r"[A-Z]{3,}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    missing += [name for name in NAMED.findall(text) if not ANY.search(name) and not (ROOT / name).exists()]
    assert missing == []


def test_the_glossary_names_files_of_the_source():
    text = (ROOT / "docs/concepts/glossary.md").read_text(encoding="utf-8")
    named = GLOSSARY.findall(text)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / "src/drw" / name).exists()] == []
