"""The documentation site: it builds without broken links, loads nothing from other hosts, and lists every page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from drw.generate.protos import ROOT
from drw.generate.reference import api_pages, site
from drw.generate.reference.openapi import PATH
from support.json_types import Json, JsonObject

EXTERNAL_RESOURCE = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"canonical\"))[^>]*(?:src|href)=\"(\w+:)?//[^\"]*\""
)
DOCUMENT: JsonObject = json.loads((ROOT / PATH).read_text())


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    site.prepare(folder / "build/docs")
    result = build(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "build/site"


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_site_loads_nothing_from_other_hosts(site_folder: Path) -> None:
    pages = list(site_folder.rglob("*.html"))
    assert len(pages) > 50
    assert [page.name for page in pages if EXTERNAL_RESOURCE.search(page.read_text())] == []
    styles = [style.read_text() for style in site_folder.rglob("*.css")]
    assert styles and not any(re.search(r"url\(['\"]?(https?:)?//|@import", style) for style in styles)


def test_only_resources_of_other_hosts_are_external() -> None:
    assert EXTERNAL_RESOURCE.search('<link rel="stylesheet" href="https://fonts.example/css">')
    assert EXTERNAL_RESOURCE.search('<script defer src="//cdn.example/x.js">')
    assert not EXTERNAL_RESOURCE.search('<script src="assets/x.js"></script><a href="https://example.com">')


def test_navigation_lists_every_page() -> None:
    nav_pages = set(targets(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - nav_pages == set()


def targets(nav: Json) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [target for item in items for target in targets(item)]


def test_every_operation_and_schema_has_a_section(site_folder: Path) -> None:
    for verbs in DOCUMENT["paths"].values():
        for operation in verbs.values():
            page = site_folder / site.API / f"{api_pages.slug(operation['tags'][0])}.html"
            assert f'id="{api_pages.slug(operation["operationId"])}"' in page.read_text()
    schemas = (site_folder / site.API / "schemas.html").read_text()
    assert [n for n in DOCUMENT["components"]["schemas"] if f'id="{api_pages.slug(n)}"' not in schemas] == []


def test_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    pages = tmp_path / "build/docs"
    pages.mkdir(parents=True)
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\ndocs_dir = "build/docs"\n')
    for text, code in (("# A\n\n[a](#a)\n", 0), ("[gone](gone.md)\n", 1), ("# A\n\n[gone](index.md#b)\n", 1)):
        (pages / "index.md").write_text(text)
        assert build(tmp_path).returncode == code, text


def test_types_are_rendered_with_bounds_and_links() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "integer", "minimum": 1, "maximum": 8, "description": "A | b <c>."},
            "b": {"anyOf": [{"type": "array", "items": {"$ref": "#/components/schemas/x.Y"}}, {"type": "null"}]},
            "c": {"type": "object", "properties": {"d": {"enum": ["e", "f"]}}},
            "g": {"type": "array", "items": {"type": "object", "properties": {"h": {"type": "string"}}}},
        },
    }
    document = {
        "info": {"title": "T", "description": "D."},
        "tags": [],
        "paths": {},
        "components": {"schemas": {"z": schema}},
    }
    rows = api_pages.pages(document)["schemas.md"].splitlines()
    assert r"| `a` | integer (minimum 1, maximum 8), required | A \| b \<c>. |" in rows
    assert "| `b` | array of [x.Y](schemas.md#x-y) or null |  |" in rows
    assert "| `c.d` | `e` or `f` |  |" in rows
    assert "| `g[].h` | string |  |" in rows
