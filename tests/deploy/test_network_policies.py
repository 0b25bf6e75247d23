"""NetworkPolicies open exactly the calls of the catalog."""

from __future__ import annotations

import pytest

from deploy.charts import NAME, VALUE_SETS, Rendered, of_service
from deploy.reachability import Pod, reachable
from drw.catalog import AGENT_CALLS, BY_NAME, PLACEMENTS
from support.json_types import JsonObject

GRPC, HTTP, PROBES, INFERENCE = 9000, 8000, 8001, 9001
PORTS = (GRPC, HTTP, PROBES, INFERENCE, 8080, 22, 443)
DATA_PLANE = f"{NAME}-data-plane"


def pods(objects: Rendered) -> list[Pod]:
    return [Pod(name, frozenset(pod["metadata"]["labels"].items())) for name, pod in objects.pods().items()]


def connections(objects: Rendered) -> set[tuple[str, str, int]]:
    return reachable(pods(objects), objects.of("NetworkPolicy").values(), PORTS)


def expected() -> set[tuple[str, str, int]]:
    """Return the connections that the catalog permits."""
    calls = {(service.name, called) for service in BY_NAME.values() for called in service.calls}
    calls |= {(name, other) for name in BY_NAME for other in BY_NAME if PLACEMENTS[name].reads_status}
    between = {(of_service(a), of_service(b), GRPC) for a, b in calls if a != b}
    from_envoy = {(DATA_PLANE, of_service(name), HTTP) for name in BY_NAME} | {(DATA_PLANE, "drw-serving", INFERENCE)}
    return between | from_envoy | {(DATA_PLANE, of_service(name), GRPC) for name in AGENT_CALLS}


def test_only_calls_of_the_catalog_are_open() -> None:
    assert connections(Rendered({})) == expected()


def test_without_network_policies_everything_is_open() -> None:
    objects = Rendered(VALUE_SETS["minimal"])
    count = len(pods(objects))
    assert len(connections(objects)) == count * (count - 1) * len(PORTS)


def test_call_that_the_values_add_is_open_and_no_other() -> None:
    added = Rendered({"services": {"templates": {"calls": ["state"]}}})
    assert connections(added) == expected() | {("drw-templates", "drw-state", GRPC)}


def test_engines_answer_only_the_data_plane_and_services_that_call_models() -> None:
    objects = Rendered(VALUE_SETS["google"])
    callers = {
        source for source, target, port in connections(objects) | engine_connections(objects) if "engine" in target
    }
    assert callers == {DATA_PLANE, *(of_service(name) for name in BY_NAME if PLACEMENTS[name].internet)}


def engine_connections(objects: Rendered) -> set[tuple[str, str, int]]:
    return reachable(pods(objects), objects.of("NetworkPolicy").values(), [HTTP])


@pytest.mark.parametrize("values", ["defaults", "google", "kafka"])
def test_every_pod_is_denied_by_default(values: str) -> None:
    objects = Rendered(VALUE_SETS[values])
    policies = [policy["spec"] for policy in objects.of("NetworkPolicy").values()]
    (default,) = [spec for spec in policies if not spec.get("ingress") and not spec.get("egress")]
    assert default["policyTypes"] == ["Ingress", "Egress"]
    selector = set(default["podSelector"]["matchLabels"].items())
    assert all(selector <= pod.labels for pod in pods(objects))


def egress(objects: Rendered, service: str) -> set[tuple[str, int]]:
    """Return the address ranges outside of the release that a service can reach."""
    rules: list[JsonObject] = objects.of("NetworkPolicy")[of_service(service)]["spec"]["egress"]
    return {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in rules
        for peer in rule["to"]
        if "ipBlock" in peer
        for port in rule["ports"]
    }


def test_services_reach_only_the_stores_that_they_use() -> None:
    objects = Rendered({})
    for name, placement in PLACEMENTS.items():
        ports = {port for _, port in egress(objects, name)}
        assert ports == {5432} | ({6379} if placement.valkey else set()) | ({443} if placement.internet else set())
    kafka = Rendered({"bus": {"adapter": "kafka", "kafka": {"bootstrap": "kafka.acme:9092"}}})
    assert {name for name in BY_NAME if 9092 in {port for _, port in egress(kafka, name)}} == {"events"}
    pubsub = Rendered({"bus": {"adapter": "pubsub"}})
    assert ("0.0.0.0/0", 443) in egress(pubsub, "events")
