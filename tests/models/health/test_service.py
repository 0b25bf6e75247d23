"""The health service with real processes: models, counts, states that survive a restart, and other tenants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.models.v1.discovery_pb2 import ListModelsRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.health_pb2 import GetReportRequest, ListSlosRequest, ListTransitionsRequest, Slo
from drw.api.models.v1.health_rpc import HealthClient
from drw.catalog import BY_NAME
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from models.cluster import ModelsCluster
from support.parts import until

READY, DOWN = ServiceStatus.READY, ServiceStatus.DOWN
OTHER = {"x-drw-key": "key_other", "x-drw-org": "other", "x-drw-desk": "d", "x-drw-scopes": "platform:read"}
ADMIN = OTHER | {"x-drw-scopes": "platform:read platform:admin"}


async def states(client: HealthClient, service: str) -> list[tuple[int, int]]:
    """Return the changes of state of a service, oldest first."""
    response = await client.list_transitions(ListTransitionsRequest(service=service))
    return [(getattr(each, "from"), each.to) for each in reversed(response.transitions)]


async def availability(client: HealthClient, service: str) -> Slo:
    listed = (await client.list_slos(ListSlosRequest())).slos
    return next(slo for slo in listed if (slo.service, slo.objective) == (service, "availability"))


@pytest.fixture
def spread(profile: Profile, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Health and discovery in two processes, which are polled without a pause."""
    base = f"{folder}/{tmp_path_factory.mktemp('h').name}"
    processes = {
        name: ServiceAddress(services=(name,), grpc=f"unix:{base}{name}.g", http=f"unix:{base}{name}.h")
        for name in ("health", "discovery")
    }
    services = profile.services | {"health": {"poll_seconds": 0.05}}
    return profile.model_copy(update={"processes": processes, "services": services})


@pytest.mark.usefixtures("outcomes_from_zero")
async def test_states_and_budgets_are_stored_and_survive_a_restart_of_health(spread: Profile) -> None:
    discovery, health = Host(spread, "discovery"), Host(spread, "health")
    try:
        await discovery.start()
        await health.start()
        client = health.client(HealthClient)
        calls = health.client(DiscoveryClient, "request_router")

        async def is_ready() -> bool:
            return (await states(client, "discovery"))[-1:] == [(0, READY)]

        await until(is_ready, "the first report")
        before = (await availability(client, "discovery")).requests
        for _ in range(20):
            await calls.list_models(ListModelsRequest())

        async def is_counted() -> bool:
            return (await availability(client, "discovery")).requests >= before + 20

        await until(is_counted, "the calls")
        assert (await availability(client, "discovery")).budget_left == 1
        await discovery.stop(grace=0)

        async def is_down() -> bool:
            return (await states(client, "discovery"))[-1:] == [(READY, DOWN)]

        await until(is_down, "the end of the process")

        async def budget_shrinks() -> bool:  # although nobody calls
            return (await availability(client, "discovery")).budget_left < 1

        await until(budget_shrinks, "the loss of the budget")
        spent = await availability(client, "discovery")
        await health.stop(grace=0)
        health = Host(spread, "health")
        await health.start()
        client = health.client(HealthClient)
        assert (await availability(client, "discovery")).bad >= spent.bad
        assert await states(client, "discovery") == [(0, READY), (READY, DOWN)]
    finally:
        await discovery.stop(grace=0)
        await health.stop(grace=0)


async def test_models_are_probed_and_their_circuits_followed(start: Callable[..., Any]) -> None:
    circuits = {"open_seconds": 60, "max_open_seconds": 60, "consecutive_failures": 1}
    async with start(more=["health"], circuits=circuits, retries={"max_retries": 0}) as cluster:
        client = cluster.host.client(HealthClient)

        async def is_probed() -> bool:
            report = await client.get_report(GetReportRequest())
            return {(m.model, m.probe, m.circuit) for m in report.models} == {
                ("double", "answered", "closed"),
                ("vectors", "answered", ""),
            }

        await until(is_probed, "the probes")
        await _fail(cluster)

        async def is_open() -> bool:
            return [each for each in await states(client, "model/double")][-1:] == [(READY, DOWN)]

        await until(is_open, "the circuit in the history")
        with acting_for(Principal("other", "d", "key_other", frozenset({"platform:read"}))):
            report = await client.get_report(GetReportRequest())
            hidden = (await client.list_transitions(ListTransitionsRequest(service="model/double"))).transitions
        assert {(m.model, m.replica, m.error) for m in report.models} == {
            ("double", "", "EngineUnavailable"),
            ("vectors", "", ""),
        }
        assert {(each.service, each.detail) for each in hidden} == {("model/double", "")}


async def test_the_api_hides_numbers_details_and_replicas_from_other_tenants(start: Callable[..., Any]) -> None:
    async with start(more=["health"]) as cluster:
        for _ in range(3):
            await cluster.client.models.list()

        async def is_listed() -> bool:
            return bool((await _get(cluster.http, "history", ADMIN))["transitions"])

        await until(is_listed, "the first report")
        seen = await _get(cluster.http, "history", OTHER)
        assert all(each["detail"] == "" for each in seen["transitions"])
        slos = (await _get(cluster.http, "slos", OTHER))["slos"]
        assert {(slo["requests"], slo["bad"]) for slo in slos} == {(0, 0)}
        assert len(slos) == 2 * len(BY_NAME)
        (one,) = (await _get(cluster.http, "history", ADMIN, page_size=1))["transitions"]
        past = await _get(cluster.http, "history", ADMIN, to=one["at"])
        assert one not in past["transitions"]
        for path, headers, status in (
            ("history?from=yesterday", ADMIN, 400),
            ("history?page_size=1001", ADMIN, 400),
            ("history?page_token=x", ADMIN, 400),
            ("history", OTHER | {"x-drw-scopes": "models:read"}, 403),
            ("slos", OTHER | {"x-drw-scopes": "models:read"}, 403),
        ):
            answer = await cluster.http.get(f"/api/v1/health/{path}", headers=headers)
            assert answer.status_code == status, (path, answer.text)


async def _get(http: httpx.AsyncClient, path: str, headers: dict[str, str], **query: Any) -> dict[str, Any]:
    answer = await http.get(f"/api/v1/health/{path}", headers=headers, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def _fail(cluster: ModelsCluster) -> None:
    answer = await cluster.http.post(
        "/v1/chat/completions", json={"model": "double", "messages": [{"role": "user", "content": "status_500"}]}
    )
    assert answer.status_code == 503
