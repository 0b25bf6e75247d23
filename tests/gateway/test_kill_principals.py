"""Who may decide about a kill: two principals, never the subject, and no org about what the platform killed."""

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
from gateway.test_kills import SERVICES, TWO, Switch, over, settings
from support.hosting import hosted
from support.keys import issued, rotated, vouch
from support.locks import waiting

TWO_OF_ALL = {"desk": {"kill": 2, "lift": 2}, "key": {"kill": 2, "lift": 2}, **TWO["request_router"]["kill_approvals"]}
MAKER = ("keys:write", "keys:read")


def limited(profile, **limits):
    return settings(profile, request_router={"kill_limits": limits})


@pytest.fixture
async def two(profile: Profile) -> AsyncIterator[Host]:
    """A platform on which everything takes two persons, with two more desks of the org."""
    async with hosted(settings(profile, request_router={"kill_approvals": TWO_OF_ALL}), SERVICES) as host:
        await desks(host)
        yield host


@pytest.fixture
async def one(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as host:
        await desks(host)
        yield host


async def desks(host):
    with acting_for(OPERATOR):
        for name in ("ops", "beta"):
            desk = PutDeskRequest(org="acme", name=name, scopes=sorted(SCOPES))
            await host.client(AuthenticationClient).put_desk(desk)


async def operations(host, *scopes, **fields):
    return await Switch.of_key(host, *scopes, desk="ops", **fields)


async def test_keys_of_one_person_are_one_voice(two: Host) -> None:
    first = await operations(two, *MAKER)
    successor = Switch(two, await rotated(two, first.who))
    child = await operations(two, *MAKER, by=first.who)
    grandchild = await operations(two, by=child.who)
    sibling = await operations(two, by=successor.who)
    colleague = await issued(two, "platform:kill", *MAKER, desk="ops")
    stolen = Switch(two, await rotated(two, colleague, by=first.who))
    made = await first.kill("DESK", "beta")
    for same in (successor, child, grandchild, sibling, stolen):
        with pytest.raises(Conflict, match="of the same principal as"):
            await same.approve(made)
        assert (await same.kill("DESK", "beta")).state == Kill.PROPOSED
    second = await operations(two)
    assert (await second.approve(made)).state == Kill.ACTIVE
    assert (await grandchild.lift(made)).approvals_missing == 1
    for same in (first, successor, child):
        with pytest.raises(Conflict, match="of the same principal as"):
            await same.approve(made)
        assert (await same.lift(made)).state == Kill.ACTIVE
    assert (await second.lift(made)).state == Kill.LIFTED


async def test_an_administrator_and_its_keys_are_one_principal_and_their_holders_are_two(two: Host) -> None:
    admin = Switch(two, await issued(two, "platform:kill", "org:admin", *MAKER, desk="ops"))
    one, other = [await operations(two, by=admin.who) for _ in range(2)]
    again = Switch(two, await rotated(two, admin.who))
    for first, second in ((admin, one), (one, admin), (again, one), (one, again)):
        made = await first.kill("DESK", "beta")
        with pytest.raises(Conflict, match="of the same principal as"):
            await second.approve(made)
        await first.lift(made)
    made = await one.kill("DESK", "beta")
    assert (await other.approve(made)).state == Kill.ACTIVE


async def test_callers_of_issuers_and_certificates_are_one_with_their_keys(two: Host) -> None:
    person = await operations(two)
    for name in ("oidc:corp:ann", "cert:runner"):
        await vouch(two, name)
        outside = person.by(key=name, scopes=frozenset({"platform:kill", "keys:write"}))
        own = await operations(two, by=outside.who)
        made = await outside.kill("DESK", "beta")
        with pytest.raises(Conflict, match="of the same principal as"):
            await own.approve(made)
        assert (await outside.by(key=f"{name}x").approve(made)).state == Kill.ACTIVE
        await outside.lift(made)
        assert (await person.lift(made)).state == Kill.LIFTED


async def test_a_voice_outlives_its_key(two: Host, profile: Profile) -> None:
    first = await operations(two, *MAKER)
    made = await first.kill("DESK", "beta")
    successor = Switch(two, await rotated(two, first.who, overlap_seconds=0))
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("delete from authentication.key where id = %s", (first.who.key,))
    with pytest.raises(Conflict, match="of the same principal as"):
        await successor.approve(made)


async def test_callers_without_a_record_are_rejected(two: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = [await operations(two) for _ in range(2)]
    made = await first.kill("DESK", "beta")
    unknown = first.by(key="key_unknown")
    for act in (unknown.approve, unknown.lift):
        with pytest.raises(Forbidden, match="not on record"):
            await act(made)
    orphan = await operations(two, by=replace(unknown.who, scopes=frozenset({"platform:kill", "keys:write"})))
    with pytest.raises(Forbidden, match="not on record"):
        await orphan.approve(made)

    async def away(*args):
        raise Unavailable("authentication does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(KeyLineage, "compare", away)
        with pytest.raises(Unavailable):
            await second.approve(made)
    assert (await second.get(made)).state == Kill.PROPOSED


async def test_the_subject_decides_nothing_about_itself(two: Host) -> None:
    ops = await operations(two)
    other = await operations(two)
    beta = await Switch.of_key(two, "org:admin", *MAKER, desk="beta")
    child = await operations(two, by=beta.who)
    target = await operations(two, *MAKER)
    heirs = [Switch(two, await rotated(two, target.who)), await operations(two, by=target.who)]
    desk, key = await ops.kill("DESK", "beta"), await ops.kill("KEY", target.who.key)
    for made, subjects in ((desk, (beta, child)), (key, (target, *heirs))):
        for subject in subjects:
            for act in (subject.approve, subject.lift):
                with pytest.raises(Forbidden, match="must decide about it"):
                    await act(made)
        assert (await ops.get(made)).state == Kill.PROPOSED
        await other.approve(made)
        for subject in subjects:
            with pytest.raises(Forbidden, match="must decide about it"):
                await subject.lift(made)
        await ops.lift(made)
        for subject in subjects:
            with pytest.raises(Forbidden, match="must decide about it"):
                await subject.approve(made)
        assert (await other.approve(made)).state == Kill.LIFTED


async def test_the_issuer_of_a_key_can_lift_its_kill(one: Host) -> None:
    admin = await operations(one, "org:admin", *MAKER)
    clerk = await operations(one, *MAKER)
    issued_to = await issued(one, "keys:read", by=admin.who)
    assert (await admin.lift(await admin.kill("KEY", issued_to.key))).state == Kill.LIFTED
    own = await issued(one, "keys:read", by=clerk.who, desk="ops")
    made = await clerk.kill("KEY", own.key)
    with pytest.raises(Forbidden, match="must decide about it"):
        await clerk.lift(made)
    assert (await admin.lift(made)).state == Kill.LIFTED


async def test_a_proposal_is_withdrawn_by_its_proposer_or_a_possible_approver(two: Host) -> None:
    first, second = [await operations(two) for _ in range(2)]
    assert (await first.lift(await first.kill("DESK", "beta"))).state == Kill.WITHDRAWN
    assert (await second.lift(await first.kill("DESK", "beta"))).state == Kill.WITHDRAWN
    platform = await operations(two, "platform:admin")
    made = await platform.kill("DESK", "beta")
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await first.lift(made)
    assert (await platform.lift(made)).state == Kill.WITHDRAWN
    # What an org proposed is the platform's once the platform asks for it, also for the one that proposed it.
    made = await first.kill("DESK", "beta")
    assert (await platform.kill("DESK", "beta")).by_platform
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await first.lift(made)


async def test_a_model_and_a_workflow_are_killed_in_the_callers_org(one: Host) -> None:
    acme, platform = await operations(one), await operations(one, "platform:admin")
    other = acme.by(org="other", desk="d", key="oidc:x:y")
    for subject, name in (("MODEL", "large"), ("WORKFLOW", "digest")):
        own = await acme.kill(subject, name)
        assert (own.org, own.by_platform, own.state) == ("acme", False, Kill.ACTIVE)
        assert await other.shown() == []
        for act in (other.get, other.approve, other.lift):
            with pytest.raises(NotFound):
                await act(own)
        with pytest.raises(Forbidden, match="belongs to the org 'other', not to 'acme'"):
            await other.kill(subject, name, org="acme")
        everywhere = await platform.kill(subject, name)
        assert (everywhere.org, everywhere.by_platform) == ("", True) and everywhere.id != own.id
        assert await other.shown() == [everywhere.id] and await acme.shown() == [everywhere.id, own.id]
        for org in (acme, other):
            with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
                await org.lift(everywhere)
        assert (await acme.lift(own)).state == (await platform.lift(everywhere)).state == Kill.LIFTED
        named = await platform.kill(subject, name, org="other")
        with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
            await other.lift(named)
        assert (await platform.lift(named)).state == Kill.LIFTED


async def test_an_org_cannot_lift_a_kill_of_the_platform(one: Host) -> None:
    acme, platform = await operations(one), await operations(one, "platform:admin")
    made = await acme.kill("KEY", "key_bad")
    assert (await platform.kill("KEY", "key_bad", org="acme")).id == made.id
    with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
        await acme.lift(made)
    assert (await platform.lift(made)).state == Kill.LIFTED


def test_a_data_plane_hears_for_which_org_a_model_is_killed() -> None:
    killed = Kill(subject="MODEL", org="acme", name="large", state="ACTIVE")
    assert as_block(killed) == Block(subject="MODEL", org="acme", name="large", reason="KILLED")
    assert as_block(Kill(subject="WORKFLOW", org="acme", name="digest")) is None


async def test_one_org_uses_up_its_own_room_only(profile: Profile) -> None:
    async with hosted(limited(profile, per_org=2, total=6, reserve=2), SERVICES) as host:
        await desks(host)
        acme, platform = await operations(host), await operations(host, "platform:admin")
        others = [acme.by(org=org, desk="d", key=f"oidc:{org}:x") for org in ("b", "c")]
        mine = [await acme.kill("KEY", f"junk-{n}") for n in range(2)]
        with pytest.raises(RateLimited, match=r"the org 'acme' has 2 kills .* \(kill_limits.per_org\)"):
            await acme.kill("KEY", "junk-2")
        assert (await acme.kill("KEY", "junk-0")).id == mine[0].id  # which is there
        for n in range(2):
            await others[0].kill("KEY", f"junk-{n}")
        with pytest.raises(
            RateLimited, match=r"all orgs together have 4 kills .* \(kill_limits.total less its reserve"
        ):
            await others[1].kill("KEY", "one")
        # What the platform kills in an org takes none of that org's room.
        first = await platform.kill("KEY", "one", org="acme")
        await platform.kill("KEY", "two", org="c")
        with pytest.raises(RateLimited, match=r"all orgs together have 6 kills .* \(kill_limits.total\)"):
            await platform.kill("KEY", "three", org="c")
        await platform.lift(first)
        await acme.lift(mine[0])
        assert (await others[1].kill("KEY", "one")).state == Kill.ACTIVE


async def test_proposals_that_are_over_take_no_room_and_end_in_pages(profile: Profile) -> None:
    policy = {"kill_approvals": TWO_OF_ALL, "kill_limits": {"per_org": 3, "total": 10, "reserve": 1}}
    async with hosted(settings(profile, request_router=policy), SERVICES) as host:
        await desks(host)
        acme = await operations(host)
        junk = [await acme.kill("KEY", f"junk-{n}") for n in range(3)]
        over(profile)
        assert await acme.shown() == []
        more = await acme.kill("KEY", "junk-0")
        assert more.id != junk[0].id and await acme.shown() == [more.id]
        found: list[tuple[str, Kill.State]] = []
        token = ""
        while len(found) < 4:
            page = await acme.page(all=True, page_size=2, page_token=token)
            assert len(page.kills) == 2
            found, token = found + [(k.id, k.state) for k in page.kills], page.next_page_token
        assert token == "" and found == [(more.id, Kill.PROPOSED), *((k.id, Kill.EXPIRED) for k in reversed(junk))]
        everything = await (await operations(host, "platform:admin")).page(all=True)
        assert [k.id for k in everything.kills] == [id for id, _ in found]


async def test_a_page_is_full_though_proposals_that_are_over_are_still_written(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "EXPIRY_SECONDS", 600.0)
    async with hosted(settings(profile, request_router={"kill_approvals": TWO_OF_ALL}), SERVICES) as host:
        await desks(host)
        acme = await operations(host)
        oldest, older = await acme.kill("WORKFLOW", "digest"), await acme.kill("WORKFLOW", "another")
        for number in range(3):
            await acme.kill("KEY", f"junk-{number}")
        over(profile)
        page = await acme.page(page_size=1)
        assert [kill.id for kill in page.kills] == [older.id]
        page = await acme.page(page_size=1, page_token=page.next_page_token)
        assert ([kill.id for kill in page.kills], page.next_page_token) == ([oldest.id], "")


async def test_a_decision_waiting_for_authentication_blocks_no_other(one: Host, profile: Profile) -> None:
    acme = await operations(one)
    made = await acme.kill("KEY", "key_bad")
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("lock table authentication.key_lineage in access exclusive mode")
        lifting = asyncio.create_task(acme.lift(made))
        await waiting(profile, 1)
        async with asyncio.timeout(20):  # below the time after which the other one is given up
            assert (await acme.kill("MODEL", "large")).state == Kill.ACTIVE
        assert not lifting.done()
        connection.rollback()
    assert (await lifting).state == Kill.LIFTED


async def test_kills_of_the_last_release_stay_in_force_and_are_the_platforms(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        await desks(host)
        platform = await operations(host, "platform:admin")
        kept = [await platform.kill("MODEL", "large"), await platform.kill("KEY", "key_bad", org="acme")]
    with psycopg.connect(profile.postgres) as connection:
        for column in ("by_platform", "killed_by_principals", "lifted_by_principals"):
            connection.execute(f"alter table request_router.kill drop column {column}".encode())
        for index in ("kill_of_org", "kill_open_of_org", "kill_in_force", "kill_proposed"):
            connection.execute(f"drop index if exists request_router.{index}".encode())
        connection.execute("delete from request_router.migration where name like '0003%'")
    async with hosted(profile, SERVICES) as host:
        acme = await operations(host)
        model, key = kept
        assert await acme.shown() == [key.id, model.id]
        with pytest.raises(Forbidden, match="only a key with 'platform:admin'"):
            await acme.lift(model)
        assert (await acme.lift(key)).state == Kill.LIFTED


def test_a_reserve_leaves_room_for_orgs() -> None:
    with pytest.raises(ValueError, match="the reserve is 5; it must be below the total, 5"):
        KillLimits(total=5, reserve=5)
