"""Tenancy of limits and budgets: callers cannot set or see them for keys of other orgs or desks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from importlib import resources

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
from gateway.test_budgets_and_usage import usage
from support.gateway.keys import announce
from support.gateway.money import counted_budgets
from support.hosting import hosted
from support.json_types import JsonObject
from support.parts import wait_until

ALL_SCOPES = frozenset(SCOPES)
TENANT_SCOPES = frozenset(SCOPES) - {"platform:admin"}
DESK_MEMBER = Principal("acme", "research", "key_own", TENANT_SCOPES - {"org:admin"})
ORG_ADMIN = replace(DESK_MEMBER, key="key_boss", scopes=TENANT_SCOPES)
OTHER_DESK = Principal("acme", "rates", "key_rates", TENANT_SCOPES - {"org:admin"})
OTHER_ORG = Principal("other", "research", "key_thief", TENANT_SCOPES)
PLATFORM = Principal("home", "ops", "key_platform", ALL_SCOPES)
KEYS = ("key_1", "cert:desk", "oidc:idp:someone")
DAILY: JsonObject = {"period": Budget.DAY, "amount": "1"}
HOW = ["together", "strict", "apart"]


async def announce_all(client: RateLimitingClient) -> None:
    await announce(client, "key_1", "cert:desk")
    await announce(client, "oidc:idp:", desk="")


async def visible_subjects(
    client: RateLimitingClient, principal: Principal, org: str = ""
) -> tuple[list[str], list[str]]:
    """Return the keys of the limits and of the budgets that a principal can see."""
    with acting_for(principal):
        limits = (await client.list_limits(ListLimitsRequest(org=org))).limits
        budgets = (await client.list_budgets(ListBudgetsRequest(org=org))).budgets
    return [limit.key for limit in limits], [budget.name for budget in budgets]


@pytest.mark.parametrize("how", HOW)
async def test_a_key_of_another_tenant_cannot_be_limited(profile: Profile, how: str) -> None:
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        await announce_all(client)
        for key in KEYS:
            for principal in (OTHER_ORG, OTHER_DESK):
                with acting_for(principal):
                    for org in ("", principal.org):
                        with pytest.raises(NotFound, match="there is no key"):
                            await client.set_limit(Limit(key=key, org=org, requests_per_minute=1))
                        with pytest.raises(NotFound, match="there is no key"):
                            await client.set_budget(Budget(name=key, org=org, **DAILY))
            with acting_for(OTHER_ORG), pytest.raises(Forbidden, match="not to 'acme'"):
                await client.set_limit(Limit(key=key, org="acme", requests_per_minute=1))
            with acting_for(OTHER_DESK), pytest.raises(Forbidden, match="org:admin"):
                await client.set_limit(Limit(key=key, desk="research", requests_per_minute=1))
            with acting_for(ORG_ADMIN):
                await client.set_limit(Limit(key=key, requests_per_minute=100))
                await client.set_budget(Budget(name=key, **DAILY))
        assert await visible_subjects(client, OTHER_ORG) == ([], [])
        assert await visible_subjects(client, OTHER_DESK) == ([], [])
        assert await visible_subjects(client, ORG_ADMIN) == (sorted(KEYS), sorted(KEYS))
        with acting_for(OTHER_ORG), pytest.raises(Forbidden, match="not to 'acme'"):
            await client.list_limits(ListLimitsRequest(org="acme"))


async def test_unknown_keys_cannot_be_limited_and_callers_can_limit_themselves(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(ORG_ADMIN):
            for key in ("key_none", "cert:none", "oidc:none:one", "oidc:", "oidc", "key"):
                with pytest.raises(NotFound, match="there is no key"):
                    await client.set_limit(Limit(key=key, requests_per_minute=1))
        person = replace(DESK_MEMBER, key="oidc:none:one")
        with acting_for(person):
            await client.set_limit(Limit(key=person.key, requests_per_minute=5))
        assert await visible_subjects(client, person) == ([person.key], [])


async def test_listing_and_removing_limits_of_a_key_requires_permission(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce_all(client)

        async def remove(principal: Principal, key: str, org: str = "") -> None:
            with acting_for(principal):
                await client.remove_limit(RemoveLimitRequest(subject=Block.KEY, name=key, org=org))

        for key, remover, org in zip(KEYS, (DESK_MEMBER, ORG_ADMIN, PLATFORM), ("", "acme", "acme"), strict=True):
            with acting_for(PLATFORM):
                await client.set_limit(Limit(key=key, org="acme", requests_per_minute=100))
            assert key in (await visible_subjects(client, PLATFORM, "acme"))[0]
            for principal, org_name in ((OTHER_ORG, ""), (OTHER_DESK, ""), (OTHER_DESK, "acme"), (PLATFORM, "")):
                with pytest.raises(NotFound, match="has no limit"):
                    await remove(principal, key, org_name)
            with pytest.raises(Forbidden, match="not to 'acme'"):
                await remove(OTHER_ORG, key, "acme")
            await remove(remover, key, org)
        assert await visible_subjects(client, PLATFORM, "acme") == ([], [])


@pytest.mark.parametrize("how", HOW)
async def test_limits_set_by_other_orgs_are_deleted_when_keys_are_announced(profile: Profile, how: str) -> None:
    """Releases without the key directory let every org set limits on any name."""
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
        with acting_for(replace(ORG_ADMIN, key="key_1")):  # a caller can limit its own key before the key is announced
            await client.set_limit(Limit(key="key_1", requests_per_minute=100))
        await announce(client, "key_2")
        await announce_all(client)
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as updates:
            async for limits in updates:
                if not limits.blocks or {block.org for block in limits.blocks} == {"acme"}:
                    break
        assert [(entry.org, entry.desk, entry.key) for entry in limits.limits] == [
            ("acme", "research", "key_1"),
            ("acme", "research", "key_2"),
        ]
        assert await visible_subjects(client, OTHER_ORG) == ([], [])
        assert await visible_subjects(client, DESK_MEMBER) == (["key_1", "key_2"], ["key_2"])


async def test_usage_of_a_key_id_in_another_org_does_not_count(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(ORG_ADMIN):
            await client.set_limit(Limit(key="key_1", tokens_per_minute=1))
        other_usage = usage("a")
        other_usage.org, other_usage.desk = "other", "research"
        await client.report_usage(ReportUsageRequest(usages=[other_usage]))
        with acting_for(ORG_ADMIN):
            assert not (await client.list_limits(ListLimitsRequest())).blocks
        await client.report_usage(ReportUsageRequest(usages=[usage("b")]))
        for principal, visible_blocks in ((DESK_MEMBER, 1), (OTHER_DESK, 0), (OTHER_ORG, 0)):
            with acting_for(principal):
                assert len((await client.list_limits(ListLimitsRequest())).blocks) == visible_blocks


async def test_only_platform_admins_see_the_spending_of_other_orgs(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        for principal, org, lines in (
            (PLATFORM, "acme", 1),
            (PLATFORM, "", 0),
            (ORG_ADMIN, "", 1),
            (OTHER_DESK, "", 0),
        ):
            with acting_for(principal):
                assert len((await client.get_spend(GetSpendRequest(org=org))).lines) == lines
        with acting_for(OTHER_ORG), pytest.raises(Forbidden, match="not to 'acme'"):
            await client.get_spend(GetSpendRequest(org="acme"))


async def test_spending_of_all_orgs_on_a_model_requires_platform_metrics(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(PLATFORM):
            await client.set_budget(Budget(subject=Block.MODEL, name="vllm", **DAILY))
        with acting_for(replace(DESK_MEMBER, scopes=frozenset({"keys:read", "platform:read"}))):
            (budget,) = await counted_budgets(client)
        assert (budget.amount, budget.spent) == ("1.00", "0.00")
        with acting_for(replace(DESK_MEMBER, scopes=frozenset({"keys:read"}))):
            (budget,) = (await client.list_budgets(ListBudgetsRequest())).budgets
        assert (budget.amount, budget.spent) == ("1.00", "")


async def test_an_announcement_is_bounded_and_idempotent(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        many = [KeyOwner(key=f"key_{number}", org="acme", desk="research") for number in range(MAX_OWNERS + 1)]
        for invalid in (many, [KeyOwner(key="key_1")], [KeyOwner(org="acme")]):
            with pytest.raises(InvalidRequest):
                await client.announce_keys(AnnounceKeysRequest(owners=invalid))
        external = [KeyOwner(key="cert:a", org="acme", desk="research"), KeyOwner(key="oidc:idp:", org="acme")]
        for _ in range(2):
            await client.announce_keys(AnnounceKeysRequest(owners=many[:MAX_OWNERS]))
            await client.announce_keys(AnnounceKeysRequest(owners=external, external=True))
        with acting_for(ORG_ADMIN):
            for key in ("key_7", "cert:a", "oidc:idp:x"):
                await client.set_limit(Limit(key=key, requests_per_minute=1))
        await client.announce_keys(AnnounceKeysRequest(external=True))
        with acting_for(ORG_ADMIN):
            await client.set_limit(Limit(key="key_7", requests_per_minute=2))
            for key in ("cert:a", "oidc:idp:x"):
                with pytest.raises(NotFound, match="there is no key"):
                    await client.set_limit(Limit(key=key, requests_per_minute=2))
                await client.remove_limit(RemoveLimitRequest(subject=Block.KEY, name=key))


@pytest.mark.parametrize("how", HOW)
async def test_keys_and_certificates_are_announced_at_start_and_on_creation(profile: Profile, how: str) -> None:
    services = ["authentication", "rate_limiting"]
    scopes: JsonObject = {"scopes": sorted(SCOPES)}
    async with hosted(profile, services, how) as host:
        authentication, client = host.client(AuthenticationClient), host.client(RateLimitingClient)
        with acting_for(PLATFORM):
            await authentication.put_org(PutOrgRequest(name="other", **scopes))
            await authentication.put_desk(PutDeskRequest(org="other", name="research", **scopes))
            request = CreateKeyRequest(org="acme", desk="research", name="n", scopes=["models:read"])
            created = (await authentication.create_key(request)).key.id
            fields: JsonObject = {"org": "acme", "desk": "research", "scopes": ["models:read"]}
            await authentication.put_certificate(PutCertificateRequest(name="pricing", san="a.b", **fields))
        with acting_for(DESK_MEMBER):
            await client.set_limit(Limit(key=created, requests_per_minute=5))
        with acting_for(OTHER_ORG), pytest.raises(NotFound, match="there is no key"):
            await client.set_limit(Limit(key=created, requests_per_minute=1))
        await _wait_until_announced(profile, "cert:pricing")
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("delete from rate_limiting.key_owner")
    async with hosted(profile, services, how) as host:
        for key in (created, "cert:pricing"):
            await _wait_until_announced(profile, key)
            with acting_for(DESK_MEMBER):
                await host.client(RateLimitingClient).set_limit(Limit(key=key, requests_per_minute=5))


async def _wait_until_announced(profile: Profile, key: str) -> None:
    query = "select 1 from rate_limiting.key_owner where key = %s"
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        await asyncio.to_thread(wait_until, lambda: connection.execute(query, (key,)).fetchone() is not None, key)
