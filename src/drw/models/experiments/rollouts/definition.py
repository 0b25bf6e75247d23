"""Checks and defaults of a rollout's definition, and the experiment that compares its groups."""

from __future__ import annotations

from drw.api.models.v1.experiments_pb2 import Arm, Experiment, Metric, Rollout
from drw.kernel.errors import InvalidRequest
from drw.models.experiments.definition import ALPHA, check_metric
from drw.models.experiments.design import design_of

CONTROL, CANDIDATE = "control", "candidate"
STEPS = (1, 5, 10, 25, 50)
STEP_SECONDS, STEP_UNITS = 600, 100
MAX_SHADOW_FAILURES_PERCENT = 1
GUARDRAILS = (
    Metric(name="error", kind=Metric.PROPORTION, source=Metric.ERROR, direction=Metric.LOWER_IS_BETTER, max_harm=0.2),
    Metric(
        name="total-p99",
        kind=Metric.QUANTILE,
        quantile=0.99,
        source=Metric.TOTAL_MS,
        direction=Metric.LOWER_IS_BETTER,
        max_harm=0.5,
    ),
)


def normalised(rollout: Rollout) -> Rollout:
    """Return the definition with its defaults filled in and without output-only fields.

    Raises:
        InvalidRequest: the definition contradicts itself; `param` is the path of the field.
    """
    definition = Rollout(
        name=rollout.name,
        description=rollout.description,
        alias=rollout.alias,
        model=rollout.model,
        unit=rollout.unit,
        steps=rollout.steps or STEPS,
        step_seconds=rollout.step_seconds or STEP_SECONDS,
        step_units=rollout.step_units or STEP_UNITS,
        shadow_percent=rollout.shadow_percent,
        max_shadow_failures_percent=rollout.max_shadow_failures_percent or MAX_SHADOW_FAILURES_PERCENT,
        guardrails=rollout.guardrails or GUARDRAILS,
    )
    steps = list(definition.steps)
    if steps != sorted(set(steps)):
        raise InvalidRequest(f"steps is {steps}; each step must be larger than the one before", param="steps")
    names = [metric.name for metric in definition.guardrails]
    for number, metric in enumerate(definition.guardrails):
        _check_guardrail(metric, f"guardrails[{number}]")
        if metric.name in names[:number]:
            raise InvalidRequest(f"guardrails has the name {metric.name!r} twice", param="guardrails")
    design_of(comparison(definition))
    return definition


def comparison(rollout: Rollout) -> Experiment:
    """Return the experiment that compares the candidate with a control group of the same size."""
    return Experiment(
        name=rollout.name,
        alias=rollout.alias,
        unit=rollout.unit,
        arms=[Arm(name=CONTROL, weight=1), Arm(name=CANDIDATE, weight=1)],
        metrics=rollout.guardrails,
        traffic_percent=100,
        alpha=ALPHA,
    )


def _check_guardrail(metric: Metric, path: str) -> None:
    check_metric(metric, path)
    if metric.source == Metric.API:
        raise InvalidRequest(f"{path}.source is missing; a rollout compares what calls measure", param=f"{path}.source")
    if metric.covariate:
        raise InvalidRequest(f"{path}.covariate is not supported in a rollout", param=f"{path}.covariate")
    if not metric.max_harm:
        raise InvalidRequest(f"{path}.max_harm is missing; give the largest accepted harm", param=f"{path}.max_harm")
