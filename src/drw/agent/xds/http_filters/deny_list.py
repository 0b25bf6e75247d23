"""Deny list as Envoy's RBAC filters: revoked keys, killed subjects, exhausted token limits and budgets.

The filters run after authentication. They are delivered separately, ahead of everything else and without validation:
they contain only names, their structure never changes, and Envoy still rejects an invalid one on loading.
"""

from __future__ import annotations

from collections.abc import Iterable

from drw.agent.xds.builders import Json, extension, typed
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.routing.request_matching import MODEL_HEADER

BLOCKED = "drw.blocked"
MODELS = "drw.models"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"

REVOKED, KILLED, MONEY, TOKENS = "revoked", "killed", "money", "tokens"
"""Decision names, which local replies match on."""

REASONS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
BODY_METADATA = "drw.body"
"""Metadata namespace of fields extracted from request bodies."""

SEVERITY = (KILLED, MONEY, TOKENS)
ADMINISTRATION = "/api/"
"""Prefix of administrative paths, which cannot spend without model serving, as in filter.c."""
MAX_NAME = 512
"""Longer names do not fit in the identity headers, so that no request can match them."""


def deny_list_filter(configuration: Configuration) -> Json:
    """Return the filter that rejects keys, desks and orgs, checked in this order."""
    reasons = _most_severe(configuration.blocks)
    by_org: dict[str, Json] = {org: _decision(reason) for (org, _), reason in reasons[Block.ORG].items()}
    for org, desks in _grouped(reasons[Block.DESK]).items():
        if reasons[Block.ORG].get((org, "")) != KILLED:
            matcher = _match_header("x-drw-desk", {desk: _decision(reason) for desk, reason in desks.items()})
            by_org[org] = _with_fallback(matcher, by_org[org]) if org in by_org else matcher
    fallback = _with_fallback(_match_header("x-drw-org", by_org), _allowed()) if by_org else _allowed()
    by_key = dict.fromkeys(filter(None, configuration.credentials.revoked), _decision(REVOKED))
    reason_by_key = {(key, org): reason for (org, key), reason in reasons[Block.KEY].items()}
    for key, orgs in _grouped(reason_by_key).items():
        if key not in by_key:
            # Without a fallback, so that a key of another org continues to the end of the outer matcher.
            by_key[key] = _match_header("x-drw-org", {org: _decision(reason) for org, reason in orgs.items()})
    if not by_key:
        return typed(RBAC, matcher=fallback.get("matcher", {"on_no_match": fallback}))
    return typed(RBAC, matcher=_with_fallback(_match_header("x-drw-key", by_key), fallback)["matcher"])


def model_filter(configuration: Configuration) -> Json:
    """Return the filter that rejects models on routes that extract the model from the body or a header.

    On all other routes the services reject them.
    """
    conditions: dict[tuple[str, str], list[Json]] = {}
    for (org, name), reason in sorted(_most_severe(configuration.blocks)[Block.MODEL].items()):
        conditions.setdefault((reason, org), []).extend([_body_model_matches(name), _header_model_matches(name)])
    policies: dict[str, Json] = {}
    for (reason, org), matchers in conditions.items():
        policy = policies.setdefault(reason, {"permissions": [{"any": True}], "principals": []})
        # One comparison per org, regardless of the number of its killed models.
        policy["principals"] += [_for_org(org, matchers)] if org else matchers
    return typed(RBAC, rules={"action": "DENY", "policies": policies}) if policies else typed(RBAC)


ReasonByName = dict[tuple[str, str], str]


def _most_severe(blocks: Iterable[Block]) -> dict[int, ReasonByName]:
    by_subject: dict[int, ReasonByName] = {subject: {} for subject in Block.Subject.values()}
    for block in blocks:
        reason = REASONS.get(block.reason, KILLED)  # unknown reason of a newer control plane: fail closed
        if len(block.name) <= MAX_NAME and len(block.org) <= MAX_NAME:
            reasons = by_subject.setdefault(block.subject, {})
            reasons[block.org, block.name] = min(
                reasons.get((block.org, block.name), reason), reason, key=SEVERITY.index
            )
    return by_subject


def _grouped(reasons: ReasonByName) -> dict[str, dict[str, str]]:
    by_org: dict[str, dict[str, str]] = {}
    for (org, name), reason in sorted(reasons.items()):
        by_org.setdefault(org, {})[name] = reason
    return by_org


def _match_header(header: str, branches: dict[str, Json]) -> Json:
    matcher = {
        "input": _header_input(header),
        "exact_match_map": {"map": {value: branches[value] for value in sorted(branches)}},
    }
    return {"matcher": {"matcher_tree": matcher}}


def _header_input(name: str) -> Json:
    return extension(name, typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name))


def _with_fallback(matcher: Json, fallback: Json) -> Json:
    return {"matcher": matcher["matcher"] | {"on_no_match": fallback}}


def _allowed() -> Json:
    return _action("not blocked", "ALLOW")


def _decision(reason: str) -> Json:
    """Return a rejection. Subjects with an exhausted budget may still use administrative endpoints."""
    denied = _action(reason, "DENY")
    if reason not in (MONEY, TOKENS):
        return denied
    administers = {"single_predicate": {"input": _header_input(":path"), "value_match": {"prefix": ADMINISTRATION}}}
    spends = {"predicate": {"not_matcher": administers}, "on_match": denied}
    return {"matcher": {"matcher_list": {"matchers": [spends]}}}


def _action(name: str, action: str) -> Json:
    return {"action": extension(name, typed("envoy.config.rbac.v3.Action", name=name, action=action))}


def _for_org(org: str, conditions: list[Json]) -> Json:
    caller = {"header": {"name": "x-drw-org", "string_match": {"exact": org}}}
    return {"and_ids": {"ids": [caller, {"or_ids": {"ids": conditions}}]}}


def _body_model_matches(model: str) -> Json:
    value = {"string_match": {"exact": model}}
    matcher = {"filter": BODY_METADATA, "path": [{"key": "model"}], "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def _header_model_matches(model: str) -> Json:
    return {"header": {"name": MODEL_HEADER, "string_match": {"exact": model}}}
