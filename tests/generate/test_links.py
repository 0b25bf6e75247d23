"""Documentation names targets, files and functions that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from drw.generate.protos import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(page for part in ("docs", "tests") for page in (ROOT / part).rglob("*.md"))])
FLOWS = [ROOT / "README.md", ROOT / "docs/concepts/architecture.md", ROOT / "docs/concepts/code-map.md"]

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"`((?:src|tests|docs|proto|bench|deploy|requirements)/[\w./-]+)`")
PLACEHOLDER = re.compile(r"[A-Z]{3,}")
"""`CLUSTER` and `NAME` are placeholders."""
GLOSSARY = re.compile(r"`((?!src/)(?:[\w-]+/)*[\w-]+(?:\.py|/))`")
STEP = re.compile(r"`(src/[\w/]+\.py)`: ((?:`[\w.]+`(?:, | and )?)+)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = []
    for target, anchor in LINK.findall(text):
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(f"{target}#{anchor}" if anchor else target)
    missing += [name for name in NAMED.findall(text) if not PLACEHOLDER.search(name) and not (ROOT / name).exists()]
    assert missing == []


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_glossary_files_exist() -> None:
    text = (ROOT / "docs/concepts/glossary.md").read_text(encoding="utf-8")
    names = GLOSSARY.findall(text)
    assert len(names) > 50
    assert [name for name in names if not (ROOT / "src/drw" / name).exists()] == []


@pytest.mark.parametrize("page", FLOWS, ids=lambda page: page.name)
def test_functions_of_the_main_flows_exist(page: Path) -> None:
    steps = [
        (path, name) for path, names in STEP.findall(page.read_text()) for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(steps) > 15
    assert [f"{path}: {name}" for path, name in steps if name not in defined_names(ROOT / path)] == []


@cache
def defined_names(file: Path) -> set[str]:
    """Return the names of the functions, classes and methods of a file."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, FUNCTIONS)}
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names.add(node.name)
    return names
