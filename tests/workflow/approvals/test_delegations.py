"""Delegation: for one approval or for a time, with a bounded chain of persons who each still have the right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.approvals_pb2 import (
    Approval,
    CreateDelegationRequest,
    EndDelegationRequest,
    ListDelegationsRequest,
)
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration.approvals import delegations
from support.gateway.keys import issued
from workflow.approvals.persons import World, approval_world
from workflow.approvals.test_persons import SIGN

OFFICERS = SIGN.replace("quorum: 2", 'quorum: 2, approvers: ["desk:risk"]')


@pytest.fixture
async def world(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[World]:
    async with approval_world(profile, folder, caller) as world:
        yield world


async def listed(world: World, person: Principal) -> list[str]:
    with acting_for(person):
        listed = (await world.client.list_delegations(ListDelegationsRequest())).delegations
    return [delegation.id for delegation in listed]


async def test_a_delegate_decides_one_approval_for_its_approver(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer, other, colleague = await world.person(desk="risk"), await world.person(desk="risk"), await world.person()
    delegation = await world.delegate(officer, colleague, run)
    assert (delegation.approver, delegation.delegate) == (officer.key, colleague.key)
    voted = await world.decide(run, colleague)
    assert (voted.state, voted.votes[0].on_behalf_of) == (Approval.PENDING, officer.key)
    with pytest.raises(Forbidden, match="same person"):  # its right is used
        await world.decide(run, officer)
    assert (await world.decide(run, other)).state == Approval.APPROVED
    records = world.harness.audit("approval.vote")
    assert [r["details"].get("chain") for r in records if r["actor"] == colleague.key] == [[officer.key]]
    assert len(world.harness.audit("approval.delegate")) == 1


async def test_a_delegation_covers_all_approvals_for_a_time_and_ends(world: World) -> None:
    officer, colleague = await world.person(desk="risk"), await world.person()
    delegation = await world.delegate(officer, colleague, ttl_seconds=3600)
    run = await world.waiting(OFFICERS)
    assert (await world.decide(run, colleague)).votes[0].on_behalf_of == officer.key
    assert await listed(world, colleague) == await listed(world, officer) == [delegation.id]
    stranger = await world.person()
    for person, refusal in ((stranger, Forbidden), (replace(stranger, org="other", desk="risk"), NotFound)):
        with acting_for(replace(person, desk="risk")), pytest.raises(refusal):
            await world.client.end_delegation(EndDelegationRequest(delegation=delegation.id))
    with acting_for(officer):
        await world.client.end_delegation(EndDelegationRequest(delegation=delegation.id))
        await world.client.end_delegation(EndDelegationRequest(delegation=delegation.id))
    assert await listed(world, officer) == []
    later = await world.waiting(OFFICERS)
    with pytest.raises(Forbidden, match="is to be decided by desk:risk"):
        await world.decide(later, colleague)
    assert len(world.harness.audit("approval.delegation_end")) == 1


async def test_an_expired_delegation_gives_no_right(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer, colleague = await world.person(desk="risk"), await world.person()
    await world.delegate(officer, colleague, run)
    with psycopg.connect(world.harness.profile.postgres) as connection:
        connection.execute("update orchestration.delegation set expires_at = now()")
    with pytest.raises(Forbidden, match="is to be decided by desk:risk"):
        await world.decide(run, colleague)


async def test_the_starter_never_becomes_an_approver_by_delegation(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer, colleague = await world.person(desk="risk"), await world.person()
    second_key = await world.person(by=world.starter)
    for own in (world.starter, second_key):
        with pytest.raises(Forbidden, match="same person"):
            await world.delegate(officer, own, run)
        await world.delegate(officer, own)  # for other runs
        with pytest.raises(Forbidden, match="started the run|same person"):
            await world.decide(run, own)
    await world.delegate(world.starter, colleague)
    mine = await world.waiting(SIGN.replace("quorum: 2", f'approvers: ["caller:{world.starter.key}"]'))
    with pytest.raises(Forbidden, match="same person"):  # its approver is the starter
        await world.decide(mine, colleague)
    with pytest.raises(Forbidden, match="started the run"):
        await world.delegate(world.starter, colleague, run)


async def test_a_delegation_does_not_make_one_person_two(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer, other, colleague = await world.person(desk="risk"), await world.person(desk="risk"), await world.person()
    with pytest.raises(Forbidden, match="same person"):
        await world.delegate(officer, await world.person(desk="risk", by=officer), run)
    for approver in (officer, other):
        await world.delegate(approver, colleague, run)
    assert (await world.decide(run, colleague)).state == Approval.PENDING
    assert len((await world.decide(run, colleague)).votes) == 1
    second_key = await world.person(by=colleague)
    await world.delegate(other, second_key, run)
    with pytest.raises(Forbidden, match="same person"):
        await world.decide(run, second_key)


async def test_the_delegate_must_be_entitled(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer = await world.person(desk="risk")
    weak = await issued(world.harness.host, "workflows:read")
    revoked = await world.person()
    await world.revoke(revoked)
    unknown, elsewhere = replace(weak, key="key_unknown"), replace(await world.person(), desk="risk")
    for nobody in (weak, revoked, unknown, elsewhere):
        with pytest.raises(Forbidden, match="cannot decide: it needs a valid key with the scope"):
            await world.delegate(officer, nobody, run)
    for stranger in (await world.person(), replace(officer, org="other")):
        with pytest.raises((Forbidden, NotFound)):  # they have no right to pass on
            await world.delegate(stranger, await world.person(), run)
    with acting_for(officer), pytest.raises(InvalidRequest, match="both be set"):
        await world.client.create_delegation(CreateDelegationRequest(delegate=weak.key, run=run.id))


async def test_a_right_passes_through_few_persons_who_all_still_have_theirs(world: World) -> None:
    run = await world.waiting(OFFICERS)
    officer = await world.person(desk="risk")
    chain = [officer, *[await world.person() for _ in range(4)]]
    passed_on = [await world.delegate(chain[i], chain[i + 1], run) for i in range(3)]
    assert passed_on[2].approver == officer.key
    with pytest.raises(Conflict, match="has gone through 3 persons"):
        await world.delegate(chain[3], chain[4], run)
    with acting_for(chain[0]):
        await world.client.end_delegation(EndDelegationRequest(delegation=passed_on[0].id))
    with pytest.raises(Forbidden, match="is to be decided by"):  # it ends those that were passed on from it
        await world.decide(run, chain[3])
    passed_on = [await world.delegate(chain[i], chain[i + 1], run) for i in range(2)]
    await world.revoke(chain[1])
    with pytest.raises(Forbidden, match="it needs a valid key"):
        await world.decide(run, chain[2])


async def test_delegations_of_a_key_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegations, "MAX_DELEGATIONS", 2)
    officer, colleague = await world.person(desk="risk"), await world.person()
    for _ in range(2):
        await world.delegate(officer, colleague)
    with pytest.raises(RateLimited, match="has 2 delegations"):
        await world.delegate(officer, colleague)
