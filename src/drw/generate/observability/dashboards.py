"""Generates deploy/observability/dashboards: Grafana dashboards as JSON, from the panels."""

from __future__ import annotations

import json
from typing import Any

from drw.generate.observability.batch_panels import BOARD as BATCHES
from drw.generate.observability.panels import BOARDS, Board, Panel
from drw.generate.observability.slo_rules import BOARD as SERVICES

FOLDER = "deploy/observability/dashboards"
SCHEMA = 41
"""The version of Grafana's dashboard schema; newer Grafanas migrate it by themselves."""
DATASOURCE = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
}
"""The variable with which the user of a dashboard selects a Prometheus."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2


def files() -> dict[str, str]:
    """Return the text of the dashboards by their paths."""
    return {
        f"{FOLDER}/{board.name}.json": json.dumps(dashboard(board), indent=2) + "\n"
        for board in (*BOARDS, BATCHES, SERVICES)
    }


def dashboard(board: Board) -> dict[str, Any]:
    """Return one dashboard."""
    return {
        "uid": f"drw-{board.name}",
        "title": f"DRW AI platform: {board.title}",
        "tags": ["drw"],
        "editable": True,
        "schemaVersion": SCHEMA,
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "timezone": "utc",
        "templating": {"list": [DATASOURCE]},
        "links": [{"title": "DRW AI platform", "type": "dashboards", "tags": ["drw"], "asDropdown": True, "icon": ""}],
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }
