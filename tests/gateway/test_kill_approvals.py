"""Approvals of kills: by different principals, never by the subject, and only by the platform for its own kills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import PutDeskRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.gateway.authentication.keys.lineage import KeyLineage
from drw.gateway.request_router.kills import switch
from drw.gateway.request_router.kills.settings import KillLimits
from drw.gateway.request_router.kills.switch import as_block
from drw.kernel.errors import Conflict, Forbidden, NotFound, RateLimited, Unavailable
from drw.kernel.rpc.context import SCOPES, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from gateway.test_kills import SERVICES, TWO_APPROVALS, Switch, expire_proposals, settings
from support.database.locks import until_locks_wait
from support.gateway.keys import issued, register_identity, rotated
from support.hosting import hosted
from support.json_types import Json

TWO_APPROVALS_OF_ALL = {
    "desk": {"kill": 2, "lift": 2},
    "key": {"kill": 2, "lift": 2},
    **TWO_APPROVALS["request_router"]["kill_approvals"],
}
CREATOR_SCOPES = ("keys:write", "keys:read")


def limited(profile: Profile, **limits: int) -> Profile:
    return settings(profile, request_router={"kill_limits": limits})


@pytest.fixture
async def two_approvals(profile: Profile) -> AsyncIterator[Host]:
    """A host whose policy requires two approvals of every kill and lift, with two more desks."""
    async with hosted(settings(profile, request_router={"kill_approvals": TWO_APPROVALS_OF_ALL}), SERVICES) as host:
        await desks(host)
        yield host


@pytest.fixture
async def one_approval(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as host:
        await desks(host)
        yield host


async def desks(host: Host) -> None:
    with acting_for(OPERATOR):
        for name in ("ops", "beta"):
            desk = PutDeskRequest(org="acme", name=name, scopes=sorted(SCOPES))
            await host.client(AuthenticationClient).put_desk(desk)


async def operations(host: Host, *scopes: str, **fields: Json) -> Switch:
    return await Switch.of_key(host, *scopes, desk="ops", **fields)


async def test_keys_of_one_principal_count_as_one_approval(two_approvals: Host) -> None:
    first = await operations(two_approvals, *CREATOR_SCOPES)
    successor = Switch(two_approvals, await rotated(two_approvals, first.principal))
    child = await operations(two_approvals, *CREATOR_SCOPES, by=first.principal)
    grandchild = await operations(two_approvals, by=child.principal)
    sibling = await operations(two_approvals, by=successor.principal)
    colleague = await issued(two_approvals, "platform:kill", *CREATOR_SCOPES, desk="ops")
    stolen = Switch(two_approvals, await rotated(two_approvals, colleague, by=first.principal))
    kill = await first.kill("DESK", "beta")
    for same in (successor, child, grandchild, sibling, stolen):
        with pytest.raises(Conflict, match="of the same principal as"):
            await same.approve(kill)
        assert (await same.kill("DESK", "beta")).state == Kill.PROPOSED
    second = await operations(two_approvals)
    assert (await second.approve(kill)).state == Kill.ACTIVE
    assert (await grandchild.lift(kill)).approvals_missing == 1
    for same in (first, successor, child):
        with pytest.raises(Conflict, match="of the same principal as"):
            await same.approve(kill)
        assert (await same.lift(kill)).state == Kill.ACTIVE
    assert (await second.lift(kill)).state == Kill.LIFTED


async def test_an_administrator_cannot_approve_with_an_issued_key_but_two_holders_can(two_approvals: Host) -> None:
    admin = Switch(
        two_approvals, await issued(two_approvals, "platform:kill", "org:admin", *CREATOR_SCOPES, desk="ops")
    )
    one, other = [await operations(two_approvals, by=admin.principal) for _ in range(2)]
    again = Switch(two_approvals, await rotated(two_approvals, admin.principal))
    for first, second in ((admin, one), (one, admin), (again, one), (one, again)):
        kill = await first.kill("DESK", "beta")
        with pytest.raises(Conflict, match="of the same principal as"):
            await second.approve(kill)
        await first.lift(kill)
    kill = await one.kill("DESK", "beta")
    assert (await other.approve(kill)).state == Kill.ACTIVE


async def test_external_callers_and_keys_that_they_created_are_one_principal(two_approvals: Host) -> None:
    person = await operations(two_approvals)
    for name in ("oidc:corp:ann", "cert:runner"):
        await register_identity(two_approvals, name)
        outside = person.by(key=name, scopes=frozenset({"platform:kill", "keys:write"}))
        own_kill = await operations(two_approvals, by=outside.principal)
        kill = await outside.kill("DESK", "beta")
        with pytest.raises(Conflict, match="of the same principal as"):
            await own_kill.approve(kill)
        assert (await outside.by(key=f"{name}x").approve(kill)).state == Kill.ACTIVE
        await outside.lift(kill)
        assert (await person.lift(kill)).state == Kill.LIFTED


async def test_an_approval_is_attributed_after_its_key_is_deleted(two_approvals: Host, profile: Profile) -> None:
    first = await operations(two_approvals, *CREATOR_SCOPES)
    kill = await first.kill("DESK", "beta")
    successor = Switch(two_approvals, await rotated(two_approvals, first.principal, overlap_seconds=0))
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("delete from authentication.key where id = %s", (first.principal.key,))
    with pytest.raises(Conflict, match="of the same principal as"):
        await successor.approve(kill)


async def test_callers_without_recorded_lineage_cannot_approve(
    two_approvals: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await operations(two_approvals) for _ in range(2)]
    kill = await first.kill("DESK", "beta")
    unknown = first.by(key="key_unknown")
    for act in (unknown.approve, unknown.lift):
        with pytest.raises(Forbidden, match="not on record"):
            await act(kill)
    orphan = await operations(
        two_approvals, by=replace(unknown.principal, scopes=frozenset({"platform:kill", "keys:write"}))
    )
    with pytest.raises(Forbidden, match="not on record"):
        await orphan.approve(kill)

    async def unavailable(*args: object) -> None:
        raise Unavailable("authentication does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(KeyLineage, "compare", unavailable)
        with pytest.raises(Unavailable):
            await second.approve(kill)
    assert (await second.get(kill)).state == Kill.PROPOSED


async def test_the_subject_cannot_approve_lift_or_withdraw_its_kill(two_approvals: Host) -> None:
    ops = await operations(two_approvals)
    other = await operations(two_approvals)
    beta = await Switch.of_key(two_approvals, "org:admin", *CREATOR_SCOPES, desk="beta")
    child = await operations(two_approvals, by=beta.principal)
    target = await operations(two_approvals, *CREATOR_SCOPES)
    heirs = [
        Switch(two_approvals, await rotated(two_approvals, target.principal)),
        await operations(two_approvals, by=target.principal),
    ]
    desk, key = await ops.kill("DESK", "beta"), await ops.kill("KEY", target.principal.key)
    for kill, subjects in ((desk, (beta, child)), (key, (target, *heirs))):
        for subject in subjects:
            for act in (subject.approve, subject.lift):
                with pytest.raises(Forbidden, match="must decide about it"):
                    await act(kill)
        assert (await ops.get(kill)).state == Kill.PROPOSED
        await other.approve(kill)
        for subject in subjects:
            with pytest.raises(Forbidden, match="must decide about it"):
                await subject.lift(kill)
        await ops.lift(kill)
        for subject in subjects:
            with pytest.raises(Forbidden, match="must decide about it"):
                await subject.approve(kill)
        assert (await other.approve(kill)).state == Kill.LIFTED


async def test_the_issuer_of_a_key_can_lift_its_kill(one_approval: Host) -> None:
    admin = await operations(one_approval, "org:admin", *CREATOR_SCOPES)
    clerk = await operations(one_approval, *CREATOR_SCOPES)
    issued_to = await issued(one_approval, "keys:read", by=admin.principal)
    assert (await admin.lift(await admin.kill("KEY", issued_to.key))).state == Kill.LIFTED
    own_kill = await issued(one_approval, "keys:read", by=clerk.principal, desk="ops")
    kill = await clerk.kill("KEY", own_kill.key)
    with pytest.raises(Forbidden, match="must decide about it"):
        await clerk.lift(kill)
    assert (await admin.lift(kill)).state == Kill.LIFTED


async def test_a_proposal_is_withdrawn_by_its_proposer_or_a_possible_approver(two_approvals: Host) -> None:
    first, second = [await operations(two_approvals) for _ in range(2)]
    assert (await first.lift(await first.kill("DESK", "beta"))).state == Kill.WITHDRAWN
    assert (await second.lift(await first.kill("DESK", "beta"))).state == Kill.WITHDRAWN
    platform = await operations(two_approvals, "platform:admin")
    kill = await platform.kill("DESK", "beta")
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await first.lift(kill)
    assert (await platform.lift(kill)).state == Kill.WITHDRAWN
    # The platform becomes the owner of an org's proposal when it requests the same kill.
    kill = await first.kill("DESK", "beta")
    assert (await platform.kill("DESK", "beta")).by_platform
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await first.lift(kill)


async def test_a_kill_of_a_model_or_workflow_applies_to_the_callers_org(one_approval: Host) -> None:
    acme, platform = await operations(one_approval), await operations(one_approval, "platform:admin")
    other = acme.by(org="other", desk="d", key="oidc:x:y")
    for subject, name in (("MODEL", "large"), ("WORKFLOW", "digest")):
        own_kill = await acme.kill(subject, name)
        assert (own_kill.org, own_kill.by_platform, own_kill.state) == ("acme", False, Kill.ACTIVE)
        assert await other.shown() == []
        for act in (other.get, other.approve, other.lift):
            with pytest.raises(NotFound):
                await act(own_kill)
        with pytest.raises(Forbidden, match="belongs to the org 'other', not to 'acme'"):
            await other.kill(subject, name, org="acme")
        everywhere = await platform.kill(subject, name)
        assert (everywhere.org, everywhere.by_platform) == ("", True) and everywhere.id != own_kill.id
        assert await other.shown() == [everywhere.id] and await acme.shown() == [everywhere.id, own_kill.id]
        for org in (acme, other):
            with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
                await org.lift(everywhere)
        assert (await acme.lift(own_kill)).state == (await platform.lift(everywhere)).state == Kill.LIFTED
        named = await platform.kill(subject, name, org="other")
        with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
            await other.lift(named)
        assert (await platform.lift(named)).state == Kill.LIFTED


async def test_an_org_cannot_lift_a_kill_of_the_platform(one_approval: Host) -> None:
    acme, platform = await operations(one_approval), await operations(one_approval, "platform:admin")
    kill = await acme.kill("KEY", "key_bad")
    assert (await platform.kill("KEY", "key_bad", org="acme")).id == kill.id
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await acme.lift(kill)
    assert (await platform.lift(kill)).state == Kill.LIFTED


def test_a_kill_becomes_a_block_with_its_org() -> None:
    killed = Kill(subject="MODEL", org="acme", name="large", state="ACTIVE")
    assert as_block(killed) == Block(subject="MODEL", org="acme", name="large", reason="KILLED")
    assert as_block(Kill(subject="WORKFLOW", org="acme", name="digest")) is None


async def test_kill_limits_apply_per_org_and_reserve_kills_for_the_platform(profile: Profile) -> None:
    async with hosted(limited(profile, per_org=2, total=6, reserve=2), SERVICES) as host:
        await desks(host)
        acme, platform = await operations(host), await operations(host, "platform:admin")
        others = [acme.by(org=org, desk="d", key=f"oidc:{org}:x") for org in ("b", "c")]
        kills = [await acme.kill("KEY", f"junk-{n}") for n in range(2)]
        with pytest.raises(RateLimited, match=r"the org 'acme' has 2 active .* \(kill_limits.per_org\)"):
            await acme.kill("KEY", "junk-2")
        assert (await acme.kill("KEY", "junk-0")).id == kills[0].id  # it exists already
        for n in range(2):
            await others[0].kill("KEY", f"junk-{n}")
        with pytest.raises(
            RateLimited, match=r"all orgs together have 4 active .* \(kill_limits.total less its reserve"
        ):
            await others[1].kill("KEY", "one")
        # Kills of the platform do not count for the org.
        first = await platform.kill("KEY", "one", org="acme")
        await platform.kill("KEY", "two", org="c")
        with pytest.raises(RateLimited, match=r"all orgs together have 6 active .* \(kill_limits.total\)"):
            await platform.kill("KEY", "three", org="c")
        await platform.lift(first)
        await acme.lift(kills[0])
        assert (await others[1].kill("KEY", "one")).state == Kill.ACTIVE


async def test_expired_proposals_do_not_count_and_are_listed_in_pages(profile: Profile) -> None:
    policy = {"kill_approvals": TWO_APPROVALS_OF_ALL, "kill_limits": {"per_org": 3, "total": 10, "reserve": 1}}
    async with hosted(settings(profile, request_router=policy), SERVICES) as host:
        await desks(host)
        acme = await operations(host)
        proposals = [await acme.kill("KEY", f"junk-{n}") for n in range(3)]
        expire_proposals(profile)
        assert await acme.shown() == []
        renewed = await acme.kill("KEY", "junk-0")
        assert renewed.id != proposals[0].id and await acme.shown() == [renewed.id]
        listed: list[tuple[str, Kill.State]] = []
        token = ""
        while len(listed) < 4:
            page = await acme.page(all=True, page_size=2, page_token=token)
            assert len(page.kills) == 2
            listed, token = listed + [(k.id, k.state) for k in page.kills], page.next_page_token
        assert token == "" and listed == [
            (renewed.id, Kill.PROPOSED),
            *((k.id, Kill.EXPIRED) for k in reversed(proposals)),
        ]
        everything = await (await operations(host, "platform:admin")).page(all=True)
        assert [k.id for k in everything.kills] == [id for id, _ in listed]


async def test_pages_skip_expired_proposals_that_are_still_open_in_the_table(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "EXPIRY_SECONDS", 600.0)
    async with hosted(settings(profile, request_router={"kill_approvals": TWO_APPROVALS_OF_ALL}), SERVICES) as host:
        await desks(host)
        acme = await operations(host)
        oldest, older = await acme.kill("WORKFLOW", "digest"), await acme.kill("WORKFLOW", "another")
        for number in range(3):
            await acme.kill("KEY", f"junk-{number}")
        expire_proposals(profile)
        page = await acme.page(page_size=1)
        assert [kill.id for kill in page.kills] == [older.id]
        page = await acme.page(page_size=1, page_token=page.next_page_token)
        assert ([kill.id for kill in page.kills], page.next_page_token) == ([oldest.id], "")


async def test_a_decision_that_waits_for_authentication_does_not_block_others(
    one_approval: Host, profile: Profile
) -> None:
    acme = await operations(one_approval)
    kill = await acme.kill("KEY", "key_bad")
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("lock table authentication.key_lineage in access exclusive mode")
        lifting = asyncio.create_task(acme.lift(kill))
        await until_locks_wait(profile, 1)
        async with asyncio.timeout(20):  # below the timeout of a call to authentication
            assert (await acme.kill("MODEL", "large")).state == Kill.ACTIVE
        assert not lifting.done()
        connection.rollback()
    assert (await lifting).state == Kill.LIFTED


async def test_migrated_kills_stay_active_and_platform_kills_stay_protected(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        await desks(host)
        platform = await operations(host, "platform:admin")
        kills = [await platform.kill("MODEL", "large"), await platform.kill("KEY", "key_bad", org="acme")]
    with psycopg.connect(profile.postgres) as connection:
        for column in ("by_platform", "killed_by_principals", "lifted_by_principals"):
            connection.execute(f"alter table request_router.kill drop column {column}".encode())
        for index in ("kill_of_org", "kill_open_of_org", "kill_in_force", "kill_proposed"):
            connection.execute(f"drop index if exists request_router.{index}".encode())
        connection.execute("delete from request_router.migration where name like '0003%'")
    async with hosted(profile, SERVICES) as host:
        acme = await operations(host)
        model, key = kills
        assert await acme.shown() == [key.id, model.id]
        with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
            await acme.lift(model)
        assert (await acme.lift(key)).state == Kill.LIFTED


def test_the_reserve_must_be_below_the_total() -> None:
    with pytest.raises(ValueError, match="the reserve is 5; it must be below the total, 5"):
        KillLimits(total=5, reserve=5)
