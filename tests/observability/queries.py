"""Every query of the dashboards and rules, read by a parser of PromQL, and the metrics of our own code."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import promql_parser
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import drw
from support.json_types import JsonObject

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
RULES = sorted((FOLDER / "rules").glob("*.yaml"))
VARIABLES = {"$__rate_interval": "5m"}
"""Grafana's own, with a value that it might have."""

OF_SEVERAL_HOSTS = {"envoy_cluster_outlier_detection_ejections_active"}
"""What Envoy counts only for upstreams with several hosts."""

PROMETHEUS_OWN = {"up": {"job", "instance"}}
"""What Prometheus itself knows of a process, with its labels."""


class Query(NamedTuple):
    """One query, and where it stands."""

    where: str
    text: str


def dashboards() -> Iterator[tuple[str, JsonObject]]:
    """Yield each dashboard with its name."""
    for file in DASHBOARDS:
        yield file.stem, json.loads(file.read_text())


def rules() -> Iterator[JsonObject]:
    """Yield each rule."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def recorded() -> dict[str, set[str]]:
    """Return the metrics that the rules themselves make."""
    return {rule["record"]: set() for rule in rules() if "record" in rule}


def queries() -> list[Query]:
    """Return every query."""
    found = [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for name, board in dashboards():
        for panel in board["panels"]:
            found += [Query(f"{name}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


def parsed(query: Query) -> promql_parser.Expr:
    """Return the query as a tree; raise where it is not PromQL."""
    text = query.text
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    assert "$" not in text, f"{query.where}: an unknown variable in {text!r}"
    return promql_parser.parse(text)


def nodes(query: Query) -> list[promql_parser.Expr]:
    """Return every node of the tree."""
    found: list[promql_parser.Expr] = []

    def keep(node: promql_parser.Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(parsed(query), keep)
    return found


def selectors(query: Query) -> list[promql_parser.VectorSelector]:
    """Return what the query reads."""
    return [node for node in nodes(query) if isinstance(node, promql_parser.VectorSelector)]


@cache
def own() -> dict[str, set[str]]:
    """Return the metrics of our own code by the names they have in Prometheus, with their labels."""
    for module in pkgutil.walk_packages(drw.__path__, "drw."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[str, set[str]] = {}
    for collector in set(REGISTRY._collector_to_names):
        labels = set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set()
        for name in REGISTRY._collector_to_names[collector]:
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found
