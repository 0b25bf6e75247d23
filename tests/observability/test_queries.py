"""The dashboards and the rules as files: Grafana and Prometheus can load them, and they ask for what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import prometheus
from grafana_foundation_sdk.models.dashboard import Dashboard
from pydantic import BaseModel, ConfigDict, Field

from observability.prometheus import Case, cases, seconds
from observability.queries import (
    PROMETHEUS_OWN,
    RULES,
    Query,
    dashboards,
    nodes,
    own,
    parsed,
    queries,
    recorded,
    rules,
    selectors,
)
from support.json_types import Json, JsonObject

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "how-to" / "operate" / "alerts.md"
CASES = Path(__file__).parent / "alerts.test.yaml"
ALL = queries()
DURATION = Field(None, pattern=r"^([0-9]+(ms|[smhdwy]))+$")
INVOLVED = {"instance", "job"}
"""Labels that Prometheus itself puts on."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Annotations(Strict):
    summary: str = Field(min_length=10, max_length=200)
    runbook: str


class Labels(Strict):
    severity: Literal["page", "ticket"]


class Alert(Strict):
    alert: str = Field(pattern=r"^[A-Z][A-Za-z]+$")
    expr: str
    wait: str | None = Field(None, alias="for", pattern=r"^[0-9]+[smh]$")
    labels: Labels
    annotations: Annotations


class Recording(Strict):
    record: str = Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")
    expr: str


class Group(Strict):
    name: str
    interval: str | None = DURATION
    rules: list[Alert | Recording] = Field(min_length=1)


class Groups(Strict):
    """Prometheus' own format: "Defining recording rules", "Alerting rules" in its documentation."""

    groups: list[Group] = Field(min_length=1)


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_a_file_of_rules_has_prometheus_own_form(file: Path) -> None:
    read = Groups.model_validate(yaml.safe_load(file.read_text()))
    names = [group.name for group in read.groups]
    assert len(names) == len(set(names))
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_promtool_itself_finds_that_the_alerts_go_off_when_they_should() -> None:
    done = subprocess.run([str(shutil.which("promtool")), "test", "rules", CASES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("case", "wanted"), [pytest.param(*rest, id=name) for name, *rest in cases(CASES)])
def test_the_alerts_go_off_when_they_should(case: Case, wanted: list[JsonObject]) -> None:
    for one in wanted:
        found = [
            (alert.labels, alert.annotations) for alert in case.alerts(one["alertname"], seconds(one["eval_time"]))
        ]
        expected = [(alert["exp_labels"], alert["exp_annotations"]) for alert in one["exp_alerts"]]
        assert sorted(found, key=str) == sorted(expected, key=str), f"{one['alertname']} at {one['eval_time']}"


@pytest.mark.parametrize(("name", "board"), list(dashboards()), ids=[name for name, _ in dashboards()])
def test_grafanas_own_types_take_all_of_a_dashboard(name: str, board: JsonObject) -> None:
    plugins.register_default_plugins()
    read = Dashboard.from_json(board)
    assert list(_lost(board, json.loads(json.dumps(read, cls=JSONEncoder)))) == []
    panels: list[Any] = read.panels or []
    assert len(panels) > 3
    assert all(isinstance(target, prometheus.Dataquery) for panel in panels for target in panel.targets)
    assert read.uid == f"drw-{name}" and 8 <= len(read.uid) <= 40
    places = [(panel.grid_pos.x, panel.grid_pos.y) for panel in panels]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("query", ALL, ids=lambda query: query.where)
def test_a_query_is_promql_over_metrics_and_labels_that_there_are(query: Query) -> None:
    assert parsed(query) is not None
    ours = own() | recorded() | PROMETHEUS_OWN
    known = set(INVOLVED)
    for selector in selectors(query):
        if (selector.name or "").startswith("envoy_"):
            known |= {"le", "envoy_cluster_name", "envoy_http_conn_manager_prefix", "envoy_response_code_class"}
            continue  # that Envoy has it, the test of a whole platform shows
        assert selector.name in ours, f"{query.where}: nothing exposes {selector.name}"
        known |= ours[selector.name]
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= ours[selector.name], f"{query.where}: {selector.name} has no label {matched}"
    for node in nodes(query):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= known, f"{query.where}: no {set(node.modifier.labels) - known}"


def test_a_query_that_is_wrong_is_found() -> None:
    from observability.queries import Query

    for text in ("sum(rate(drw_requests_total[5m])", "rate(drw_requests_total)", "up{job=drw}", "rate(x[$__other])"):
        with pytest.raises((ValueError, AssertionError)):
            parsed(Query("wrong", text))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.M))
    alerts = {rule["alert"]: rule["annotations"]["runbook"] for rule in rules() if "alert" in rule}
    assert alerts == {name: f"docs/how-to/operate/alerts.md#{name.lower()}" for name in alerts}
    assert sections == alerts.keys()


def test_no_metric_has_a_label_for_keys_or_users() -> None:
    labels = {label for names in own().values() for label in names}
    assert labels & {"key", "user", "caller", "path", "trace_id", "request_id", "prompt"} == set()


def _lost(ours: Json, theirs: Json, path: str = "") -> Iterator[str]:
    """Yield where something of ours is not in theirs."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if not isinstance(theirs, dict) or key not in theirs:
                yield f"{path}/{key}"
            else:
                yield from _lost(value, theirs[key], f"{path}/{key}")
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            yield path
        else:
            for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                yield from _lost(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} became {theirs!r}"
