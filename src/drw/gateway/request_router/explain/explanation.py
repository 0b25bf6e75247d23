"""Route explanation: applies the data plane's matching to the desired state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration, Explanation, HeaderMatch, Miss, Route, Target
from drw.kernel.rpc.context import Principal
from drw.routing.request_matching import (
    CONNECT_MS,
    IDLE_SECONDS,
    MODEL_HEADER,
    OWN_PATHS,
    allowed_methods,
    body_read_paths,
    by_precedence,
    header_matches,
    is_below,
    is_tenant,
)


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """A request as the data plane sees it: lower-case names of headers, the path without its query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


def explain(
    configuration: Configuration,
    request: ExplainedRequest,
    principal: Principal,
    visible: Sequence[Route] | None = None,
) -> Explanation:
    """Explain how the data plane handles a request; `visible` are the routes without names of other tenants."""
    if reply := OWN_PATHS.get(request.path):
        why = f"the data plane answers {request.path} without an upstream"
        return Explanation(route=reply, why=why, org=principal.org, desk=principal.desk)
    routes = by_precedence(configuration.routes.routes if visible is None else visible)
    match, misses = _first_match(routes, request, principal, model="")
    first_match = match
    reads_body = _reads_body(match, routes, request)
    if reads_body and request.model:
        match, misses = _first_match(routes, request, principal, model=request.model)
    explanation = Explanation(
        org=principal.org,
        desk=principal.desk,
        key=principal.key,
        scopes=sorted(principal.scopes),
        misses=reversed(misses),
        reads_body=reads_body,
    )
    if match is None:
        methods = allowed_methods(request.path, routes)
        status = 405 if methods and request.method not in methods else 404
        explanation.why = f"no route matches {request.method} {request.path}: the status is {status}"
        explanation.refused = explanation.why
        return explanation
    explanation.route = match.name
    explanation.taken.CopyFrom(match)
    explanation.why = _match_reasons(match, request)
    errors = [
        _block_error(configuration, principal, request),
        *(_missing_scope(route, principal) for route in (first_match, match) if route),
    ]
    explanation.refused = next((text for text in errors if text), "")
    upstreams = {upstream.name: upstream for upstream in configuration.upstreams.upstreams}
    explanation.targets.extend(_targets(match, upstreams))
    explanation.deadlines.extend(_deadlines(match, upstreams))
    return explanation


def _first_match(
    routes: Sequence[Route], request: ExplainedRequest, principal: Principal, model: str
) -> tuple[Route | None, list[Miss]]:
    misses: list[Miss] = []
    for route in routes:
        if not is_below(request.path, route.path):
            continue  # without this, `misses` would contain all other paths
        if not (reason := _mismatch(route, request, principal, model)):
            return route, misses
        misses.append(Miss(route=route.name, why=reason))
    return None, misses


def _mismatch(route: Route, request: ExplainedRequest, principal: Principal, model: str) -> str:
    """Return why the route does not match a request below its path; empty: it matches."""
    if route.methods and request.method not in route.methods:
        return f"it accepts {' and '.join(route.methods)}, not {request.method}"
    if not is_tenant(route.tenants, principal.org, principal.desk):
        return f"it is for {' and '.join(route.tenants)}, not for {principal.org}/{principal.desk}"
    for header in route.headers:
        if not header_matches(header, value := request.headers.get(header.name)):
            actual = "is missing" if value is None else f"is {value!r}"
            return f"it requires that {_header_condition(header)}; the header {actual}"
    return _model_mismatch(route, request, model)


def _model_mismatch(route: Route, request: ExplainedRequest, model: str) -> str:
    if not route.models or model in route.models:
        return ""
    if route.model_header and request.headers.get(MODEL_HEADER) in route.models:
        return ""
    actual = f"{request.model!r}" if request.model else "none"
    return f"it serves {', '.join(route.models)}; the body names {actual}"


def _reads_body(match: Route | None, routes: Sequence[Route], request: ExplainedRequest) -> bool:
    """Return whether the first match requires reading the body to find the final route."""
    if match is None:
        return any(route.models and is_below(request.path, route.path) for route in routes)
    return any(is_below(request.path, path) for path in body_read_paths(match, routes))


def _match_reasons(route: Route, request: ExplainedRequest) -> str:
    reasons = [f"the path is at or below {route.path}"]
    if route.methods:
        reasons.append(f"the method is {request.method}")
    if route.tenants:
        reasons.append(f"the caller is of {' or '.join(route.tenants)}")
    reasons += [_header_condition(header) for header in route.headers]
    if route.models:
        by_header = route.model_header and request.headers.get(MODEL_HEADER) in route.models
        model = request.headers[MODEL_HEADER] if by_header else request.model
        reasons.append(f"the {f'header {MODEL_HEADER}' if by_header else 'body'} names the model {model!r}")
    return "; ".join(reasons)


def _header_condition(header: HeaderMatch) -> str:
    if header.exact or header.prefix:
        return f"the header {header.name} {'is' if header.exact else 'begins with'} {header.exact or header.prefix!r}"
    return f"the header {header.name} is present"


def _missing_scope(route: Route, principal: Principal) -> str:
    if route.scopes and principal.scopes.isdisjoint(route.scopes):
        scopes = " or ".join(repr(scope) for scope in route.scopes)
        return f"403: the route {route.name!r} needs the scope {scopes}, which the caller lacks"
    return ""


def _block_error(configuration: Configuration, principal: Principal, request: ExplainedRequest) -> str:
    """Return the block of the caller or the model as an error; empty: none."""
    for block in configuration.blocks:
        subject = {
            Block.KEY: block.name == principal.key and block.org == principal.org,
            Block.DESK: block.name == principal.desk and block.org == principal.org,
            Block.ORG: block.org == principal.org,
            Block.MODEL: block.org in ("", principal.org)
            and block.name in (request.model, request.headers.get(MODEL_HEADER)),
        }
        if subject.get(block.subject):
            kind = Block.Subject.Name(block.subject).lower()
            reason = Block.Reason.Name(block.reason).lower()
            status = 403 if block.reason == Block.KILLED else 429
            return f"{status}: the {kind} {block.name or block.org!r} is blocked ({reason})"
    return ""


def _targets(route: Route, upstreams: Mapping[str, Upstream]) -> list[Target]:
    shares = {share.upstream: share.weight for share in route.split} or {route.upstream: 1}
    weighted = [
        Target(upstream=name, addresses=upstreams[name].addresses, percent=100 * weight / sum(shares.values()))
        for name, weight in shares.items()
    ]
    fallbacks = [Target(upstream=name, addresses=upstreams[name].addresses, fallback=True) for name in route.fallbacks]
    return [*weighted, *fallbacks]


def _deadlines(route: Route, upstreams: Mapping[str, Upstream]) -> list[str]:
    connect = max(upstreams[t.upstream].connect_ms or CONNECT_MS for t in _targets(route, upstreams))
    deadlines = [f"{connect} ms to connect"]
    deadlines += [f"{route.first_byte_ms} ms until the first byte"] if route.first_byte_ms else []
    deadlines.append(f"{route.idle_seconds or IDLE_SECONDS} s without data")
    return [*deadlines, f"{route.total_ms} ms in total" if route.total_ms else "no limit in total"]
