"""The kill switch: who may pull it, how many persons that takes, and what is left on record."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
import psycopg
import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import (
    ApproveKillRequest,
    CreateKillRequest,
    GetKillRequest,
    Kill,
    LiftKillRequest,
    ListKillsRequest,
    WatchConfigurationRequest,
    WatchKillsRequest,
)
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.hosting import hosted
from support.keys import issued

SERVICES = ["authentication", "rate_limiting", "load_balancer", "request_router"]
TWO = {"request_router": {"kill_approvals": {"model": {"kill": 2, "lift": 2}}}}


class Switch:
    """The kill switch as one key has it."""

    def __init__(self, host, who):
        self._router = host.client(RequestRouterClient)
        self.who = who

    def by(self, **other):
        """The same, as another key has it."""
        found = Switch.__new__(Switch)
        found._router, found.who = self._router, replace(self.who, **other)
        return found

    @classmethod
    async def of_key(cls, host, *scopes, by: Principal = OPERATOR, **fields):
        """The switch as a new key has it, which somebody issues."""
        return cls(host, await issued(host, "platform:kill", *scopes, by=by, **fields))

    async def kill(self, subject="KEY", name="key_bad", org="", reason="it leaks"):
        with acting_for(self.who):
            return await self._router.create_kill(CreateKillRequest(subject=subject, name=name, org=org, reason=reason))

    async def approve(self, kill):
        with acting_for(self.who):
            return await self._router.approve_kill(ApproveKillRequest(id=kill.id))

    async def lift(self, kill, reason="all is well"):
        with acting_for(self.who):
            return await self._router.lift_kill(LiftKillRequest(id=kill.id, reason=reason))

    async def get(self, kill):
        with acting_for(self.who):
            return await self._router.get_kill(GetKillRequest(id=kill.id))

    async def page(self, **fields):
        with acting_for(self.who):
            return await self._router.list_kills(ListKillsRequest(**fields))

    async def shown(self, *, every=False):
        return [k.id for k in (await self.page(all=every)).kills]


async def detail(host):
    return next(s.detail for s in (await host.status()).services if s.name == "request_router")


def settings(profile, **services):
    return profile.model_copy(update={"services": services})


def audited(profile, *names):
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    records = [orjson.loads(row[0]) for row in rows]
    return [
        (r["action"], r["resource"], r["actor"], *(r["details"].get(name) for name in names))
        for r in records
        if r["action"].startswith("kill.")
    ]


@pytest.mark.parametrize("how", ["strict", "apart"])
async def test_a_kill_is_in_force_at_once_where_one_person_is_enough(
    profile: Profile, caller: Principal, how: str
) -> None:
    async with hosted(profile, SERVICES, how) as host:
        switch, router = Switch(host, caller), host.client(RequestRouterClient)
        async with (
            aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as states,
            aclosing(router.watch_kills(WatchKillsRequest())) as lists,
        ):
            before = await anext(states)
            assert list((await anext(lists)).kills) == []
            made = await switch.kill()
            assert (made.state, made.org, list(made.killed_by)) == (Kill.ACTIVE, "acme", ["key_test"])
            assert made.approvals_missing == 0 and not made.HasField("proposal_ends_at")
            state = await anext(states)
            assert list(state.blocks) == [Block(subject="KEY", org="acme", name="key_bad", reason="KILLED")]
            assert state.refusals != before.refusals and state.version != before.version
            assert [k.id for k in (await anext(lists)).kills] == [made.id]
            assert (await switch.kill(reason="again")).id == made.id
            assert await switch.shown() == [made.id]
            assert how == "apart" or "; killed: 1, see `drw kill list`" in await detail(host)
            lifted = await switch.lift(made)
            assert (lifted.state, lifted.lift_reason, list(lifted.lifted_by)) == (
                Kill.LIFTED, "all is well", ["key_test"],
            )  # fmt: skip
            assert list((await anext(states)).blocks) == [] and list((await anext(lists)).kills) == []
            assert (await switch.lift(made)).state == Kill.LIFTED
            assert (await switch.shown(), await switch.shown(every=True)) == ([], [made.id])
    assert audited(profile, "before", "after", "reason") == [
        ("kill.propose", "key/key_bad", "key_test", None, None, "it leaks"),
        ("kill.kill", "key/key_bad", "key_test", "served", "killed", "it leaks"),
        ("kill.lift.propose", "key/key_bad", "key_test", None, None, "all is well"),
        ("kill.lift", "key/key_bad", "key_test", "killed", "served", "all is well"),
    ]


async def test_kills_survive_a_restart(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, SERVICES) as host:
        made = await Switch(host, caller).kill("MODEL", "large")
    async with hosted(profile, SERVICES) as host:
        router = host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as states:
            assert [block.name for block in (await anext(states)).blocks] == ["large"]
        assert await Switch(host, caller).shown() == [made.id]


async def persons(host):
    """Two keys that an administrator issued to two persons."""
    return await Switch.of_key(host), await Switch.of_key(host)


@pytest.mark.parametrize("how", ["together", "apart"])
async def test_the_policy_can_require_two_approvers(profile: Profile, how: str) -> None:
    async with hosted(settings(profile, **TWO), SERVICES, how) as host:
        first, second = await persons(host)
        one, two = first.who.key, second.who.key
        made = await first.kill("MODEL", "large")
        assert (made.state, made.approvals_missing, made.HasField("proposal_ends_at")) == (Kill.PROPOSED, 1, True)
        assert (await first.kill("MODEL", "large")).state == Kill.PROPOSED  # the same key counts once
        with pytest.raises(Conflict, match="another one must approve it"):
            await first.approve(made)
        done = await second.approve(made)
        assert (done.state, list(done.killed_by)) == (Kill.ACTIVE, [one, two])
        with pytest.raises(Conflict, match="nothing is proposed"):
            await second.approve(made)
        lift = await second.lift(made)
        assert (lift.state, lift.approvals_missing, list(lift.lifted_by)) == (Kill.ACTIVE, 1, [two])
        with pytest.raises(Conflict, match="another one must approve it"):
            await second.approve(made)
        assert (await first.approve(made)).state == Kill.LIFTED
        # Whoever asks for the same has approved it.
        again = await second.kill("MODEL", "large")
        assert (await first.kill("MODEL", "large")).state == Kill.ACTIVE
        await first.lift(again)
        assert (await second.lift(again)).state == Kill.LIFTED
        # Of a key, one person is enough.
        assert (await first.kill()).state == Kill.ACTIVE
    actions = [entry[0] for entry in audited(profile)]
    assert actions[:6] == [
        "kill.propose", "kill.approve", "kill.kill", "kill.lift.propose", "kill.lift.approve", "kill.lift",
    ]  # fmt: skip


async def test_a_proposal_can_be_withdrawn_and_ends_by_itself(profile: Profile) -> None:
    async with hosted(settings(profile, **TWO), SERVICES) as host:
        first, second = await persons(host)
        made = await first.kill("MODEL", "large")
        assert (await first.lift(made)).state == Kill.WITHDRAWN
        late = await first.kill("MODEL", "large")
        over(profile)
        with pytest.raises(Conflict, match="nothing is proposed .* it is expired"):
            await second.approve(late)
        assert (await second.get(late)).state == Kill.EXPIRED
        made = await first.kill("MODEL", "large")
        await second.approve(made)
        await first.lift(made)
        over(profile)
        kept = await second.get(made)
        assert (kept.state, kept.approvals_missing, list(kept.lifted_by)) == (Kill.ACTIVE, 0, [])
        assert (await second.lift(made)).state == Kill.ACTIVE  # a proposal of its own
    assert [a for a, *_ in audited(profile)].count("kill.expire") == 2


def over(profile):
    """Let the time of every proposal be over."""
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update request_router.kill set proposal_ends_at = now() where proposal_ends_at is not null")


async def test_orgs_stay_apart(profile: Profile, caller: Principal) -> None:
    own = replace(caller, scopes=frozenset({"platform:kill"}))
    async with hosted(profile, SERVICES) as host:
        switch, other = Switch(host, own), Switch(host, own).by(org="other", key="key_other")
        admin = other.by(scopes=frozenset(SCOPES))
        with pytest.raises(Forbidden, match="belongs to the org 'other', not to 'acme'"):
            await other.kill(org="acme")
        made = await switch.kill("DESK", "trading")
        for call in (other.get, other.approve, other.lift):
            with pytest.raises(NotFound):
                await call(made)
        assert await other.shown() == []
        everywhere = await admin.kill("MODEL", "large")
        assert await switch.shown() == [everywhere.id, made.id]
        assert await other.shown() == [everywhere.id]
        assert await admin.shown() == [everywhere.id, made.id]
        assert (await admin.lift(made)).state == Kill.LIFTED
        assert (await admin.kill(org="acme")).org == "acme"


async def test_invalid_kills_are_rejected_with_the_remedy(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, SERVICES) as host:
        switch = Switch(host, caller)
        cases: list[tuple[dict[str, Any], str]] = [
            ({"subject": 0}, "subject is missing; it must be KEY, DESK, MODEL or WORKFLOW"),
            ({"name": ""}, "1 to 200 printable characters"),
            ({"name": "x" * 201}, "1 to 200 printable characters"),
            ({"name": "a\nb"}, "1 to 200 printable characters"),
            ({"reason": " "}, "a kill needs a reason of 1 to 500 characters"),
            ({"reason": "x" * 501}, "it can have 1 to 500 characters"),
            ({"name": "key_test"}, "this would stop your own key"),
            ({"subject": "DESK", "name": "research"}, "this would stop your own desk"),
        ]
        for wrong, said in cases:
            with pytest.raises(InvalidRequest, match=said):
                await switch.kill(**wrong)
        made = await switch.kill()
        with pytest.raises(InvalidRequest, match="reason is missing; it can have 1 to 500 characters"):
            await switch.lift(made, "")
        with pytest.raises(NotFound, match="'kill_none'"):
            await switch.get(Kill(id="kill_none"))
        pages: list[tuple[dict[str, Any], str]] = [
            ({"page_size": 1001}, "it can be 0 to 1000"),
            ({"page_token": "x"}, "page_token is not"),
        ]
        for wrong, said in pages:
            with pytest.raises(InvalidRequest, match=said):
                await switch.page(**wrong)
