"""Who is refused, in Envoy's words: revoked keys, what is killed, who has used up tokens or money.

The filter stands behind those that say who is calling, and is delivered by itself, before all else and without a
trial run: it holds nothing but names, its shape is always the same, and Envoy itself still refuses what is wrong.
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
BODY = "drw.body"
"""Metadata namespace of fields extracted from request bodies."""

GRAVEST = (KILLED, MONEY, TOKENS)
ADMINISTRATION = "/api/"
"""Prefix of administrative paths, which cannot spend without model serving; the same constant is in cutter.c."""
MAX_NAME = 512
"""Longer names do not fit in the identity headers, so that no request can match them."""


def blocked(configuration: Configuration) -> Json:
    """Return the filter: a key by its id, then its desk, then its org; local replies word the refusals."""
    named = _gravest(configuration.blocks)
    by_org: dict[str, Json] = {org: _decision(reason) for (org, _), reason in named[Block.ORG].items()}
    for org, desks in _by_org(named[Block.DESK]).items():
        if named[Block.ORG].get((org, "")) != KILLED:
            matcher = _tree("x-drw-desk", {desk: _decision(reason) for desk, reason in desks.items()})
            by_org[org] = _ending(matcher, by_org[org]) if org in by_org else matcher
    fallback = _ending(_tree("x-drw-org", by_org), _allowed()) if by_org else _allowed()
    by_key = dict.fromkeys(filter(None, configuration.credentials.revoked), _decision(REVOKED))
    for key, orgs in _by_key(named[Block.KEY]).items():
        if key not in by_key:
            # Without a fallback, so that a key of another org continues to the end of the outer matcher.
            by_key[key] = _tree("x-drw-org", {org: _decision(reason) for org, reason in orgs.items()})
    if not by_key:
        return typed(RBAC, matcher=fallback.get("matcher", {"on_no_match": fallback}))
    return typed(RBAC, matcher=_ending(_tree("x-drw-key", by_key), fallback)["matcher"])


def models(configuration: Configuration) -> Json:
    """Return the filter that refuses models, where the data plane knows which one a request is for.

    That is where a route has the body read, or takes the model from a header; services refuse models by themselves.
    """
    conditions: dict[tuple[str, str], list[Json]] = {}
    for (org, name), reason in sorted(_gravest(configuration.blocks)[Block.MODEL].items()):
        conditions.setdefault((reason, org), []).extend([_of_body(name), _of_header(name)])
    policies: dict[str, Json] = {}
    for (reason, org), models in conditions.items():
        policy = policies.setdefault(reason, {"permissions": [{"any": True}], "principals": []})
        # One comparison per org, regardless of the number of its killed models.
        policy["principals"] += [_of_org(org, models)] if org else models
    return typed(RBAC, rules={"action": "DENY", "policies": policies}) if policies else typed(RBAC)


Named = dict[tuple[str, str], str]


def _gravest(blocks: Iterable[Block]) -> dict[int, Named]:
    by_subject: dict[int, Named] = {subject: {} for subject in Block.Subject.values()}
    for block in blocks:
        reason = REASONS.get(block.reason, KILLED)  # unknown reason of a newer control plane: fail closed
        if len(block.name) <= MAX_NAME and len(block.org) <= MAX_NAME:
            named = by_subject.setdefault(block.subject, {})
            named[block.org, block.name] = min(named.get((block.org, block.name), reason), reason, key=GRAVEST.index)
    return by_subject


def _by_org(named: Named) -> dict[str, dict[str, str]]:
    by_org: dict[str, dict[str, str]] = {}
    for (org, name), reason in sorted(named.items()):
        by_org.setdefault(org, {})[name] = reason
    return by_org


def _by_key(named: Named) -> dict[str, dict[str, str]]:
    return _by_org({(key, org): reason for (org, key), reason in named.items()})


def _tree(header: str, branches: dict[str, Json]) -> Json:
    matcher = {
        "input": _header(header),
        "exact_match_map": {"map": {value: branches[value] for value in sorted(branches)}},
    }
    return {"matcher": {"matcher_tree": matcher}}


def _header(name: str) -> Json:
    return extension(name, typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name))


def _ending(matcher: Json, fallback: Json) -> Json:
    return {"matcher": matcher["matcher"] | {"on_no_match": fallback}}


def _allowed() -> Json:
    return _action("not blocked", "ALLOW")


def _decision(reason: str) -> Json:
    """Return a rejection. Subjects with an exhausted budget may still use administrative endpoints."""
    refused = _action(reason, "DENY")
    if reason not in (MONEY, TOKENS):
        return refused
    administers = {"single_predicate": {"input": _header(":path"), "value_match": {"prefix": ADMINISTRATION}}}
    spends = {"predicate": {"not_matcher": administers}, "on_match": refused}
    return {"matcher": {"matcher_list": {"matchers": [spends]}}}


def _action(name: str, action: str) -> Json:
    return {"action": extension(name, typed("envoy.config.rbac.v3.Action", name=name, action=action))}


def _of_org(org: str, conditions: list[Json]) -> Json:
    caller = {"header": {"name": "x-drw-org", "string_match": {"exact": org}}}
    return {"and_ids": {"ids": [caller, {"or_ids": {"ids": conditions}}]}}


def _of_body(model: str) -> Json:
    value = {"string_match": {"exact": model}}
    matcher = {"filter": BODY, "path": [{"key": "model"}], "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def _of_header(model: str) -> Json:
    return {"header": {"name": MODEL_HEADER, "string_match": {"exact": model}}}
