"""A small Prometheus: runs a file of `promtool test rules`, for as much of PromQL as our alerts use.

A vector is a dict from labels to a value; names of metrics are left out of the labels. Rates are those between the
first and the last sample of a window, which is what Prometheus gives where samples come without gaps.
"""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import promql_parser as promql
import yaml

from support.json_types import JsonObject

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Sample = tuple[float, float]
"""When, in seconds, and what."""

LOOK_BACK = 300.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _divided(one: float, other: float) -> float:
    return one / other if other else math.copysign(math.inf, one) if one else math.nan


ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divided}
COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
AGGREGATES: dict[str, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}
parse = cache(promql.parse)


def seconds(text: str | None) -> float:
    """Return a duration in seconds."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text or ""))


class Alert(NamedTuple):
    """One alert that goes off."""

    labels: dict[str, str]
    annotations: dict[str, str]


class Store:
    """Series with their samples, by the names of their metrics."""

    def __init__(self) -> None:
        self._series: dict[str, dict[Labels, list[Sample]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, labels: Labels, at: float, value: float) -> None:
        self._series[name][labels].append((at, value))

    def range(
        self, selector: promql.VectorSelector, since: float, until: float
    ) -> Iterator[tuple[Labels, list[Sample]]]:
        for labels, samples in self._series.get(selector.name or "", {}).items():
            window = [sample for sample in samples if since <= sample[0] <= until]
            if window and all(_matches(matcher, dict(labels)) for matcher in selector.matchers.matchers):
                yield labels, window


def _matches(matcher: promql.Matcher, labels: dict[str, str]) -> bool:
    value, kind = labels.get(matcher.name, ""), str(matcher.op).removeprefix("MatchOp.")
    found = value == matcher.value if kind in ("Equal", "NotEqual") else bool(re.fullmatch(matcher.value, value))
    return found != kind.startswith("Not")


def value_of(node: promql.Expr, store: Store, at: float) -> Vector | float:
    """Return what an expression gives at a time."""
    match node:
        case promql.NumberLiteral():
            return float(node.val)
        case promql.ParenExpr():
            return value_of(node.expr, store, at)
        case promql.VectorSelector():
            return {labels: window[-1][1] for labels, window in store.range(node, at - LOOK_BACK, at)}
        case promql.AggregateExpr():
            return _aggregate(node, _vector(node.expr, store, at))
        case promql.Call():
            return _call(node, store, at)
        case promql.BinaryExpr():
            return _binary(str(node.op), node.modifier, value_of(node.lhs, store, at), value_of(node.rhs, store, at))
    raise NotImplementedError(f"{type(node).__name__}: {node}")


def _vector(node: promql.Expr, store: Store, at: float) -> Vector:
    found = value_of(node, store, at)
    assert isinstance(found, dict), f"a number where there should be series: {node}"
    return found


def _aggregate(node: promql.AggregateExpr, vector: Vector) -> Vector:
    groups: dict[Labels, list[float]] = defaultdict(list)
    by = set(node.modifier.labels) if node.modifier else set()
    assert node.modifier is None or node.modifier.type == promql.AggModifierType.By
    for labels, value in vector.items():
        groups[frozenset(pair for pair in labels if pair[0] in by)].append(value)
    return {labels: AGGREGATES[str(node.op)](values) for labels, values in groups.items()}


def _call(node: promql.Call, store: Store, at: float) -> Vector:
    name, (argument,) = node.func.name, node.args
    if name == "absent":
        equal = {(m.name, m.value) for m in argument.matchers.matchers if str(m.op) == "MatchOp.Equal"}
        return {} if _vector(argument, store, at) else {frozenset(equal): 1.0}
    assert name in ("rate", "increase"), f"{name} is not known here"
    window = argument.range.total_seconds()
    whole = {"rate": 1.0, "increase": window}[name]
    found = store.range(argument.vector_selector, at - window, at)
    return {labels: _rate(samples) * whole for labels, samples in found if len(samples) > 1}


def _rate(samples: list[Sample]) -> float:
    pairs = zip(samples, samples[1:], strict=False)
    risen = sum(new - old if new >= old else new for (_, old), (_, new) in pairs)  # less: it began again at 0
    return risen / (samples[-1][0] - samples[0][0])


def _binary(
    op: str, modifier: promql.BinModifier | None, left: Vector | float, right: Vector | float
) -> Vector | float:
    assert modifier is None or not (modifier.matching or modifier.return_bool), "on, ignoring and bool are not known"
    if isinstance(left, float) and isinstance(right, float):
        return float(ARITHMETIC[op](left, right))
    if isinstance(left, float):
        assert isinstance(right, dict) and op in ARITHMETIC
        return {labels: ARITHMETIC[op](left, value) for labels, value in right.items()}
    if op == "or":
        assert isinstance(right, dict)
        return right | left
    shared = dict.fromkeys(left, right) if isinstance(right, float) else right
    pairs = [(labels, value, shared[labels]) for labels, value in left.items() if labels in shared]
    if op in ARITHMETIC:
        return {labels: ARITHMETIC[op](one, other) for labels, one, other in pairs}
    return {labels: one for labels, one, other in pairs if op == "and" or COMPARISONS[op](one, other)}


def _values(text: str) -> Iterator[float | None]:
    """Yield what promtool's notation means: `1+2x3` is 1 3 5 7, `1x2` is 1 1 1, and `_x2` is two gaps."""
    for part in text.split():
        if gap := re.fullmatch(r"_(?:x(\d+))?", part):
            yield from [None] * int(gap[1] or 1)
            continue
        found = re.fullmatch(r"(-?[\d.]+)([+-][\d.]+)?(?:x(\d+))?", part)
        assert found, f"{part!r} is in no notation for series"
        for number in range(int(found[3] or 0) + 1):
            yield float(found[1]) + number * float(found[2] or 0)


def _filled(text: str, labels: dict[str, str], value: float) -> str:
    """Return an annotation with its placeholders filled in."""
    known: dict[str, Callable[[], str]] = {
        "$value": lambda: f"{value:g}",
        "$value | humanizePercentage": lambda: f"{value * 100:.4g}%",
        "$value | humanize": lambda: f"{value:.4g}",
        **{f"$labels.{name}": partial(labels.__getitem__, name) for name in labels},
    }
    return re.sub(r"{{ (.+?) }}", lambda found: known.get(found[1], lambda: "")(), text)


class Case:
    """One test of such a file: its series, and the rules, evaluated from the beginning."""

    def __init__(self, groups: list[JsonObject], interval: float, series: list[dict[str, str]], every: float) -> None:
        self._groups = list(groups)
        self._interval = interval
        self._store = Store()
        for one in series:
            selector = promql.parse(one["series"])
            assert isinstance(selector, promql.VectorSelector) and selector.name
            labels = frozenset((matcher.name, matcher.value) for matcher in selector.matchers.matchers)
            for number, value in enumerate(_values(str(one["values"]))):
                if value is not None:
                    self._store.add(selector.name, labels, number * every, value)

    def alerts(self, name: str, until: float) -> list[Alert]:
        """Return what goes off under a name at a time."""
        rule, every = next(
            (rule, seconds(group.get("interval")) or self._interval)
            for group in self._groups
            for rule in group["rules"]
            if rule.get("alert") == name
        )
        began: dict[Labels, float] = {}
        now: Vector = {}
        for at in (number * every for number in range(int(until / every) + 1)):
            self._record(at)
            now = _vector(parse(rule["expr"]), self._store, at)
            began = {labels: began.get(labels, at) for labels in now}
        waited = seconds(rule.get("for"))
        return [_alert(rule, dict(labels), now[labels]) for labels in now if until - began[labels] >= waited]

    def _record(self, at: float) -> None:
        for rule in (rule for group in self._groups for rule in group["rules"] if "record" in rule):
            selector = promql.parse(rule["record"])
            assert isinstance(selector, promql.VectorSelector)
            recorded = self._store.range(selector, at, at)
            if next(recorded, None) is None:  # not by an earlier question
                for labels, value in _vector(parse(rule["expr"]), self._store, at).items():
                    self._store.add(rule["record"], labels, at, value)


def _alert(rule: JsonObject, labels: dict[str, str], value: float) -> Alert:
    said = {name: _filled(text, labels, value) for name, text in rule["annotations"].items()}
    return Alert(labels | rule["labels"], said)


def cases(file: Path) -> Iterator[tuple[str, Case, list[JsonObject]]]:
    """Yield each test of a file, as its name, its case and what it wants."""
    read = yaml.safe_load(file.read_text())
    groups = [g for path in read["rule_files"] for g in yaml.safe_load((file.parent / path).read_text())["groups"]]
    for test in read["tests"]:
        case = Case(groups, seconds(read["evaluation_interval"]), test["input_series"], seconds(test["interval"]))
        yield test["name"], case, test["alert_rule_test"]
