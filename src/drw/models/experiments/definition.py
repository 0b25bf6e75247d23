"""Checks of an experiment's definition that its fields alone do not express."""

from __future__ import annotations

import math
from collections.abc import Iterable

from drw.api.models.v1.experiments_pb2 import Experiment, Metric
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_messages import json_message, json_value
from drw.models.experiments import treatments

ALPHA = 0.05
MIN_ALPHA, MAX_ALPHA = 0.0001, 0.2
MAX_BOUND = 1e15
MAX_VALUE_BYTES = 4096
"""Maximum size of the JSON value of an arm."""


def normalised(experiment: Experiment) -> Experiment:
    """Return the definition with its defaults filled in and without output-only fields.

    Raises:
        InvalidRequest: the definition contradicts itself; `param` is the path of the field.
    """
    if len(experiment.arms) < 2:
        raise InvalidRequest("arms has 1 item; an experiment needs a control arm and another one", param="arms")
    _check_unique("arms", (arm.name for arm in experiment.arms))
    _check_unique("metrics", (metric.name for metric in experiment.metrics))
    definition = Experiment(
        name=experiment.name,
        description=experiment.description,
        arms=experiment.arms,
        metrics=experiment.metrics,
        unit=experiment.unit,
        traffic_percent=experiment.traffic_percent or 100,
        alpha=experiment.alpha or ALPHA,
        alias=experiment.alias,
    )
    if not MIN_ALPHA <= definition.alpha <= MAX_ALPHA:
        message = f"alpha is {definition.alpha:g}; it can be {MIN_ALPHA:g} to {MAX_ALPHA:g}"
        raise InvalidRequest(message, param="alpha")
    _fill_values(definition)
    treatments.check(definition)
    for number, metric in enumerate(definition.metrics):
        check_metric(metric, f"metrics[{number}]")
        if metric.source != Metric.API and not definition.alias:
            message = f"metrics[{number}].source needs an alias: only calls of an alias are measured"
            raise InvalidRequest(message, param=f"metrics[{number}].source")
    return definition


def _fill_values(definition: Experiment) -> None:
    for number, arm in enumerate(definition.arms):
        path = f"arms[{number}].value"
        if len(arm.value.text) > MAX_VALUE_BYTES:
            raise InvalidRequest(f"{path} has {len(arm.value.text)} bytes; at most {MAX_VALUE_BYTES}", param=path)
        if json_value(arm.value) is None:
            arm.value.CopyFrom(json_message(arm.name))
    kinds = [_kind(json_value(arm.value)) for arm in definition.arms]
    for number, kind in enumerate(kinds):
        if kind != kinds[0]:
            message = f"arms[{number}].value is {kind}, that of the control arm is {kinds[0]}; all need the same type"
            raise InvalidRequest(message, param=f"arms[{number}].value")


def _kind(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        dict: "an object",
        list: "a list",
    }
    return names[type(value)]


def check_metric(metric: Metric, path: str) -> None:
    """Raise `InvalidRequest` if the fields of a metric contradict each other."""
    if metric.kind == Metric.QUANTILE and not 0 < metric.quantile < 1:
        message = f"{path}.quantile is {metric.quantile:g}; it must lie between 0 and 1, as 0.99 does"
        raise InvalidRequest(message, param=f"{path}.quantile")
    if metric.kind != Metric.QUANTILE and metric.quantile:
        raise InvalidRequest(f"{path}.quantile needs the kind QUANTILE", param=f"{path}.quantile")
    if metric.kind == Metric.SCORE and not -MAX_BOUND <= metric.lowest < metric.highest <= MAX_BOUND:
        message = f"{path}.lowest is {metric.lowest:g} and highest {metric.highest:g}; lowest must be less"
        raise InvalidRequest(message, param=f"{path}.lowest")
    if metric.kind != Metric.SCORE and (metric.lowest or metric.highest):
        raise InvalidRequest(f"{path}.lowest and highest need the kind SCORE", param=f"{path}.lowest")
    if metric.kind != Metric.MEAN and metric.cap:
        raise InvalidRequest(f"{path}.cap needs the kind MEAN", param=f"{path}.cap")
    if metric.covariate and metric.kind not in (Metric.MEAN, Metric.RATIO):
        raise InvalidRequest(f"{path}.covariate needs the kind MEAN or RATIO", param=f"{path}.covariate")
    if metric.source == Metric.ERROR and metric.kind == Metric.QUANTILE:
        raise InvalidRequest(f"{path}.source ERROR is 0 or 1, which has no quantiles", param=f"{path}.source")
    if metric.source not in (Metric.API, Metric.ERROR) and metric.kind in (Metric.SCORE, Metric.PROPORTION):
        message = f"{path}.source needs the kind MEAN, RATIO or QUANTILE"
        raise InvalidRequest(message, param=f"{path}.source")
    for name in ("cap", "max_harm"):
        value = getattr(metric, name)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidRequest(f"{path}.{name} is {value:g}; it must be 0 or more", param=f"{path}.{name}")


def _check_unique(param: str, names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{param} has the name {name!r} twice", param=param)
        seen.add(name)
