"""Changes of the code, played by changes of a recorded journal: the first divergence is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest

from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.errors import DeadlineExceeded
from drw.workflow.orchestration.activities import ACTIVITIES
from drw.workflow.orchestration.replay.recorded import RecordedRun
from drw.workflow.orchestration.replay.replayer import replay

JOURNALS = Path(__file__).with_name("journals")


def journal(name: str) -> RecordedRun:
    return RecordedRun.from_json((JOURNALS / f"{name}.json").read_bytes())


def with_step(run: RecordedRun, step: str, **values: Any) -> RecordedRun:
    assert step in [s.id for s in run.steps]
    return changed(run, steps=tuple(changed(s, **values) if s.id == step else s for s in run.steps))


def with_template(run: RecordedRun, change: Callable[[Template], object]) -> RecordedRun:
    """Return a run whose template is what another parser would have made of it."""
    template = Template.FromString(run.template.SerializeToString())
    change(template)
    return changed(run, template=template)


def check(run: RecordedRun, step: str, message: str) -> None:
    result = replay(run)
    assert result.step == step and message in result.divergence, result


def test_other_inputs_of_a_step() -> None:
    check(with_step(journal("approval"), "after", arguments="0" * 64), "after", "the inputs of 'after' have the digest")
    check(with_step(journal("approval"), "ok", arguments="0" * 64), "ok", "the inputs of 'ok' have the digest")


def test_another_decision_of_a_control_node() -> None:
    check(with_step(journal("switch"), "choose", decision={"case": 1}), "choose", "'choose' decides {\"case\":0}")
    decision = {"items": [1, 2], "concurrency": 2}
    check(with_step(journal("map"), "all", decision=decision), "all", "'all' decides")


def test_another_output_of_a_control_node_or_of_the_run() -> None:
    check(with_step(journal("map"), "all", output=[1]), "all", "'all' succeeded with '[2,5,8,11,14]', not")
    check(changed(journal("wait"), output=1), "", "the run succeeded with")
    check(changed(journal("failure"), error="other"), "", "the run failed with")


def test_a_step_that_the_journal_does_not_have() -> None:
    run = journal("approval")
    without = changed(run, steps=tuple(s for s in run.steps if s.id != "after"))
    check(without, "after", "the present code starts 'after', which the journal does not have")


def test_a_step_that_the_present_code_starts_later() -> None:
    """The journal has `after` start before the approval, on which it depends now."""
    run = journal("approval")
    early = next(s for s in run.steps if s.id == "ok").started_at
    moved = with_step(run, "after", started_at=early, ended_at=early)
    check(moved, "after", "the journal starts 'after' here, and the present code does not")


def test_a_step_that_the_present_code_does_not_execute() -> None:
    run = with_template(journal("approval"), lambda t: t.nodes.pop())
    check(run, "", "the run failed with")
    loop = with_step(journal("loop"), "again", decision={"max_iterations": 3})
    shorter = with_template(loop, lambda t: setattr(t.nodes[0], "until", "true"))
    check(shorter, "again", "'again' succeeded with '4', not")


def test_an_activity_that_the_present_code_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ACTIVITIES, "model")
    check(journal("answer"), "write", "the present code does not have 'model'")


def test_an_activity_that_refuses_the_recorded_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    narrower = changed(ACTIVITIES["retrieve"], arguments=ACTIVITIES["python"].arguments)
    monkeypatch.setitem(ACTIVITIES, "retrieve", narrower)
    check(journal("answer"), "find", "the present code refuses 'find'")


def test_a_run_in_flight_is_replayed_up_to_its_present_step() -> None:
    run = with_step(journal("approval"), "after", state="RUNNING", ended_at="", output=None)
    result = replay(changed(run, state="RUNNING", output=None))
    assert (result.divergence, result.steps) == ("", 1)


def test_a_journal_of_an_earlier_release_has_no_digests() -> None:
    run = journal("approval")
    assert replay(changed(run, steps=tuple(changed(s, arguments="") for s in run.steps))).divergence == ""


def test_a_replay_has_a_time_limit() -> None:
    with pytest.raises(DeadlineExceeded, match="takes too long"):
        replay(journal("map"), seconds=0)
