"""Which route a request takes, and why: the data plane's own way, walked over the desired state."""

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
    ITSELF,
    MODEL_HEADER,
    allowed,
    belongs,
    meets,
    ordered,
    read_under,
    under,
)


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """A request as the data plane sees it: names of headers in small letters, the path without its query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


def explain(
    configuration: Configuration, asked: ExplainedRequest, who: Principal, known: Sequence[Route] | None = None
) -> Explanation:
    """Return what the data plane would do with a request of this caller; `known` are the routes as they are shown."""
    if own := ITSELF.get(asked.path):
        return Explanation(route=own, why=f"the data plane answers {asked.path} by itself", org=who.org, desk=who.desk)
    routes = ordered(configuration.routes.routes if known is None else known)
    found, misses = _look(routes, asked, who, model="")
    first = found
    reads = _reads(found, routes, asked)
    if reads and asked.model:
        found, misses = _look(routes, asked, who, model=asked.model)
    explanation = Explanation(
        org=who.org, desk=who.desk, key=who.key, scopes=sorted(who.scopes), misses=reversed(misses), reads_body=reads
    )
    if found is None:
        methods = allowed(asked.path, routes)
        status = 405 if methods and asked.method not in methods else 404
        explanation.why = f"no route takes {asked.method} {asked.path}: the answer is {status}"
        explanation.refused = explanation.why
        return explanation
    explanation.route = found.name
    explanation.taken.CopyFrom(found)
    explanation.why = _why(found, asked)
    refusals = [_blocked(configuration, who, asked), *(_refusal(route, who) for route in (first, found) if route)]
    explanation.refused = next((text for text in refusals if text), "")
    upstreams = {upstream.name: upstream for upstream in configuration.upstreams.upstreams}
    explanation.targets.extend(_targets(found, upstreams))
    explanation.deadlines.extend(_deadlines(found, upstreams))
    return explanation


def _look(
    routes: Sequence[Route], asked: ExplainedRequest, who: Principal, model: str
) -> tuple[Route | None, list[Miss]]:
    misses: list[Miss] = []
    for route in routes:
        if not under(asked.path, route.path):
            continue  # every other path would be named otherwise
        if not (why := _miss(route, asked, who, model)):
            return route, misses
        misses.append(Miss(route=route.name, why=why))
    return None, misses


def _miss(route: Route, asked: ExplainedRequest, who: Principal, model: str) -> str:
    """Return why the route does not take a request at its path; empty: it does."""
    if route.methods and asked.method not in route.methods:
        return f"it takes {' and '.join(route.methods)}, not {asked.method}"
    if not belongs(route.tenants, who.org, who.desk):
        return f"it is for {' and '.join(route.tenants)}, not for {who.org}/{who.desk}"
    for header in route.headers:
        if not meets(header, value := asked.headers.get(header.name)):
            said = "is not there" if value is None else f"is {value!r}"
            return f"it asks that {_asks(header)}, which {said}"
    return _miss_of_model(route, asked, model)


def _miss_of_model(route: Route, asked: ExplainedRequest, model: str) -> str:
    if not route.models or model in route.models:
        return ""
    if route.model_header and asked.headers.get(MODEL_HEADER) in route.models:
        return ""
    said = f"{asked.model!r}" if asked.model else "none"
    return f"it serves {', '.join(route.models)}; the body names {said}"


def _reads(found: Route | None, routes: Sequence[Route], asked: ExplainedRequest) -> bool:
    """Return whether the route that is found first has the body read, so that another may be found."""
    if found is None:
        return any(route.models and under(asked.path, route.path) for route in routes)
    return any(under(asked.path, path) for path in read_under(found, routes))


def _why(route: Route, asked: ExplainedRequest) -> str:
    reasons = [f"the path is at or below {route.path}"]
    if route.methods:
        reasons.append(f"the method is {asked.method}")
    if route.tenants:
        reasons.append(f"the caller is of {' or '.join(route.tenants)}")
    reasons += [_asks(header) for header in route.headers]
    if route.models:
        by_header = route.model_header and asked.headers.get(MODEL_HEADER) in route.models
        named = asked.headers[MODEL_HEADER] if by_header else asked.model
        reasons.append(f"the {f'header {MODEL_HEADER}' if by_header else 'body'} names the model {named!r}")
    return "; ".join(reasons)


def _asks(header: HeaderMatch) -> str:
    if header.exact or header.prefix:
        return f"the header {header.name} {'is' if header.exact else 'begins with'} {header.exact or header.prefix!r}"
    return f"the header {header.name} is there"


def _refusal(route: Route, who: Principal) -> str:
    if route.scopes and who.scopes.isdisjoint(route.scopes):
        needed = " or ".join(repr(scope) for scope in route.scopes)
        return f"403: the route {route.name!r} needs the scope {needed}, which the caller lacks"
    return ""


def _blocked(configuration: Configuration, who: Principal, asked: ExplainedRequest) -> str:
    """Return which block refuses the caller, or the model; empty: none."""
    for block in configuration.blocks:
        subject = {
            Block.KEY: block.name == who.key and block.org == who.org,
            Block.DESK: block.name == who.desk and block.org == who.org,
            Block.ORG: block.org == who.org,
            Block.MODEL: block.org in ("", who.org) and block.name in (asked.model, asked.headers.get(MODEL_HEADER)),
        }
        if subject.get(block.subject):
            what, why = Block.Subject.Name(block.subject).lower(), Block.Reason.Name(block.reason).lower()
            status = 403 if block.reason == Block.KILLED else 429
            return f"{status}: the {what} {block.name or block.org!r} is blocked ({why})"
    return ""


def _targets(route: Route, upstreams: Mapping[str, Upstream]) -> list[Target]:
    shares = {share.upstream: share.weight for share in route.split} or {route.upstream: 1}
    own = [
        Target(upstream=name, addresses=upstreams[name].addresses, percent=100 * weight / sum(shares.values()))
        for name, weight in shares.items()
    ]
    rest = [Target(upstream=name, addresses=upstreams[name].addresses, fallback=True) for name in route.fallbacks]
    return [*own, *rest]


def _deadlines(route: Route, upstreams: Mapping[str, Upstream]) -> list[str]:
    connect = max(upstreams[t.upstream].connect_ms or CONNECT_MS for t in _targets(route, upstreams))
    found = [f"{connect} ms to connect"]
    found += [f"{route.first_byte_ms} ms until the answer begins"] if route.first_byte_ms else []
    found.append(f"{route.idle_seconds or IDLE_SECONDS} s for a pause in it")
    return [*found, f"{route.total_ms} ms in all" if route.total_ms else "no bound in all"]
