"""Decisions about rollouts from their numbers, and the permit of the candidate."""

from __future__ import annotations

from typing import Any

import pytest

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.api.models.v1.experiments_pb2 import Comparison, Delivery, Results, Rollout, SampleRatioCheck, ShadowCalls
from drw.kernel.errors import Conflict, DrwError, InvalidRequest, NotFound, Unavailable
from drw.models.experiments.rollouts.decisions import Action, Numbers, decide
from drw.models.experiments.treatments import AliasModels
from models.experiments.rollouts.double_discovery import models, resolved

RAMP = Rollout(name="r", state=Rollout.RAMP, percent=5, step_seconds=60, step_units=100, max_shadow_failures_percent=1)
SHADOW = Rollout(name="r", state=Rollout.SHADOW, step_seconds=60, step_units=100, max_shadow_failures_percent=1)
BREACH = Comparison(arm="candidate", metric="error", guardrail_breached=True)
ENOUGH = {"control": 100, "candidate": 100}


def numbers(**fields: Any) -> Numbers:
    values: dict[str, Any] = {"results": Results(), "shadow": ShadowCalls(), "seconds": 61, "new_units": ENOUGH}
    return Numbers(**values | fields)


def results(**fields: Any) -> Results:
    return Results(**fields)


@pytest.mark.parametrize(
    ("rollout", "found", "action", "reason"),
    [
        (RAMP, numbers(), Action.ADVANCE, "no guardrail is breached"),
        (RAMP, numbers(seconds=59), Action.WAIT, "1 s more"),
        (RAMP, numbers(new_units={"control": 100, "candidate": 99}), Action.WAIT, "1 more units"),
        (RAMP, numbers(new_units={}), Action.WAIT, "100 more units"),
        (RAMP, numbers(results=results(comparisons=[BREACH])), Action.ROLL_BACK, "guardrail error"),
        (
            RAMP,
            numbers(results=results(sample_ratio=SampleRatioCheck(mismatch=True), comparisons=[BREACH])),
            Action.ROLL_BACK,
            "sample-ratio mismatch",
        ),
        (RAMP, numbers(results=results(delivery=Delivery(recorded=999, lost=1))), Action.ADVANCE, ""),
        (RAMP, numbers(results=results(delivery=Delivery(recorded=998, lost=1))), Action.ROLL_BACK, "1 of 999"),
        (RAMP, numbers(refusal="the candidate is gone"), Action.ROLL_BACK, "gone"),
        (SHADOW, numbers(shadow=ShadowCalls(compared=100)), Action.ADVANCE, "100 shadow calls"),
        (SHADOW, numbers(shadow=ShadowCalls(compared=99)), Action.WAIT, "1 more shadow calls"),
        (SHADOW, numbers(shadow=ShadowCalls(compared=10, failed=2)), Action.ROLL_BACK, "2 of 12"),
        (SHADOW, numbers(shadow=ShadowCalls(compared=299, failed=1)), Action.ADVANCE, ""),
        (SHADOW, numbers(shadow=ShadowCalls(compared=500, failed=1, dropped=10_000)), Action.ADVANCE, ""),
    ],
)
def test_a_rollout_waits_advances_or_rolls_back(rollout: Rollout, found: Numbers, action: Action, reason: str) -> None:
    decision = decide(rollout, found)
    assert decision.action is action and reason in decision.reason


def test_a_paused_rollout_waits_but_still_rolls_back() -> None:
    paused = Rollout()
    paused.CopyFrom(RAMP)
    paused.paused = True
    assert decide(paused, numbers()).action is Action.WAIT
    assert decide(paused, numbers(results=results(comparisons=[BREACH]))).action is Action.ROLL_BACK


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (resolved(validation="v1"), ""),
        (resolved(validation="v1", expires_at=1001), ""),
        (resolved(validation="v1", expires_at=1000), "no valid validation record"),
        (resolved(), "no valid validation record"),
        (resolved(Model.EMBEDDING, validation="v1"), "no chat model"),
        (NotFound("there is no model"), "does not exist"),
        (Conflict("it is not validated"), "it is not validated"),
    ],
)
async def test_a_model_without_a_valid_permit_gets_no_traffic(answer: ResolvedModel | DrwError, reason: str) -> None:
    checked = models(answer)
    refusal = await checked.refusal("m")
    assert reason in refusal and bool(reason) == bool(refusal)
    if reason:
        with pytest.raises(InvalidRequest, match="model is 'm'"):
            await checked.check_model("m", "model")


async def test_an_unavailable_discovery_is_no_reason_to_roll_back() -> None:
    for checked in (models(Unavailable("down")), AliasModels(None)):
        with pytest.raises(Unavailable):
            await checked.refusal("m")
