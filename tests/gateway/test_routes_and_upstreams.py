"""Routes and upstreams of operators: validation, storage, audit records and delivery to data planes."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import DeleteUpstreamRequest, ListUpstreamsRequest, Upstream
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.request_router_pb2 import (
    ConfigurationReport,
    DeleteRouteRequest,
    ExplainRouteRequest,
    GetRolloutRequest,
    Health,
    ListRoutesRequest,
    Route,
    WatchConfigurationRequest,
)
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile
from drw.routing import resource_store
from support.database.audit_records import audit_records
from support.hosting import hosted
from support.json_types import Json, JsonObject

GATEWAY = ["authentication", "rate_limiting", "load_balancer", "request_router"]
HOW = ["together", "strict", "apart"]


@pytest.fixture
def open_profile(profile: Profile) -> Profile:
    """A profile that allows upstreams at 10.0.0.0/8, and defines one."""
    section = {"allowed_upstreams": ["10.0.0.0/8"], "upstreams": {"fixed": {"addresses": ["10.9.9.9:80"]}}}
    return profile.model_copy(update={"services": {"load_balancer": section}})


def upstream(name: str = "vllm", *addresses: str, **fields: Json) -> Upstream:
    return Upstream(name=name, addresses=addresses or ["10.0.0.1:8000"], **fields)


def route(**fields: Json) -> Route:
    default: JsonObject = {"name": "llama", "path": "/v1/x", "upstream": "vllm", "scopes": ["models:invoke"]}
    return Route(**(default | fields))


@pytest.mark.parametrize("how", HOW)
async def test_routes_and_upstreams_are_created_changed_and_deleted(
    open_profile: Profile, caller: Principal, how: str
) -> None:
    async with hosted(open_profile, GATEWAY, how) as host:
        balancer, router = host.client(LoadBalancerClient), host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            await anext(updates)
            with acting_for(caller):
                created = await balancer.set_upstream(upstream())
                assert (created.origin, created.when_gone) == ("record", "vllm does not answer")
                with pytest.raises(InvalidRequest, match="is 'nowhere'; it can be: .*fixed, .*vllm"):
                    await router.set_route(route(upstream="nowhere"))
                stored = await router.set_route(route())
                assert (stored.origin, stored.max_body_bytes, stored.idle_seconds) == ("record", 1 << 20, 120)
                await router.set_route(route(first_byte_ms=5))
            async for state in updates:
                routes = {entry.name: entry for entry in state.routes.routes}
                if "llama" in routes and routes["llama"].first_byte_ms == 5:
                    break
            with acting_for(caller):
                await router.delete_route(DeleteRouteRequest(name="llama"))
            async for state in updates:
                if "llama" not in {entry.name for entry in state.routes.routes}:
                    break
        with acting_for(caller):
            await balancer.delete_upstream(DeleteUpstreamRequest(name="vllm"))
            with pytest.raises(NotFound):
                await host.client(LoadBalancerClient).delete_upstream(DeleteUpstreamRequest(name="never"))
            with pytest.raises(NotFound):
                await router.delete_route(DeleteRouteRequest(name="never"))


async def test_every_change_is_audited_with_the_previous_state(open_profile: Profile, caller: Principal) -> None:
    async with hosted(open_profile, GATEWAY) as host:
        balancer, router = host.client(LoadBalancerClient), host.client(RequestRouterClient)
        with acting_for(caller):
            await balancer.set_upstream(upstream())
            await balancer.set_upstream(upstream("vllm", "10.0.0.2:1"))
            await router.set_route(route())
            await router.delete_route(DeleteRouteRequest(name="llama"))
            await balancer.delete_upstream(DeleteUpstreamRequest(name="vllm"))
    records = audit_records(open_profile, "route.*", "upstream.*")
    assert [(r["action"], r["resource"], r["actor"], r["org"]) for r in records] == [
        (action, resource, "key_test", "acme")
        for action, resource in [
            ("upstream.set", "upstream/vllm"),
            ("upstream.set", "upstream/vllm"),
            ("route.set", "route/llama"),
            ("route.delete", "route/llama"),
            ("upstream.delete", "upstream/vllm"),
        ]
    ]
    changes = [(r["details"]["before"], r["details"]["after"]) for r in records]
    assert changes[0][0] is None and changes[0][1]["addresses"] == ["10.0.0.1:8000"]
    assert (changes[1][0]["addresses"], changes[1][1]["addresses"]) == (["10.0.0.1:8000"], ["10.0.0.2:1"])
    assert changes[3][0]["name"] == "llama" and changes[3][1] is None


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"name": "Big"}, "lower"),
        ({"name": ""}, "lower"),
        ({"name": "gateway"}, "'gateway' is an upstream of the profile"),
        ({"name": "fixed"}, "'fixed' is an upstream of the settings"),
        ({"addresses": []}, "addresses is empty"),
        ({"addresses": ["10.0.0.1:80", "10.0.0.1:80"]}, "twice"),
        ({"addresses": ["http://10.0.0.1:80"]}, "without 'http://'"),
        ({"addresses": ["10.0.0.1"]}, "'host:8000'"),
        ({"addresses": ["11.0.0.1:80"]}, "not allowed; allowed are: '10.0.0.0/8'"),
        ({"addresses": ["rebind.example:80"]}, "a name needs its own entry, as in 'rebind.example:80'"),
        ({"addresses": ["169.254.169.254:80"]}, "metadata"),
        ({"addresses": ["127.0.0.1:5432"]}, "not allowed"),
        ({"addresses": ["unix:/run/postgres"]}, "not allowed"),
        ({"balancing": "fair"}, "least_request, ring_hash"),
        ({"credential": "sk-123/../x"}, "never the key itself"),
        ({"services": ["serving"]}, "leave it out"),
        ({"connect_ms": 60_001}, "it can be 0 to 60000"),
        ({"retry_percent": -1}, "it can be 0 to 100"),
        ({"when_gone": "x\ny"}, "printable"),
    ],
)
async def test_an_invalid_upstream_is_rejected(
    open_profile: Profile, caller: Principal, invalid: JsonObject, message: str
) -> None:
    processes = {"gateway": {"services": tuple(GATEWAY), "grpc": "unix:/nowhere.g", "http": "unix:/nowhere.h"}}
    changed = type(open_profile).model_validate(open_profile.model_dump() | {"processes": processes})
    async with hosted(changed, ["load_balancer"]) as host:
        fields: JsonObject = {"name": "vllm", "addresses": ["10.0.0.1:80"]} | invalid
        with acting_for(caller), pytest.raises((InvalidRequest, Conflict), match=message):
            await host.client(LoadBalancerClient).set_upstream(Upstream(**fields))


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"name": "A"}, "lower"),
        ({"name": "chat"}, "is a route of the platform"),
        ({"path": "v1"}, "a path prefix"),
        ({"path": "/v1/"}, "without a '/' at its end"),
        ({"path": "/v1/../x"}, "cannot have the segments"),
        ({"path": "/v1/a b"}, "a path prefix"),
        ({"path": "/api/v1/keys"}, "belong to the platform"),
        ({"path": "/metrics/x"}, "belong to the platform"),
        ({"methods": ["get"]}, "it can be: GET"),
        ({"scopes": []}, "scopes is empty; give at least one of"),
        ({"scopes": ["fly"]}, "is 'fly'; it can be: models:invoke"),
        ({"upstream": ""}, "either an upstream or a split"),
        ({"split": [{"upstream": "vllm", "weight": 1}]}, "either an upstream or a split"),
        ({"upstream": "", "split": [{"upstream": "vllm", "weight": 0}]}, "above 0"),
        ({"upstream": "", "split": [{"upstream": "vllm", "weight": 1001}]}, "0 to 1000"),
        ({"upstream": "", "split": [{"upstream": "vllm", "weight": 1}] * 2}, "twice"),
        ({"fallbacks": ["nowhere"]}, "is 'nowhere'; it can be: "),
        ({"fallbacks": ["secret"]}, "must have the same credential"),
        ({"tenants": ["acme/"]}, "'acme/research'"),
        ({"tenants": ["a b"]}, "an org or a desk"),
        ({"headers": [{"name": "X-A"}]}, "lower"),
        ({"headers": [{"name": "x-drw-org", "exact": "a"}]}, "use tenants"),
        ({"headers": [{"name": "x-a", "exact": "a", "prefix": "b"}]}, "give one of them"),
        ({"headers": [{"name": "x-a", "exact": "a\n"}]}, "printable"),
        ({"affinity": ["cookie"]}, "'header:x-session-id'"),
        ({"affinity": ["body:user"]}, "only a route with models and pass_through"),
        ({"models": ["a"], "methods": ["GET"]}, "the one method POST"),
        ({"models": ["a", "a"]}, "twice"),
        ({"model_header": True}, "needs one model"),
        ({"models": ["a", "b"], "model_header": True}, "needs one model"),
        ({"upstream_model": "b"}, "needs models and pass_through"),
        ({"models": ["a"], "pass_through": True, "upstream_model": "b", "model_header": True}, "one of them"),
        ({"models": ["a"], "max_body_bytes": 1 << 29}, "buffered until it is read"),
        ({"max_body_bytes": -1}, "0 to"),
        ({"idle_seconds": 3601}, "0 to 3600"),
        ({"first_byte_ms": 10, "total_ms": 5}, "less than first_byte_ms"),
        ({"tenants": ["a"] * 51}, "at most 50"),
    ],
)
async def test_an_invalid_route_is_rejected(
    open_profile: Profile, caller: Principal, invalid: JsonObject, message: str
) -> None:
    async with hosted(open_profile, GATEWAY) as host:
        with acting_for(caller):
            await host.client(LoadBalancerClient).set_upstream(upstream())
            await host.client(LoadBalancerClient).set_upstream(upstream("secret", credential="one"))
            with pytest.raises((InvalidRequest, Conflict), match=message):
                await host.client(RequestRouterClient).set_route(route(**invalid))


async def test_the_number_of_routes_is_limited(
    open_profile: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource_store, "MAX_RESOURCES", 1)
    async with hosted(open_profile, GATEWAY) as host:
        router = host.client(RequestRouterClient)
        with acting_for(caller):
            await host.client(LoadBalancerClient).set_upstream(upstream())
            await router.set_route(route())
            await router.set_route(route(idle_seconds=5))
            with pytest.raises(Conflict, match="delete one first"):
                await router.set_route(route(name="second"))


async def test_a_route_without_its_upstream_is_omitted_and_reported(open_profile: Profile, caller: Principal) -> None:
    async with hosted(open_profile, GATEWAY) as host:
        balancer, router = host.client(LoadBalancerClient), host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            with acting_for(caller):
                await balancer.set_upstream(upstream())
                await router.set_route(route())
                async for state in updates:
                    if "llama" in {entry.name for entry in state.routes.routes}:
                        break
                await balancer.delete_upstream(DeleteUpstreamRequest(name="vllm"))
                async for state in updates:
                    if "llama" not in {entry.name for entry in state.routes.routes}:
                        break
                rollout = await router.get_rollout(GetRolloutRequest())
        assert list(rollout.lost) == ["'llama': there is no upstream 'vllm'"]
        status = next(s for s in (await host.status()).services if s.name == "request_router")
        assert status.state == ServiceStatus.DEGRADED and "'llama'" in status.detail


async def test_an_upstream_that_the_allow_list_no_longer_allows_is_omitted(
    open_profile: Profile, caller: Principal
) -> None:
    async with hosted(open_profile, ["load_balancer"]) as host:
        with acting_for(caller):
            await host.client(LoadBalancerClient).set_upstream(upstream())
    shorter = open_profile.model_copy(update={"services": {"load_balancer": {"allowed_upstreams": ["10.7.0.0/16"]}}})
    async with hosted(shorter, ["load_balancer"]) as host:
        with acting_for(caller):
            response = await host.client(LoadBalancerClient).list_upstreams(ListUpstreamsRequest())
        assert list(response.upstreams) == []
        (status,) = (await host.status()).services
        assert status.state == ServiceStatus.DEGRADED and "left out: 'vllm'" in status.detail


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"allowed_upstreams": ["*"]}, "not an entry of a list of addresses"),
        ({"upstreams": {"x": {"addresses": ["10.0.0.1:80"]}}}, "upstreams.x: the address '10.0.0.1:80' is not allowed"),
        ({"allowed_upstreams": ["0.0.0.0/0"], "upstreams": {"x": {"addresses": ["169.254.169.254:80"]}}}, "metadata"),
    ],
)
async def test_settings_with_a_forbidden_address_are_rejected(
    profile: Profile, section: JsonObject, message: str
) -> None:
    host = Host(profile.model_copy(update={"services": {"load_balancer": section}}), "test", ["load_balancer"])
    with pytest.raises(ConfigError, match=message):
        await host.start()
    await host.stop()


async def test_the_rollout_contains_the_report_of_each_data_plane(open_profile: Profile, caller: Principal) -> None:
    circuits = {"10.0.0.1:80": Health.OPEN, "10.0.0.2:80": Health.HALF_OPEN, "10.0.0.3:80": Health.CLOSED}
    health = [Health(upstream="vllm", address=address, circuit=circuit) for address, circuit in circuits.items()]
    async with hosted(open_profile, GATEWAY) as host:
        router = host.client(RequestRouterClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            version = (await anext(updates)).version
        report = ConfigurationReport(data_plane="dp", version=version, upstreams=health, notes=["see to it"])
        await router.report_configuration(report)
        with acting_for(caller):
            rollout = await router.get_rollout(GetRolloutRequest())
        assert (rollout.version, list(rollout.data_planes)) == (version, [report])
        status = next(s for s in (await host.status()).services if s.name == "request_router")
        assert status.state == ServiceStatus.DEGRADED
        told = "(see to it); circuit open: vllm at 10.0.0.1:80; circuit half-open: vllm at 10.0.0.2:80"
        assert status.detail.endswith(told)


async def test_a_request_is_explained_for_a_visible_key_or_desk(open_profile: Profile, caller: Principal) -> None:
    async with hosted(open_profile, GATEWAY) as host:
        router, keys = host.client(RequestRouterClient), host.client(AuthenticationClient)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:
            await anext(updates)
        with acting_for(caller):
            key = (await keys.create_key(CreateKeyRequest(name="n", scopes=["models:read"]))).key.id
            await host.client(LoadBalancerClient).set_upstream(upstream())
            explanation = await router.explain_route(ExplainRouteRequest(path="/v1/nothing?x=1", key=key))
            assert (explanation.route, explanation.key, list(explanation.scopes)) == ("", key, ["models:read"])
            cases: list[tuple[JsonObject, type[Exception]]] = [
                ({"path": "x"}, InvalidRequest),
                ({"path": "/x", "key": key, "desk": "d"}, InvalidRequest),
                ({"path": "/x", "desk": "trading"}, Forbidden),
                ({"path": "/x", "key": "key_none"}, NotFound),
            ]
            for invalid, error in cases:
                with pytest.raises(error):
                    await router.explain_route(ExplainRouteRequest(**invalid))
        with acting_for(replace(caller, org="other")), pytest.raises(NotFound):
            await router.explain_route(ExplainRouteRequest(path="/x", key=key))
        with acting_for(replace(caller, scopes=frozenset({"org:admin"}))):
            explanation = await router.explain_route(ExplainRouteRequest(path="/x", desk="trading"))
            assert (explanation.desk, explanation.key) == ("trading", "")
        with acting_for(caller):
            listed = await router.list_routes(ListRoutesRequest())
        assert all(entry.origin == "table" for entry in listed.routes)
