"""A limit or a budget binds a key only within its org: nobody can set one on a key of another org or desk."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from importlib import resources
from typing import Any

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, PutCertificateRequest, PutDeskRequest, PutOrgRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import (
    AnnounceKeysRequest,
    Block,
    Budget,
    GetSpendRequest,
    KeyOwner,
    Limit,
    ListBudgetsRequest,
    ListLimitsRequest,
    RemoveLimitRequest,
    ReportUsageRequest,
    WatchLimitsRequest,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.rate_limiting.key_directory import MAX_OWNERS
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from gateway.test_money import usage
from support.hosting import hosted
from support.keys import announce
from support.money import counted_budgets
from support.parts import wait_until

EVERY = frozenset(SCOPES)
TENANT = frozenset(SCOPES) - {"platform:admin"}
OWN = Principal("acme", "research", "key_own", TENANT - {"org:admin"})
BOSS = replace(OWN, key="key_boss", scopes=TENANT)
OTHER_DESK = Principal("acme", "rates", "key_rates", TENANT - {"org:admin"})
THIEF = Principal("other", "research", "key_thief", TENANT)
PLATFORM = Principal("home", "ops", "key_platform", EVERY)
KEYS = ("key_1", "cert:desk", "oidc:idp:someone")
DAY: dict[str, Any] = {"period": Budget.DAY, "amount": "1"}
HOW = ["together", "strict", "apart"]


async def known(client: RateLimitingClient) -> None:
    await announce(client, "key_1", "cert:desk")
    await announce(client, "oidc:idp:", desk="")


async def bound(client: RateLimitingClient, who: Principal, org: str = "") -> tuple[list[str], list[str]]:
    """The keys whose limits and budgets somebody sees."""
    with acting_for(who):
        limits = (await client.list_limits(ListLimitsRequest(org=org))).limits
        budgets = (await client.list_budgets(ListBudgetsRequest(org=org))).budgets
    return [limit.key for limit in limits], [budget.name for budget in budgets]


@pytest.mark.parametrize("how", HOW)
async def test_a_key_of_another_tenant_cannot_be_limited(profile: Profile, how: Any) -> None:
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        await known(client)
        for key in KEYS:
            for who in (THIEF, OTHER_DESK):
                with acting_for(who):
                    for org in ("", who.org):
                        with pytest.raises(NotFound, match="there is no key"):
                            await client.set_limit(Limit(key=key, org=org, requests_per_minute=1))
                        with pytest.raises(NotFound, match="there is no key"):
                            await client.set_budget(Budget(name=key, org=org, **DAY))
            with acting_for(THIEF), pytest.raises(Forbidden, match="not to 'acme'"):
                await client.set_limit(Limit(key=key, org="acme", requests_per_minute=1))
            with acting_for(OTHER_DESK), pytest.raises(Forbidden, match="org:admin"):
                await client.set_limit(Limit(key=key, desk="research", requests_per_minute=1))
            with acting_for(BOSS):
                await client.set_limit(Limit(key=key, requests_per_minute=100))
                await client.set_budget(Budget(name=key, **DAY))
        assert await bound(client, THIEF) == ([], [])
        assert await bound(client, OTHER_DESK) == ([], [])
        assert await bound(client, BOSS) == (sorted(KEYS), sorted(KEYS))
        with acting_for(THIEF), pytest.raises(Forbidden, match="not to 'acme'"):
            await client.list_limits(ListLimitsRequest(org="acme"))


async def test_unknown_keys_cannot_be_limited_and_callers_can_limit_themselves(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            for key in ("key_none", "cert:none", "oidc:none:one", "oidc:", "oidc", "key"):
                with pytest.raises(NotFound, match="there is no key"):
                    await client.set_limit(Limit(key=key, requests_per_minute=1))
        person = replace(OWN, key="oidc:none:one")
        with acting_for(person):
            await client.set_limit(Limit(key=person.key, requests_per_minute=5))
        assert await bound(client, person) == ([person.key], [])


async def test_permission_to_see_and_remove_limits_of_a_key(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await known(client)

        async def take_away(who: Principal, key: str, org: str = "") -> None:
            with acting_for(who):
                await client.remove_limit(RemoveLimitRequest(subject=Block.KEY, name=key, org=org))

        for key, remover, org in zip(KEYS, (OWN, BOSS, PLATFORM), ("", "acme", "acme"), strict=True):
            with acting_for(PLATFORM):
                await client.set_limit(Limit(key=key, org="acme", requests_per_minute=100))
            assert key in (await bound(client, PLATFORM, "acme"))[0]
            for who, where in ((THIEF, ""), (OTHER_DESK, ""), (OTHER_DESK, "acme"), (PLATFORM, "")):
                with pytest.raises(NotFound, match="has no limit of its own"):
                    await take_away(who, key, where)
            with pytest.raises(Forbidden, match="not to 'acme'"):
                await take_away(THIEF, key, "acme")
            await take_away(remover, key, org)
        assert await bound(client, PLATFORM, "acme") == ([], [])


@pytest.mark.parametrize("how", HOW)
async def test_limits_set_by_other_orgs_are_deleted_when_keys_are_announced(profile: Profile, how: Any) -> None:
    """The last release let every org set limits on any name; its rows are still there."""
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("create schema rate_limiting")
        connection.execute("set search_path to rate_limiting")
        folder = resources.files("drw.gateway.rate_limiting") / "migrations"
        for name in ("0001_limit.sql", "0002_money.sql"):
            connection.execute((folder / name).read_text().encode())
        connection.execute("create table migration (name text primary key, at timestamptz default now())")
        connection.execute("insert into migration values ('0001_limit.sql'), ('0002_money.sql')")
        rows = [("other", key, "research") for key in KEYS] + [("acme", "key_2", "rates")]
        for org, key, desk in rows:
            limit = "insert into subject_limit values ('KEY', %s, %s, %s, 1, 0, 0, 'FIXED', 'LOCAL_SHARE', null)"
            connection.execute(limit, (org, key, desk))
            budget = "insert into budget values ('KEY', %s, %s, %s, 'DAY', 'USD', 0)"
            connection.execute(budget, (org, key, desk))
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        with acting_for(replace(BOSS, key="key_1")):  # already before it is known, it is in nobody's way
            await client.set_limit(Limit(key="key_1", requests_per_minute=100))
        await announce(client, "key_2")
        await known(client)
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as news:
            async for found in news:
                if not found.blocks or {block.org for block in found.blocks} == {"acme"}:
                    break
        assert [(one.org, one.desk, one.key) for one in found.limits] == [
            ("acme", "research", "key_1"),
            ("acme", "research", "key_2"),
        ]
        assert await bound(client, THIEF) == ([], [])
        assert await bound(client, OWN) == (["key_1", "key_2"], ["key_2"])


async def test_a_budget_of_a_name_of_another_org_is_not_charged(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(BOSS):
            await client.set_limit(Limit(key="key_1", tokens_per_minute=1))
        theirs = usage("a")
        theirs.org, theirs.desk = "other", "research"
        await client.report_usage(ReportUsageRequest(usages=[theirs]))
        with acting_for(BOSS):
            assert not (await client.list_limits(ListLimitsRequest())).blocks
        await client.report_usage(ReportUsageRequest(usages=[usage("b")]))
        for who, seen in ((OWN, 1), (OTHER_DESK, 0), (THIEF, 0)):
            with acting_for(who):
                assert len((await client.list_limits(ListLimitsRequest())).blocks) == seen


async def test_spend_is_of_the_named_org_for_the_platforms_admins_only(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        for who, org, lines in ((PLATFORM, "acme", 1), (PLATFORM, "", 0), (BOSS, "", 1), (OTHER_DESK, "", 0)):
            with acting_for(who):
                assert len((await client.get_spend(GetSpendRequest(org=org))).lines) == lines
        with acting_for(THIEF), pytest.raises(Forbidden, match="not to 'acme'"):
            await client.get_spend(GetSpendRequest(org="acme"))


async def test_spending_of_all_orgs_on_a_model_requires_platform_metrics(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(PLATFORM):
            await client.set_budget(Budget(subject=Block.MODEL, name="vllm", **DAY))
        with acting_for(replace(OWN, scopes=frozenset({"keys:read", "platform:read"}))):
            (budget,) = await counted_budgets(client)
        assert (budget.amount, budget.spent) == ("1.00", "0.00")
        with acting_for(replace(OWN, scopes=frozenset({"keys:read"}))):
            (budget,) = (await client.list_budgets(ListBudgetsRequest())).budgets
        assert (budget.amount, budget.spent) == ("1.00", "")


async def test_an_announcement_is_bounded_and_idempotent(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        many = [KeyOwner(key=f"key_{number}", org="acme", desk="research") for number in range(MAX_OWNERS + 1)]
        for wrong in (many, [KeyOwner(key="key_1")], [KeyOwner(org="acme")]):
            with pytest.raises(InvalidRequest):
                await client.announce_keys(AnnounceKeysRequest(owners=wrong))
        external = [KeyOwner(key="cert:a", org="acme", desk="research"), KeyOwner(key="oidc:idp:", org="acme")]
        for _ in range(2):
            await client.announce_keys(AnnounceKeysRequest(owners=many[:MAX_OWNERS]))
            await client.announce_keys(AnnounceKeysRequest(owners=external, external=True))
        with acting_for(BOSS):
            for key in ("key_7", "cert:a", "oidc:idp:x"):
                await client.set_limit(Limit(key=key, requests_per_minute=1))
        await client.announce_keys(AnnounceKeysRequest(external=True))
        with acting_for(BOSS):
            await client.set_limit(Limit(key="key_7", requests_per_minute=2))
            for key in ("cert:a", "oidc:idp:x"):
                with pytest.raises(NotFound, match="there is no key"):
                    await client.set_limit(Limit(key=key, requests_per_minute=2))
                await client.remove_limit(RemoveLimitRequest(subject=Block.KEY, name=key))


@pytest.mark.parametrize("how", HOW)
async def test_keys_and_certificates_are_announced_and_keys_of_the_last_release_too(profile: Profile, how: Any) -> None:
    services = ["authentication", "rate_limiting"]
    held: dict[str, Any] = {"scopes": sorted(SCOPES)}
    async with hosted(profile, services, how) as host:
        authentication, client = host.client(AuthenticationClient), host.client(RateLimitingClient)
        with acting_for(PLATFORM):
            await authentication.put_org(PutOrgRequest(name="other", **held))
            await authentication.put_desk(PutDeskRequest(org="other", name="research", **held))
            asked = CreateKeyRequest(org="acme", desk="research", name="n", scopes=["models:read"])
            made = (await authentication.create_key(asked)).key.id
            where: dict[str, Any] = {"org": "acme", "desk": "research", "scopes": ["models:read"]}
            await authentication.put_certificate(PutCertificateRequest(name="pricing", san="a.b", **where))
        with acting_for(OWN):
            await client.set_limit(Limit(key=made, requests_per_minute=5))
        with acting_for(THIEF), pytest.raises(NotFound, match="there is no key"):
            await client.set_limit(Limit(key=made, requests_per_minute=1))
        await _until_known(profile, "cert:pricing")
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("delete from rate_limiting.key_owner")
    async with hosted(profile, services, how) as host:
        for key in (made, "cert:pricing"):
            await _until_known(profile, key)
            with acting_for(OWN):
                await host.client(RateLimitingClient).set_limit(Limit(key=key, requests_per_minute=5))


async def _until_known(profile: Profile, key: str) -> None:
    query = "select 1 from rate_limiting.key_owner where key = %s"
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        await asyncio.to_thread(wait_until, lambda: connection.execute(query, (key,)).fetchone() is not None, key)
