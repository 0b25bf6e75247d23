"""Makes deploy/observability/dashboards: Grafana's JSON out of the table of panels."""

from __future__ import annotations

import json
from typing import Any

from drw.generate.panels import BOARDS, Board, Panel

FOLDER = "deploy/observability/dashboards"
SCHEMA = 41
"""The version of Grafana's dashboard schema; newer Grafanas migrate it by themselves."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, ACROSS = 12, 8, 2


def files() -> dict[str, str]:
    """Return the text of the dashboards by their paths."""
    return {f"{FOLDER}/{board.name}.json": json.dumps(dashboard(board), indent=2) + "\n" for board in BOARDS}


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
        "templating": {"list": [_source()]},
        "links": [{"title": "DRW AI platform", "type": "dashboards", "tags": ["drw"], "asDropdown": True, "icon": ""}],
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, ACROSS)
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(panel.queries)
        ],
    }
