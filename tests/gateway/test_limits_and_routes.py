"""Limits, upstreams and routes, and the desired state that contains them."""

from __future__ import annotations

import importlib
import re
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import ListUpstreamsRequest
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.rate_limiting_pb2 import Budget, Limit, ListLimitsRequest, WatchLimitsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import ConfigurationReport, ListRoutesRequest, WatchConfigurationRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.catalog import SERVICES, Service
from drw.gateway.authentication.issuers import validation
from drw.gateway.load_balancer.settings import UpstreamSettings
from drw.gateway.load_balancer.upstreams import from_profile
from drw.gateway.request_router.routes.table import route_table
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import MAX_ID, SCOPES, Principal, acting_for
from drw.kernel.rpc.http import rest
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile, ServiceAddress
from support.gateway.keys import announce
from support.hosting import hosted
from support.json_types import Json
from support.telemetry.metrics import scrape

GATEWAY = ["authentication", "rate_limiting", "load_balancer", "request_router"]
HOW = ["together", "strict", "apart"]


def settings(profile: Profile, **services: Json) -> Profile:
    return profile.model_copy(update={"services": profile.services | services})


def limit(number: int = 5, **fields: Json) -> Limit:
    created = Limit(**{"key": "key_1", "org": "acme", "desk": "research", "requests_per_minute": number, **fields})
    created.expires_at.FromDatetime(fields.get("expires_at") or datetime.now(UTC) + timedelta(hours=1))
    return created


@pytest.mark.parametrize("how", HOW)
async def test_watchers_receive_changes_of_limits(profile: Profile, caller: Principal, how: str) -> None:
    changed = settings(profile, rate_limiting={"default_requests_per_minute": 60})
    async with hosted(changed, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as updates:
            first = await anext(updates)
            assert (first.default_requests_per_minute, list(first.limits)) == (60, [])
            await announce(client, "key_1")
            with acting_for(caller):
                await client.set_limit(limit(5))
                await client.set_limit(limit(6))
            async for limits in updates:
                if [(entry.key, entry.requests_per_minute) for entry in limits.limits] == [("key_1", 6)]:
                    break


@pytest.mark.parametrize("how", HOW)
async def test_a_limit_is_visible_to_its_desk_until_it_expires(profile: Profile, caller: Principal, how: str) -> None:
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)

        async def visible(principal: Principal) -> list[str]:
            with acting_for(principal):
                return [entry.key for entry in (await client.list_limits(ListLimitsRequest())).limits]

        await announce(client, "key_1", "key_old")
        with acting_for(caller):
            await client.set_limit(limit())
            await client.set_limit(limit(key="key_old", expires_at=datetime.now(UTC) - timedelta(seconds=1)))
            with pytest.raises(NotFound, match="no key 'key_1'"):  # a platform admin can name another org
                await client.set_limit(limit(org="other"))
            with pytest.raises(Forbidden, match="org:admin"):
                await client.set_limit(limit(desk="trading"))
            for invalid in (limit(0), limit(1_000_001), limit(key=""), limit(key="k" * (MAX_ID + 1))):
                with pytest.raises(InvalidRequest):
                    await client.set_limit(invalid)
        org_member = replace(caller, scopes=caller.scopes - {"platform:admin"})
        with acting_for(org_member), pytest.raises(Forbidden, match="not to 'other'"):
            await client.set_limit(limit(org="other"))
        with acting_for(replace(caller, org="other")), pytest.raises(NotFound, match="no key 'key_1'"):
            await client.set_limit(limit(org="other"))
        assert await visible(caller) == ["key_1"]
        assert await visible(replace(caller, desk="trading")) == []
        assert await visible(replace(caller, desk="trading", scopes=frozenset(SCOPES))) == ["key_1"]
        assert await visible(replace(caller, org="other", scopes=frozenset(SCOPES))) == []


async def test_callers_of_an_issuer_can_have_limits_and_budgets(profile: Profile) -> None:
    lua = (resources.files("drw.agent.xds.http_filters") / "identity.lua").read_text()
    (longest,) = re.findall(r"MAX_SUBJECT = (\d+)", lua)
    caller_id = f"oidc:{'i' * validation.MAX_NAME}:{'s' * int(longest)}"
    assert len(caller_id) <= MAX_ID
    boss = Principal("acme", "research", "key_boss", frozenset(SCOPES))
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, caller_id[: caller_id.rindex(":") + 1], desk="")
        with acting_for(boss):
            await client.set_limit(limit(key=caller_id))
            await client.set_budget(Budget(name=caller_id, period=Budget.DAY, amount="1"))
            assert [entry.key for entry in (await client.list_limits(ListLimitsRequest())).limits] == [caller_id]


def test_the_message_of_an_unavailable_upstream_names_unaffected_services() -> None:
    processes = {
        name: ServiceAddress(services=("a", "b"), grpc="", http=f"unix:/{name}")
        for name in ("models", "rag", "workflow")
    }
    messages = {
        upstream.name: upstream.when_gone
        for upstream in from_profile(processes, {"vllm": UpstreamSettings(addresses=("vllm:80",))})
    }
    assert messages == {
        "models": "the models services (a, b) do not answer",
        "rag": "the rag services (a, b) do not answer; model calls are not affected",
        "vllm": "vllm does not answer; model calls, documents and search and workflows are not affected",
        "workflow": "the workflow services (a, b) do not answer; model calls and documents and search are not affected",
    }


@pytest.mark.parametrize("how", HOW)
async def test_upstreams_come_from_the_profile_and_the_settings(profile: Profile, caller: Principal, how: str) -> None:
    changed = settings(
        profile,
        load_balancer={
            "upstreams": {"vllm": {"addresses": ["127.0.0.1:9", "127.0.0.1:10"]}},
            "allowed_upstreams": ["127.0.0.1"],
        },
    )
    async with hosted(changed, ["load_balancer"], how) as host:
        with acting_for(caller):
            upstreams = (await host.client(LoadBalancerClient).list_upstreams(ListUpstreamsRequest())).upstreams
    addresses = {upstream.name: list(upstream.addresses) for upstream in upstreams}
    assert addresses.pop("vllm") == ["127.0.0.1:9", "127.0.0.1:10"]
    assert addresses == ({"load_balancer": [host.profile.address_of("load_balancer").http]} if how == "apart" else {})


def test_every_rest_path_of_the_contracts_has_a_route() -> None:
    routes, _ = route_table(["gateway", "models", "rag", "workflow"], ())
    prefixes = [route.path for route in routes]
    for service in SERVICES:
        for path in paths(service):
            assert any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes), path


def paths(service: Service) -> list[str]:
    contract = importlib.import_module(f"drw.api.{service.cluster}.v1.{service.name}_rpc")
    name = service.contract.rpartition(".")[2]
    methods = getattr(contract, name).contract.methods.values()
    return [rule[1] for method in methods if (rule := rest.http_rule(method))]


@pytest.mark.parametrize("how", HOW)
async def test_the_desired_state_changes_with_keys_and_limits(profile: Profile, caller: Principal, how: str) -> None:
    async with hosted(profile, GATEWAY, how) as host:
        keys, router = host.client(AuthenticationClient), host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            first = await anext(updates)
            with acting_for(caller):
                request = CreateKeyRequest(name="n", scopes=["models:read"], requests_per_minute=9)
                created = (await keys.create_key(request)).key
                second = await anext(updates)
                await keys.revoke_key(RevokeKeyRequest(id=created.id))
                third = await anext(updates)
        assert [limit.key for limit in second.limits.limits] == [created.id]
        assert list(third.credentials.revoked) == [created.id]
        assert len({first.version, second.version, third.version}) == 3
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            assert (await anext(updates)).version == third.version
        with acting_for(caller):
            routes = (await router.list_routes(ListRoutesRequest())).routes
        assert {route.upstream for route in routes} == {upstream.name for upstream in first.upstreams.upstreams}


async def test_the_status_shows_the_version_of_each_data_plane(profile: Profile) -> None:
    async with hosted(profile, GATEWAY) as host:
        router = host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            desired = await anext(updates)
        version = desired.version

        async def status() -> tuple[int, str]:
            service = next(s for s in (await host.status()).services if s.name == "request_router")
            return service.state, service.detail

        assert await status() == (ServiceStatus.READY, f"version {version}; no data plane has reported yet")
        await router.report_configuration(ConfigurationReport(data_plane="dp", version=version))
        pending = f"version {version}; data plane 'dp' runs {version}, and has not applied all refusals yet"
        assert await status() == (ServiceStatus.READY, pending)
        report = ConfigurationReport(data_plane="dp", version=version, refusals=desired.refusals)
        await router.report_configuration(report)
        assert await status() == (ServiceStatus.READY, f"version {version}; data plane 'dp' runs {version}")
        await router.report_configuration(
            ConfigurationReport(data_plane="dp", version=version, error="no", refusals=desired.refusals)
        )
        state, detail = await status()
        assert state == ServiceStatus.DEGRADED and detail.endswith(f"'dp' does not run version {version}: no")
        with pytest.raises(InvalidRequest):
            await router.report_configuration(ConfigurationReport(version=version))


async def test_a_route_of_the_settings_with_an_unknown_scope_is_rejected(profile: Profile) -> None:
    route = {"name": "x", "path": "/x", "upstream": "models", "scopes": ["models:fly"]}
    host = Host(settings(profile, request_router={"routes": [route]}), "test", GATEWAY)
    with pytest.raises(ConfigError, match="'models:fly' is not a scope"):
        await host.start()
    await host.stop()


async def test_metrics_count_data_planes_by_configuration(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, GATEWAY) as host:
        router = host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="a"))) as versions:
            desired = (await anext(versions)).version
        assert (await scrape(host))["drw_configuration_complete"] == 1
        for name, version, error in [("a", desired, ""), ("b", "old", ""), ("c", desired, "no"), ("d", desired, "")]:
            await router.report_configuration(ConfigurationReport(data_plane=name, version=version, error=error))
        metrics = await scrape(host)
    counts = {which: metrics[f'drw_data_planes{{configuration="{which}"}}'] for which in ("newest", "older", "refused")}
    assert counts == {"newest": 2, "older": 1, "refused": 1}
    assert metrics['drw_service_ready{service="request_router"}'] == 0
