"""Who can decide: persons instead of keys, approvers, escalation, tenants and walls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.approvals_pb2 import Approval, Vote
from drw.api.workflow.v1.orchestration_pb2 import (
    FAILED,
    POLICY,
    SUCCEEDED,
    CancelRunRequest,
    ForkRunRequest,
    RestartRunRequest,
    RetryRunRequest,
    Run,
)
from drw.kernel.errors import Conflict, Forbidden, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from support.gateway.keys import rotated
from workflow.approvals.persons import World, approval_world
from workflow.doubles import until

SIGN = """
name: sign
description: Waits for approvals.
nodes:
  - id: ok
    uses: approval
    with: {title: "Release memo", quorum: 2, deadline_seconds: 600}
output: {by: "${steps.ok.output.votes.map(v, v.key)}"}
"""
OTHER_DESK = SIGN.replace("quorum: 2", 'quorum: 1, approvers: ["desk:risk"]')
ESCALATED = SIGN.replace(
    "quorum: 2, deadline_seconds: 600",
    'deadline_seconds: 1, approvers: ["scope:limits:write"], escalation: [{to: ["desk:risk"], deadline_seconds: 600}]',
)


@pytest.fixture
async def world(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[World]:
    async with approval_world(profile, folder, caller) as world:
        yield world


async def test_a_quorum_of_two_needs_two_persons_however_many_keys_they_have(world: World) -> None:
    run = await world.waiting(SIGN)
    own_child = await world.person(by=world.starter)
    for own in (world.starter, own_child, await rotated(world.harness.host, world.starter)):
        with pytest.raises(Forbidden, match="started the run|same person"):
            await world.decide(run, own)
    ann = await world.person()
    assert (await world.decide(run, ann)).state == Approval.PENDING
    second_key = await world.person(by=ann)
    for same in (second_key, await rotated(world.harness.host, second_key)):
        for decision in (Vote.APPROVE, Vote.REJECT):
            with pytest.raises(Forbidden, match="same person"):
                await world.decide(run, same, decision)
    unknown = replace(ann, key="key_unknown")
    with pytest.raises(Forbidden, match="not on record"):
        await world.decide(run, unknown)
    assert (await world.decide(run, ann)).state == Approval.PENDING  # the same decision again
    bob = await world.person()
    assert (await world.decide(run, bob)).state == Approval.APPROVED
    ended = await world.harness.wait_until_ended(run)
    assert json_value(ended.output) == {"by": [ann.key, bob.key]}


async def test_who_started_a_run_cannot_approve_its_restart(world: World) -> None:
    first, ann, bob = world.starter, await world.person(), await world.person()
    run = await world.waiting(SIGN.replace("quorum: 2", "quorum: 1"))
    await world.decide(run, bob, Vote.REJECT)
    assert (await world.harness.wait_until_ended(run)).state == FAILED
    with acting_for(ann):
        restart = await world.client.restart_run(RestartRunRequest(run=run.id, request_id="again"))
    await until(lambda: world.waits(restart), "the approval")
    delete_run(world, run.id)  # as retention does: who started it is not forgotten
    for starter in (first, ann):
        with pytest.raises(Forbidden, match="started the run|same person"):
            await world.decide(restart, starter)
    assert (await world.decide(restart, bob)).state == Approval.APPROVED


def delete_run(world: World, run: str) -> None:
    with psycopg.connect(world.harness.profile.postgres) as connection:
        connection.execute("delete from orchestration.run where id = %s", (run,))


async def test_another_desk_decides_if_the_author_names_it(world: World) -> None:
    run = await world.waiting(OTHER_DESK)
    colleague, officer = await world.person(), await world.person(desk="risk")
    with pytest.raises(Forbidden, match="is to be decided by desk:risk"):
        await world.decide(run, colleague)
    assert [approval.run for approval in await world.listed(officer)] == [run.id]
    assert (await world.decide(run, officer)).state == Approval.APPROVED
    assert (await world.harness.wait_until_ended(run)).state == SUCCEEDED


async def test_a_passed_deadline_escalates_to_other_approvers(world: World) -> None:
    run = await world.waiting(ESCALATED)
    member, officer = await world.person(), await world.person(desk="risk")
    with pytest.raises(Forbidden, match="is to be decided by"):
        await world.decide(run, member)

    async def escalated() -> bool:
        return any(approval.escalations == 1 for approval in await world.listed(officer))

    await until(escalated, "the escalation")
    with pytest.raises(Forbidden, match="is to be decided by desk:risk"):
        await world.decide(run, await world.person("limits:write"))
    assert (await world.decide(run, officer)).state == Approval.APPROVED
    assert (await world.harness.wait_until_ended(run)).state == SUCCEEDED
    (record,) = world.harness.audit("approval.escalate")
    assert record["details"] == {"from": ["scope:limits:write"], "to": ["desk:risk"]}


async def test_a_denied_approval_is_a_failure_of_policy(world: World) -> None:
    run = await world.waiting(SIGN)
    await world.decide(run, await world.person(), Vote.REJECT)
    ended = await world.harness.wait_until_ended(run)
    assert (ended.state, {step.id: step.failure_class for step in ended.steps}) == (FAILED, {"ok": POLICY})
    late = await world.waiting(ESCALATED.replace("deadline_seconds: 600", "deadline_seconds: 1"))
    ended = await world.harness.wait_until_ended(late)
    assert ended.error == "the step 'ok' failed: the deadline has passed: 0 of 1 approvals"
    assert {step.id: step.failure_class for step in ended.steps} == {"ok": POLICY}


async def test_strangers_see_no_approval(world: World) -> None:
    run = await world.waiting(OTHER_DESK)
    officer = await world.person(desk="risk")
    for stranger in (replace(officer, desk="equities"), replace(officer, org="other")):
        assert await world.listed(stranger) == []
        with pytest.raises(NotFound, match="there is no run"):
            await world.decide(run, stranger)
    world.starter = replace(world.starter, walls=frozenset({"m-and-a"}))
    walled = await world.waiting(OTHER_DESK)
    assert [approval.run for approval in await world.listed(officer)] == [run.id]
    with pytest.raises(NotFound, match="there is no run"):
        await world.decide(walled, officer)
    assert (await world.decide(walled, await world.person(desk="risk", walls=["m-and-a"]))).state == Approval.APPROVED
    with pytest.raises(Conflict, match="is closed: approved"):
        await world.decide(walled, await world.person(desk="risk", walls=["m-and-a"]))


PARENT = """
name: parent
description: Starts a run that waits for approvals.
nodes: [{id: child, uses: workflow, with: {template: sign}}]
output: 1
"""


async def test_whoever_started_a_run_cannot_decide_its_forks_and_retries(world: World) -> None:
    run = await world.waiting(SIGN)
    ann, bob = await world.person(), await world.person()
    with acting_for(world.starter):
        await world.client.cancel_run(CancelRunRequest(run=run.id))
    with acting_for(ann):
        fork = await world.client.fork_run(ForkRunRequest(run=run.id))
        await until(lambda: world.waits(fork), "the approval of the fork")
        await world.client.cancel_run(CancelRunRequest(run=fork.id))
    with acting_for(bob):
        retry = await world.client.retry_run(RetryRunRequest(run=fork.id))
    await until(lambda: world.waits(retry), "the approval of the retry")
    for starter in (world.starter, await world.person(by=world.starter), ann, bob):
        with pytest.raises(Forbidden, match="started the run|same person"):
            await world.decide(retry, starter)
    assert (await world.decide(retry, await world.person())).state == Approval.PENDING


async def test_whoever_started_a_run_cannot_decide_in_child_runs_of_its_forks(world: World) -> None:
    run = await world.waiting(SIGN)
    with acting_for(world.starter):
        await world.client.cancel_run(CancelRunRequest(run=run.id))
    await world.harness.put(PARENT)
    parent = await world.harness.start(0, template="parent")
    await until(lambda: _has_child(world), "the child run")
    ann = await world.person()
    with acting_for(world.starter):
        await world.client.cancel_run(CancelRunRequest(run=parent.id))
    with acting_for(ann):
        await world.client.fork_run(ForkRunRequest(run=parent.id))
    await until(lambda: _has_child(world), "the child run of the fork")
    (approval,) = await world.listed(ann)
    assert approval.started_by == ann.key
    with pytest.raises(Forbidden, match="same person"):
        await world.decide(Run(id=approval.run), world.starter)
    assert (await world.decide(Run(id=approval.run), await world.person())).state == Approval.PENDING


async def _has_child(world: World) -> bool:
    return bool(await world.listed(world.starter))
