"""Reachability of pods by NetworkPolicies, as a network plugin computes it, for policies with pod selectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from support.json_types import JsonObject


@dataclass(frozen=True)
class Pod:
    """A pod with its labels, in the namespace of the policies."""

    name: str
    labels: frozenset[tuple[str, str]]


def reachable(pods: Iterable[Pod], policies: Iterable[JsonObject], ports: Iterable[int]) -> set[tuple[str, str, int]]:
    """Return which pod can open a connection to which other one at which TCP port."""
    pods, policies = list(pods), list(policies)
    return {
        (source.name, target.name, port)
        for source in pods
        for target in pods
        for port in ports
        if source != target
        and _permits(policies, "Egress", source, target, port)
        and _permits(policies, "Ingress", target, source, port)
    }


def _permits(policies: list[JsonObject], direction: str, pod: Pod, peer: Pod, port: int) -> bool:
    selecting = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"] and _selects(policy["spec"]["podSelector"], pod)
    ]
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    rules = [rule for spec in selecting for rule in spec.get(key) or []]
    return not selecting or any(_rule_permits(rule, peers, peer, port) for rule in rules)


def _rule_permits(rule: JsonObject, peers: str, peer: Pod, port: int) -> bool:
    ports = rule.get("ports")
    if ports and not any(each.get("protocol", "TCP") == "TCP" and each["port"] == port for each in ports):
        return False
    if not rule.get(peers):
        return True  # all peers
    # Other namespaces and address ranges are outside of the release.
    return any(
        "podSelector" in each and "namespaceSelector" not in each and _selects(each["podSelector"], peer)
        for each in rule[peers]
    )


def _selects(selector: JsonObject, pod: Pod) -> bool:
    assert "matchExpressions" not in selector
    return set(selector.get("matchLabels", {}).items()) <= pod.labels
