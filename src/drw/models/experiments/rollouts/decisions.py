"""Decisions about a rollout from its numbers: wait, advance or roll back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from drw.api.models.v1.experiments_pb2 import Delivery, Results, Rollout, ShadowCalls
from drw.kernel.rpc.json_messages import to_json
from drw.models.experiments.guardrails import breach
from drw.models.experiments.rollouts.definition import CANDIDATE, CONTROL

MAX_LOST = 0.001
"""The largest share of exposures that can be lost: the comparison would be of what is left."""


class Action(StrEnum):
    """What to do with a rollout."""

    WAIT = "wait"
    ADVANCE = "advance"
    ROLL_BACK = "rollback"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action with its reason; the reason of waiting is what is missing."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known about a running rollout.

    Attributes:
        seconds: time since the step began.
        new_units: units of each arm that had their first exposure since then.
        refusal: why the candidate or the alias cannot get traffic; empty if it can.
    """

    results: Results
    shadow: ShadowCalls
    seconds: float
    new_units: dict[str, int] = field(default_factory=dict)
    refusal: str = ""

    def summary(self) -> dict[str, Any]:
        """Return the numbers for the history."""
        results = to_json(self.results)
        kept = ("arms", "sample_ratio", "comparisons", "delivery")
        return {
            **{name: results.get(name) for name in kept},
            "new_units": self.new_units,
            "seconds": round(self.seconds, 1),
            "shadow": to_json(self.shadow),
        }


def decide(rollout: Rollout, numbers: Numbers) -> Decision:
    """Return what to do with a rollout in the states SHADOW and RAMP."""
    if reason := harm(rollout, numbers):
        return Decision(Action.ROLL_BACK, reason)
    if rollout.paused:
        return Decision(Action.WAIT, "it is paused")
    if (remaining := rollout.step_seconds - numbers.seconds) > 0:
        return Decision(Action.WAIT, f"{remaining:.0f} s more in this step")
    if rollout.state == Rollout.SHADOW:
        if (missing := rollout.step_units - numbers.shadow.compared) > 0:
            return Decision(Action.WAIT, f"{missing} more shadow calls")
        return Decision(Action.ADVANCE, f"{numbers.shadow.compared} shadow calls were compared")
    fewest = min(numbers.new_units.get(arm, 0) for arm in (CONTROL, CANDIDATE))
    if (missing := rollout.step_units - fewest) > 0:
        return Decision(Action.WAIT, f"{missing} more units of each group in this step")
    return Decision(Action.ADVANCE, f"no guardrail is breached after {fewest} units of each group")


def harm(rollout: Rollout, numbers: Numbers) -> str:
    """Return why a rollout must end; empty if it can go on."""
    if numbers.refusal:
        return numbers.refusal
    if reason := _lost(numbers.results.delivery):
        return reason
    if reason := _failed_shadows(rollout, numbers.shadow):
        return reason
    if numbers.results.sample_ratio.mismatch:
        return "the groups do not have the same size (sample-ratio mismatch): assignment or recording is broken"
    return breach(numbers.results)


def _lost(delivery: Delivery) -> str:
    total = delivery.recorded + delivery.lost
    if delivery.lost <= MAX_LOST * total:
        return ""
    return f"{delivery.lost} of {total} exposures were lost, more than {MAX_LOST:.1%}"


def _failed_shadows(rollout: Rollout, shadow: ShadowCalls) -> str:
    """Return whether too many shadow calls fail, of those made or, early, of those needed."""
    total = max(shadow.compared + shadow.failed, rollout.step_units)
    if shadow.failed * 100 <= rollout.max_shadow_failures_percent * total:
        return ""
    return f"{shadow.failed} of {shadow.compared + shadow.failed} shadow calls failed"
