"""Limits, budgets and models in the explanation of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.load_balancer_rpc import LoadBalancerClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Limit
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import ExplainRouteRequest, Explanation, Route, WatchConfigurationRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from support.hosting import hosted
from support.json_types import Json

GATEWAY = ["authentication", "rate_limiting", "load_balancer", "request_router"]
HOW = ["together", "strict", "apart"]
CHAT = "/v1/chat/completions"
KEY, DESK, ORG, MODEL = Block.KEY, Block.DESK, Block.ORG, Block.MODEL


@pytest.fixture
def gateway_profile(profile: Profile) -> Profile:
    """A gateway with three configured models, in front of model serving that does not run."""
    models = {name: {"engine": "openai", "base_url": "http://10.0.0.9:1/v1"} for name in ("large", "small", "spare")}
    services = {
        "discovery": {"models": models, "default_model": "small"},
        "load_balancer": {"allowed_upstreams": ["10.0.0.0/8"]},
    }
    process = ServiceAddress(services=("serving",), grpc="unix:/nothing", http="unix:/nothing.h")
    return profile.model_copy(update={"services": services, "processes": {"models": process}})


@pytest.fixture
def admin(caller: Principal) -> Principal:
    return replace(caller, scopes=frozenset(SCOPES))


@asynccontextmanager
async def explained_host(
    profile: Profile, principal: Principal, services: Sequence[str] = (*GATEWAY, "discovery"), how: str = "together"
) -> AsyncIterator[tuple[Host, Callable[..., Awaitable[None]]]]:
    """Run the services for one caller; yield the host and a function that sets limits and waits for their delivery."""
    async with hosted(profile, list(services), how) as host:
        router = host.client(RequestRouterClient)
        with acting_for(principal):
            async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="dp"))) as updates:

                async def limited(*limits: Limit) -> None:
                    for limit in limits:
                        await host.client(RateLimitingClient).set_limit(limit)
                    async for state in updates:
                        if len(state.limits.limits) == len(limits):
                            break

                await anext(updates)
                yield host, limited


async def explain(host: Host, **request: Json) -> Explanation:
    return await host.client(RequestRouterClient).explain_route(ExplainRouteRequest(**{"path": CHAT, **request}))


def limits_of(explanation: Explanation) -> list[tuple[Json, ...]]:
    return [(b.subject, b.name, b.what, b.max, b.tightest) for b in explanation.limits]


@pytest.mark.parametrize("how", HOW)
async def test_an_explanation_lists_effective_limits_and_marks_the_tightest(
    gateway_profile: Profile, admin: Principal, how: str
) -> None:
    async with explained_host(gateway_profile, admin, how=how) as (host, limited):
        keys = host.client(AuthenticationClient)
        key = (await keys.create_key(CreateKeyRequest(name="n", scopes=["models:invoke"]))).key.id
        await limited(
            Limit(subject=DESK, desk="trading", requests_per_minute=7, concurrent=3),
            Limit(subject=ORG, requests_per_minute=900),
            Limit(key=key, tokens_per_minute=1000),
            Limit(subject=MODEL, model="large", tokens_per_minute=50, concurrent=2, requests_per_minute=800),
            Limit(subject=MODEL, model="spare", requests_per_minute=1),
        )
        of_key, default = await explain(host, key=key, model="large"), 600
        assert limits_of(of_key) == [
            (KEY, "", "requests a minute", default, True),
            (MODEL, "large", "requests a minute", 800, False),
            (ORG, "acme", "requests a minute", 900, False),
            (MODEL, "large", "tokens a minute", 50, True),
            (KEY, key, "tokens a minute", 1000, False),
            (MODEL, "large", "calls at once", 2, True),
        ]
        assert of_key.requests_per_minute == default
        trading = await explain(host, desk="trading")
        assert limits_of(trading) == [
            (DESK, "trading", "requests a minute", 7, True),
            (KEY, "", "requests a minute", default, False),
            (ORG, "acme", "requests a minute", 900, False),
            (DESK, "trading", "calls at once", 3, True),
        ]
        assert trading.requests_per_minute == 7
        assert (await explain(host)).requests_per_minute == default
        assert limits_of(await explain(host, path="/healthz")) == []


async def test_an_explanation_of_pass_through_omits_requests_and_concurrent_calls_of_the_model(
    gateway_profile: Profile, admin: Principal
) -> None:
    async with explained_host(gateway_profile, admin) as (host, limited):
        await host.client(LoadBalancerClient).set_upstream(Upstream(name="vllm", addresses=["10.0.0.1:80"]))
        route = Route(name="passing", path=CHAT, upstream="vllm", models=["large"], pass_through=True)
        await host.client(RequestRouterClient).set_route(route)
        await limited(Limit(subject=MODEL, model="large", requests_per_minute=5, tokens_per_minute=50, concurrent=2))
        explanation = await explain(host, model="large")
        assert (explanation.route, list(explanation.models)) == ("passing", [])
        assert limits_of(explanation) == [
            (KEY, "", "requests a minute", 600, True),
            (MODEL, "large", "tokens a minute", 50, True),
        ]


@pytest.mark.parametrize("how", HOW)
async def test_an_explanation_lists_the_models_of_an_alias_in_order(
    gateway_profile: Profile, admin: Principal, how: str
) -> None:
    targets = [WeightedTarget(model="small", weight=1), WeightedTarget(model="large", weight=3)]
    async with explained_host(gateway_profile, admin, how=how) as (host, limited):
        await host.client(DiscoveryClient).set_alias(Alias(name="fast", targets=targets, fallbacks=["spare"]))
        await limited(Limit(subject=MODEL, model="spare", tokens_per_minute=5))
        explanation = await explain(host, model="fast")
        assert [(m.model, m.percent) for m in explanation.models] == [("large", 75), ("small", 25), ("spare", 0)]
        assert (MODEL, "spare", "tokens a minute", 5, True) in limits_of(explanation)
        assert [(m.model, m.percent) for m in (await explain(host, model="small")).models] == [("small", 100)]
        unknown = await explain(host, model="nothing")
        assert list(unknown.models) == [] and "the model 'nothing' does not exist" in unknown.notes[0]
        assert list((await explain(host)).notes) == ["the model in the request body decides which model answers"]
        assert list((await explain(host, path="/v1/models", method="GET")).notes) == []


async def test_budgets_are_visible_only_with_permission(gateway_profile: Profile, admin: Principal) -> None:
    async with explained_host(gateway_profile, admin) as (host, _):
        limiting = host.client(RateLimitingClient)
        for budget in (
            Budget(subject=DESK, name="research", period="DAY", amount="5.00"),
            Budget(subject=DESK, name="trading", period="DAY", amount="6.00"),
            Budget(subject=MODEL, name="large", period="TOTAL", unit="TOKENS", amount="1000"),
        ):
            await limiting.set_budget(budget)
        explanation = await explain(host, model="large")
        assert [(b.subject, b.name) for b in explanation.budgets] == [(DESK, "research"), (MODEL, "large")]
        assert [b.name for b in (await explain(host, model="small")).budgets] == ["research"]
        with acting_for(replace(admin, scopes=frozenset({"platform:read"}))):
            unprivileged = await explain(host, model="large")
        assert list(unprivileged.budgets) == []
        assert list(unprivileged.notes) == ["budgets are seen with the scope 'keys:read', as in `drw budgets list`"]


async def test_without_discovery_an_explanation_notes_the_missing_models(
    gateway_profile: Profile, admin: Principal
) -> None:
    alone = gateway_profile.model_copy(update={"services": {"load_balancer": {}}})
    async with explained_host(alone, admin, GATEWAY) as (host, _):
        explanation = await explain(host, model="fast")
    assert explanation.route == "chat"
    assert list(explanation.notes) == ["which model answers is not known here: this profile has no discovery service"]
