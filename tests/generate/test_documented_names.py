"""Documentation names settings, metrics, error classes and dashboard panels that exist."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from drw.generate.protos import ROOT

PAGES = sorted([ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "reference")])
ALERTS = ROOT / "docs/how-to/operate/alerts.md"

TABLE = re.compile(r"^\| setting of `(services\.\w+)` \|.*\n\| ---.*\n((?:\|.*\n)+)", re.M)
SHORT = re.compile(r"`((?:metering|rate_limiting|data_plane|engine|openai)\.[a-z_]+(?:\.[a-z_]+)?)")
METRIC = re.compile(r"`?\b(drw_[a-z_]+|gen_ai_[a-z_]+)(?:\{[^}]*\})?`")
SUFFIX = re.compile(r"_(total|seconds|sum|count|bucket)$")
ERROR = re.compile(r"^\| `([A-Z]\w+)` \|", re.M)
PANEL = re.compile(r"\*([A-Z][\w ]+): ([^*]+)\*")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_tables_and_short_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = [
        f"{table}.{name}"
        for table, rows in TABLE.findall(text)
        for row in rows.splitlines()
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    named += SHORT.findall(text)
    assert [name for name in named if not any(f".{setting}".endswith(f".{name}") for setting in settings())] == []


@cache
def settings() -> set[str]:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w.*]+)`", text, re.M)
    return {name.rsplit(".", depth)[0] for name in names for depth in range(2)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_of_a_page_exist(page: Path) -> None:
    named = set(METRIC.findall(page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not is_metric(name)] == []


def is_metric(name: str) -> bool:
    """Return whether the source names a metric, its label, or its name without a unit."""
    spellings = {name, SUFFIX.sub("", name), name.replace("_", "."), SUFFIX.sub("", name).replace("_", ".")}
    return any(f'"{spelling}' in source() or f"{spelling}" in rules() for spelling in spellings)


@cache
def source() -> str:
    files = [*(ROOT / "src/drw").rglob("*.py"), *(ROOT / "src/drw/agent").rglob("*.[ch]")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@cache
def rules() -> str:
    return (ROOT / "deploy/observability/rules/drw.yaml").read_text(encoding="utf-8")


def test_alerts_name_error_classes_and_panels_that_exist() -> None:
    text = ALERTS.read_text(encoding="utf-8")
    errors, panels = ERROR.findall(text), PANEL.findall(text)
    assert len(errors) > 4 and len(panels) > 4
    assert [error for error in errors if f"class {error}(" not in source()] == []
    titles = {title for board in (ROOT / "deploy/observability/dashboards").iterdir() for title in panel_titles(board)}
    assert [f"{board}: {panel}" for board, panel in panels if panel not in titles] == []


def panel_titles(board: Path) -> set[str]:
    return set(re.findall(r'"title": "([^"]+)"', json.dumps(json.loads(board.read_text()))))


def test_unknown_names_are_found() -> None:
    assert is_metric("drw_cost_usd_total")
    assert not is_metric("drw_costs_usd_total")
    assert not any(setting.endswith(".most_atached") for setting in settings())
