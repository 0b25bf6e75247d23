"""Nodes of templates: switch, loop, map, wait, approval, workflow, python, model, retrieve; typed inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drw.api.workflow.v1.orchestration_pb2 import CANCELLED, FAILED, RUNNING, SUCCEEDED, Approval, Vote
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WITH_PERSONS, WorkflowHarness, step_is, workflow_harness

FUNCTIONS = {"double": "workflow.functions:double", "fail": "workflow.functions:fail"}


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    services: dict[str, Any] = FAST_SETTINGS | {
        "orchestration": {"initial_retry_seconds": 0.01, "functions": FUNCTIONS}
    }
    starter = replace(caller, key="oidc:corp:starter")  # a person without a key, so that nobody created it
    async with workflow_harness(profile, folder, starter, services=services, names=WITH_PERSONS) as harness:
        yield harness


async def finished(harness: WorkflowHarness, source: str, **inputs: Any) -> Any:
    """Run a template; return the ended run."""
    template = await harness.put(source)
    return await harness.wait_until_ended(await harness.start(0, template=template.name, **inputs))


async def output(harness: WorkflowHarness, source: str, **inputs: Any) -> Any:
    run = await finished(harness, source, **inputs)
    assert run.state == SUCCEEDED, run.error
    return json_value(run.output)


SWITCH = """
name: route
description: Chooses a case.
inputs:
  score: {type: NUMBER, required: true}
nodes:
  - id: choose
    uses: switch
    cases:
      - when: ${inputs.score * 2.0 > 1.5}
        nodes:
          - {id: high, uses: python, with: {function: double, arguments: {value: "${inputs.score}"}}}
        output: ${steps.high.output.value}
      - when: ${inputs.score < 0.0}
        output: negative
      - output: {kind: low, score: "${inputs.score}"}
output: ${steps.choose.output}
"""


async def test_a_switch_runs_the_first_true_case(harness: WorkflowHarness) -> None:
    assert await output(harness, SWITCH, score=1) == 2.0
    assert await output(harness, SWITCH, score=-1.5) == "negative"
    assert await output(harness, SWITCH, score=0.5) == {"kind": "low", "score": 0.5}
    with pytest.raises(InvalidRequest, match="'score' must be a number"):
        await harness.start(0, template="route", score=True)


LOOP = """
name: grow
description: Doubles until it is large.
inputs:
  limit: {type: INTEGER, default: 20}
nodes:
  - id: again
    uses: loop
    with: {max_iterations: 5}
    until: ${steps.twice.output.value >= inputs.limit}
    nodes:
      - id: twice
        uses: python
        with: {function: double, arguments: {value: "${index == 0 ? 2 : previous}"}}
    output: ${steps.twice.output.value}
output: ${steps.again.output}
"""


async def test_a_loop_ends_when_its_condition_is_true_or_fails_at_its_bound(harness: WorkflowHarness) -> None:
    run = await finished(harness, LOOP)
    assert json_value(run.output) == 32
    assert [s.id for s in run.steps] == ["again", *(f"again.{i}.twice" for i in range(4))]
    run = await finished(harness, LOOP, limit=1000)
    assert run.state == FAILED
    assert "the step 'again' failed" in run.error and "is not true after 5 iterations" in run.error
    assert {s.id: s.state for s in run.steps}["again"] == FAILED


MAP = """
name: each
description: Doubles each value.
inputs:
  values: {type: LIST, required: true}
nodes:
  - id: all
    uses: map
    with: {items: "${inputs.values.filter(v, v > 0)}", concurrency: 2}
    nodes:
      - {id: one, uses: python, with: {function: double, arguments: {value: "${item}"}}}
      - id: two
        uses: python
        needs: [one]
        with: {function: double, arguments: {value: "${steps.one.output.value + index}"}}
    output: "${string(index)}: ${steps.two.output.value}"
  - id: sum
    uses: python
    needs: [all]
    with: {function: double, arguments: {value: "${steps.all.output.size()}"}}
output: ["${steps.all.output}", "${steps.sum.output.value}"]
"""


async def test_a_map_runs_its_body_for_each_item_and_keeps_the_order(harness: WorkflowHarness) -> None:
    assert await output(harness, MAP, values=[1, -1, 2, 3]) == [["0: 4", "1: 10", "2: 16"], 6]
    assert await output(harness, MAP, values=[]) == [[], 0]


CHAIN = """
name: cite
description: Retrieves passages and writes about them.
inputs:
  question: {type: STRING, required: true}
nodes:
  - {id: find, uses: retrieve, with: {collection: desk, question: "${inputs.question}"}}
  - id: write
    uses: model
    needs: [find]
    with: {prompt: "Answer: ${inputs.question}", passages: "${steps.find.output.passages}"}
    output_schema: {type: object, properties: {text: {type: string, minLength: 1}}, required: [text]}
output: {passages: "${steps.find.output.found}", text: "${steps.write.output.text}",
         supported: "${steps.write.output.supported}", wrong: "${steps.write.output.unsupported_figures}",
         quotes: "${steps.write.output.sentences.map(sentence, sentence.quote)}"}
"""


async def test_a_model_is_given_passages_and_its_sentences_are_checked(harness: WorkflowHarness) -> None:
    answer = await output(harness, CHAIN, question="what is 1 of 2")
    assert answer == {"passages": 1, "text": "Answer: what is", "supported": False, "wrong": [], "quotes": [""]}
    assert harness.doubles.serving.prompts == ["[1] Found: what is 1 of 2\n\nAnswer: what is 1 of 2"]
    answer = await output(harness, CHAIN.replace("Answer: ", ""), question="quarterly revenue rises again")
    assert answer["quotes"] == ["Found: quarterly revenue rises again"]
    assert answer["supported"]


async def test_an_output_that_breaks_its_schema_fails_the_step(harness: WorkflowHarness) -> None:
    run = await finished(harness, CHAIN.replace("minLength: 1}", "maxLength: 3}"), question="why is it")
    assert run.state == FAILED
    assert "its output does not match output_schema: text breaks the rule" in run.error
    assert "Answer" not in run.error


async def test_a_failed_function_does_not_show_its_message(harness: WorkflowHarness) -> None:
    source = SWITCH.replace("function: double", "function: fail")
    run = await finished(harness, source, score=1)
    assert run.error == "the step 'choose.0.high' failed: the function 'fail' raised ValueError"
    states = {s.id: s.state for s in run.steps}
    assert states == {"choose": CANCELLED, "choose.0.high": FAILED}


APPROVAL = """
name: sign
description: Waits for approvals.
nodes:
  - id: ok
    uses: approval
    with: {title: "Release memo", details: {amount: 5}, quorum: 2, deadline_seconds: 600}
  - {id: after, uses: python, needs: [ok], with: {function: double, arguments: {value: 2}}}
output: {by: "${steps.ok.output.votes.map(v, v.key)}", value: "${steps.after.output.value}"}
"""


async def waiting_run(harness: WorkflowHarness, source: str = APPROVAL) -> Any:
    """Start a run; return it when it waits for approval."""
    await harness.put(source)
    run = await harness.start(0, template="sign")

    async def waits() -> bool:
        try:
            await harness.decide(run, "ok", harness.caller.key, Vote.APPROVE)
        except NotFound:
            return False
        except Forbidden:
            return True
        raise AssertionError("the key that started the run approved it")

    await until(waits, "the approval")
    return run


async def test_an_approval_needs_other_keys_and_its_quorum(harness: WorkflowHarness) -> None:
    run = await waiting_run(harness)
    first = await harness.decide(run, "ok", "oidc:corp:a", Vote.APPROVE, "fine")
    assert (first.state, first.quorum, json_value(first.details)) == (Approval.PENDING, 2, {"amount": 5})
    again = await harness.decide(run, "ok", "oidc:corp:a", Vote.APPROVE)
    assert again.state == Approval.PENDING and len(again.votes) == 1
    with pytest.raises(Conflict, match="has decided approve"):
        await harness.decide(run, "ok", "oidc:corp:a", Vote.REJECT)
    assert (await harness.get(run)).state == RUNNING
    assert (await harness.decide(run, "ok", "oidc:corp:b", Vote.APPROVE)).state == Approval.APPROVED
    ended = await harness.wait_until_ended(run)
    assert json_value(ended.output) == {"by": ["oidc:corp:a", "oidc:corp:b"], "value": 4}
    with pytest.raises(Conflict, match="is closed: approved"):
        await harness.decide(run, "ok", "oidc:corp:c", Vote.APPROVE)
    assert len(harness.audit("approval.request")) == 1
    assert {r["actor"] for r in harness.audit("approval.vote")} == {"oidc:corp:a", "oidc:corp:b"}
    assert "fine" not in str(harness.audit("approval.vote"))


async def test_one_rejection_fails_the_run_or_is_an_output(harness: WorkflowHarness) -> None:
    run = await waiting_run(harness)
    await harness.decide(run, "ok", "oidc:corp:a", Vote.REJECT, "too large")
    ended = await harness.wait_until_ended(run)
    assert (ended.state, ended.error) == (FAILED, "the step 'ok' failed: rejected by oidc:corp:a: too large")
    assert {s.id: s.state for s in ended.steps} == {"ok": FAILED, "after": CANCELLED}
    run = await waiting_run(harness, APPROVAL.replace("quorum: 2", "if_denied: continue"))
    await harness.decide(run, "ok", "oidc:corp:a", Vote.REJECT)
    ended = await harness.wait_until_ended(run)
    assert ended.state == SUCCEEDED, ended.error


async def test_a_passed_deadline_denies(harness: WorkflowHarness) -> None:
    await harness.put(APPROVAL.replace("deadline_seconds: 600", "deadline_seconds: 1"))
    ended = await harness.wait_until_ended(await harness.start(0, template="sign"))
    assert ended.error == "the step 'ok' failed: the deadline has passed: 0 of 2 approvals"
    assert [r["outcome"] for r in harness.audit("approval.expire")] == ["denied"]


async def test_a_stranger_cannot_approve(harness: WorkflowHarness) -> None:
    run = await waiting_run(harness)
    caller = harness.caller
    for stranger in (replace(caller, desk="other"), replace(caller, org="other")):
        harness.caller = stranger
        with pytest.raises(NotFound, match="there is no run"):
            await harness.decide(run, "ok", "oidc:corp:s", Vote.APPROVE)
        harness.caller = caller
    await harness.cancel(run)
    with pytest.raises(Conflict, match="the run has ended"):
        await harness.decide(run, "ok", "oidc:corp:a", Vote.APPROVE)


PARENT = """
name: parent
description: Starts another run.
nodes:
  - {id: child, uses: workflow, with: {template: grow, inputs: {limit: 5}}}
output: ${steps.child.output + 1}
"""


async def test_a_workflow_node_returns_the_output_of_the_child_run(harness: WorkflowHarness) -> None:
    await harness.put(LOOP)
    assert await output(harness, PARENT) == 9
    run = await finished(harness, PARENT.replace("limit: 5", "limit: 1000"))
    assert run.state == FAILED and "is not true after 5 iterations" in run.error


async def test_cancelling_a_run_cancels_its_children(harness: WorkflowHarness) -> None:
    await harness.put(APPROVAL)
    await harness.put(PARENT.replace("template: grow, inputs: {limit: 5}", "template: sign").replace(" + 1", ""))
    run = await harness.start(0, template="parent")

    async def child_waits() -> bool:
        return len(harness.audit("approval.request")) == 1

    await until(child_waits, "the child")
    await harness.cancel(run)
    ends = {r["resource"]: r["outcome"] for r in harness.audit("run.end")}
    assert len(ends) == 2 and set(ends.values()) == {"cancelled"}


async def test_a_wait_ends_at_its_time(harness: WorkflowHarness) -> None:
    source = "name: w\ndescription: Waits.\nnodes: [{id: w, uses: wait, with: {seconds: 0.2}}]\noutput: ${run.id}\n"
    run = await finished(harness, source)
    assert json_value(run.output) == run.id
    run = await finished(harness, source.replace("seconds: 0.2", "until: tomorrow"))
    assert "it must be a time with a zone" in run.error


async def test_a_run_keeps_the_version_of_its_template(harness: WorkflowHarness) -> None:
    run = await waiting_run(harness)
    changed = await harness.put(APPROVAL.replace("value: 2}", "value: 50}"))
    assert changed.version != run.template_version
    for key in ("oidc:corp:a", "oidc:corp:b"):
        await harness.decide(run, "ok", key, Vote.APPROVE)
    assert json_value((await harness.wait_until_ended(run)).output)["value"] == 4
    assert await step_is(harness, run, "after", SUCCEEDED)
