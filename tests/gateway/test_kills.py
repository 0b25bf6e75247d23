"""The kill switch: permission, required approvals, expiry of proposals and audit records."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import psycopg
import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import (
    ApproveKillRequest,
    CreateKillRequest,
    GetKillRequest,
    Kill,
    Kills,
    LiftKillRequest,
    ListKillsRequest,
    WatchConfigurationRequest,
    WatchKillsRequest,
)
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.database.audit_records import audit_records
from support.database.published import published
from support.gateway.keys import issued
from support.hosting import hosted
from support.json_types import Json, JsonObject

SERVICES = ["authentication", "rate_limiting", "load_balancer", "request_router"]
TWO_APPROVALS = {"request_router": {"kill_approvals": {"model": {"kill": 2, "lift": 2}}}}


class Switch:
    """Calls of the kill switch with one key."""

    def __init__(self, host: Host, principal: Principal) -> None:
        self._router = host.client(RequestRouterClient)
        self.principal = principal

    def by(self, **other: Json) -> Switch:
        """Return a copy with another principal."""
        switch = Switch.__new__(Switch)
        switch._router, switch.principal = self._router, replace(self.principal, **other)
        return switch

    @classmethod
    async def of_key(cls, host: Host, *scopes: str, by: Principal = OPERATOR, **fields: str) -> Switch:
        """Return a switch with a new key."""
        return cls(host, await issued(host, "platform:kill", *scopes, by=by, **fields))

    async def kill(
        self, subject: Kill.Subject | str = "KEY", name: str = "key_bad", org: str = "", reason: str = "it leaks"
    ) -> Kill:
        with acting_for(self.principal):
            return await self._router.create_kill(CreateKillRequest(subject=subject, name=name, org=org, reason=reason))

    async def approve(self, kill: Kill) -> Kill:
        with acting_for(self.principal):
            return await self._router.approve_kill(ApproveKillRequest(id=kill.id))

    async def lift(self, kill: Kill, reason: str = "all is well") -> Kill:
        with acting_for(self.principal):
            return await self._router.lift_kill(LiftKillRequest(id=kill.id, reason=reason))

    async def get(self, kill: Kill) -> Kill:
        with acting_for(self.principal):
            return await self._router.get_kill(GetKillRequest(id=kill.id))

    async def page(self, **fields: Json) -> Kills:
        with acting_for(self.principal):
            return await self._router.list_kills(ListKillsRequest(**fields))

    async def shown(self, *, include_ended: bool = False) -> list[str]:
        return [k.id for k in (await self.page(all=include_ended)).kills]


async def detail(host: Host) -> str:
    return next(s.detail for s in (await host.status()).services if s.name == "request_router")


def settings(profile: Profile, **services: Json) -> Profile:
    return profile.model_copy(update={"services": services})


def audited(profile: Profile, *names: str) -> list[tuple[str | None, ...]]:
    return [
        (record["action"], record["resource"], record["actor"], *(record["details"].get(name) for name in names))
        for record in audit_records(profile, "kill.*")
    ]


@pytest.mark.parametrize("how", ["strict", "apart"])
async def test_a_kill_is_active_immediately_if_one_approval_suffices(
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
            kill = await switch.kill()
            assert (kill.state, kill.org, list(kill.killed_by)) == (Kill.ACTIVE, "acme", ["key_test"])
            assert kill.approvals_missing == 0 and not kill.HasField("proposal_ends_at")
            state = await anext(states)
            assert list(state.blocks) == [Block(subject="KEY", org="acme", name="key_bad", reason="KILLED")]
            assert state.refusals != before.refusals and state.version != before.version
            assert [k.id for k in (await anext(lists)).kills] == [kill.id]
            assert (await switch.kill(reason="again")).id == kill.id
            assert await switch.shown() == [kill.id]
            assert how == "apart" or "; killed: 1, see `drw kill list`" in await detail(host)
            lifted = await switch.lift(kill)
            assert (lifted.state, lifted.lift_reason, list(lifted.lifted_by)) == (
                Kill.LIFTED, "all is well", ["key_test"],
            )  # fmt: skip
            assert list((await anext(states)).blocks) == [] and list((await anext(lists)).kills) == []
            assert (await switch.lift(kill)).state == Kill.LIFTED
            assert (await switch.shown(), await switch.shown(include_ended=True)) == ([], [kill.id])
    assert audited(profile, "before", "after", "reason") == [
        ("kill.propose", "key/key_bad", "key_test", None, None, "it leaks"),
        ("kill.kill", "key/key_bad", "key_test", "served", "killed", "it leaks"),
        ("kill.lift.propose", "key/key_bad", "key_test", None, None, "all is well"),
        ("kill.lift", "key/key_bad", "key_test", "killed", "served", "all is well"),
    ]
    for name, reason in (("kill.activated", "it leaks"), ("kill.lifted", "all is well")):
        (event,) = published(profile.postgres, name)
        assert event["data"] == {"kill": kill.id, "subject": "KEY", "name": "key_bad", "reason": reason}
        assert (event["org"], event["actor"], event["partitionkey"]) == ("acme", "key_test", "acme//kill/key/key_bad")


async def test_kills_survive_a_restart(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, SERVICES) as host:
        kill = await Switch(host, caller).kill("MODEL", "large")
    async with hosted(profile, SERVICES) as host:
        router = host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as states:
            assert [block.name for block in (await anext(states)).blocks] == ["large"]
        assert await Switch(host, caller).shown() == [kill.id]


async def two_principals(host: Host) -> tuple[Switch, Switch]:
    """Return switches with two keys that an administrator issued."""
    return await Switch.of_key(host), await Switch.of_key(host)


@pytest.mark.parametrize("how", ["together", "apart"])
async def test_the_policy_can_require_two_approvals(profile: Profile, how: str) -> None:
    async with hosted(settings(profile, **TWO_APPROVALS), SERVICES, how) as host:
        first, second = await two_principals(host)
        first_key, second_key = first.principal.key, second.principal.key
        kill = await first.kill("MODEL", "large")
        assert (kill.state, kill.approvals_missing, kill.HasField("proposal_ends_at")) == (Kill.PROPOSED, 1, True)
        assert (await first.kill("MODEL", "large")).state == Kill.PROPOSED  # the same key counts once
        with pytest.raises(Conflict, match="another one must approve it"):
            await first.approve(kill)
        approved = await second.approve(kill)
        assert (approved.state, list(approved.killed_by)) == (Kill.ACTIVE, [first_key, second_key])
        with pytest.raises(Conflict, match="nothing is proposed"):
            await second.approve(kill)
        lift = await second.lift(kill)
        assert (lift.state, lift.approvals_missing, list(lift.lifted_by)) == (Kill.ACTIVE, 1, [second_key])
        with pytest.raises(Conflict, match="another one must approve it"):
            await second.approve(kill)
        assert (await first.approve(kill)).state == Kill.LIFTED
        # Requesting the same kill approves it.
        again = await second.kill("MODEL", "large")
        assert (await first.kill("MODEL", "large")).state == Kill.ACTIVE
        await first.lift(again)
        assert (await second.lift(again)).state == Kill.LIFTED
        # A kill of a key needs one approval.
        assert (await first.kill()).state == Kill.ACTIVE
    actions = [entry[0] for entry in audited(profile)]
    assert actions[:6] == [
        "kill.propose", "kill.approve", "kill.kill", "kill.lift.propose", "kill.lift.approve", "kill.lift",
    ]  # fmt: skip


async def test_a_proposal_can_be_withdrawn_and_expires(profile: Profile) -> None:
    async with hosted(settings(profile, **TWO_APPROVALS), SERVICES) as host:
        first, second = await two_principals(host)
        kill = await first.kill("MODEL", "large")
        assert (await first.lift(kill)).state == Kill.WITHDRAWN
        expired = await first.kill("MODEL", "large")
        expire_proposals(profile)
        with pytest.raises(Conflict, match="nothing is proposed .* it is expired"):
            await second.approve(expired)
        assert (await second.get(expired)).state == Kill.EXPIRED
        kill = await first.kill("MODEL", "large")
        await second.approve(kill)
        await first.lift(kill)
        expire_proposals(profile)
        active = await second.get(kill)
        assert (active.state, active.approvals_missing, list(active.lifted_by)) == (Kill.ACTIVE, 0, [])
        assert (await second.lift(kill)).state == Kill.ACTIVE  # a new proposal
    assert [a for a, *_ in audited(profile)].count("kill.expire") == 2


def expire_proposals(profile: Profile) -> None:
    """Set the end of all proposals to now."""
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update request_router.kill set proposal_ends_at = now() where proposal_ends_at is not null")


async def test_orgs_cannot_see_or_change_each_others_kills(profile: Profile, caller: Principal) -> None:
    principal = replace(caller, scopes=frozenset({"platform:kill"}))
    async with hosted(profile, SERVICES) as host:
        switch, other = Switch(host, principal), Switch(host, principal).by(org="other", key="key_other")
        admin = other.by(scopes=frozenset(SCOPES))
        with pytest.raises(Forbidden, match="belongs to the org 'other', not to 'acme'"):
            await other.kill(org="acme")
        kill = await switch.kill("DESK", "trading")
        for call in (other.get, other.approve, other.lift):
            with pytest.raises(NotFound):
                await call(kill)
        assert await other.shown() == []
        platform_kill = await admin.kill("MODEL", "large")
        assert await switch.shown() == [platform_kill.id, kill.id]
        assert await other.shown() == [platform_kill.id]
        assert await admin.shown() == [platform_kill.id, kill.id]
        assert (await admin.lift(kill)).state == Kill.LIFTED
        assert (await admin.kill(org="acme")).org == "acme"


async def test_invalid_kills_are_rejected_with_the_remedy(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, SERVICES) as host:
        switch = Switch(host, caller)
        cases: list[tuple[JsonObject, str]] = [
            ({"subject": 0}, "subject is missing; it must be KEY, DESK, MODEL or WORKFLOW"),
            ({"name": ""}, "1 to 200 printable characters"),
            ({"name": "x" * 201}, "1 to 200 printable characters"),
            ({"name": "a\nb"}, "1 to 200 printable characters"),
            ({"reason": " "}, "a kill needs a reason of 1 to 500 characters"),
            ({"reason": "x" * 501}, "it can have 1 to 500 characters"),
            ({"name": "key_test"}, "this would stop your own key"),
            ({"subject": "DESK", "name": "research"}, "this would stop your own desk"),
        ]
        for fields, message in cases:
            with pytest.raises(InvalidRequest, match=message):
                await switch.kill(**fields)
        kill = await switch.kill()
        with pytest.raises(InvalidRequest, match="reason is missing; it can have 1 to 500 characters"):
            await switch.lift(kill, "")
        with pytest.raises(NotFound, match="'kill_none'"):
            await switch.get(Kill(id="kill_none"))
        pages: list[tuple[JsonObject, str]] = [
            ({"page_size": 1001}, "it can be 0 to 1000"),
            ({"page_token": "x"}, "page_token is not"),
        ]
        for fields, message in pages:
            with pytest.raises(InvalidRequest, match=message):
                await switch.page(**fields)
