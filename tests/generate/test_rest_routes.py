"""The REST routes of the data plane are derived from the contracts."""

from __future__ import annotations

import re

from drw.catalog import BY_NAME, Service
from drw.gateway.request_router.routes.rest import RestRoute
from drw.gateway.request_router.routes.rest_routes import REST_ROUTES
from drw.gateway.request_router.routes.table import route_table
from drw.generate import rest_routes
from drw.generate.protos import Contract, Method, Protos, compiled
from drw.routing.request_matching import WILDCARD, by_precedence, is_below

NOTES = Service(name="notes", cluster="rag", summary="")
LOG = Service(name="log", cluster="audit", summary="")


def method(name: str, path: str, scope: str, verb: str = "GET", idle_seconds: int = 0) -> Method:
    return Method(name, "", "", "", verb=verb, path=path, scope=scope, idle_seconds=idle_seconds)


def protos(service: Service, *methods: Method) -> Protos:
    return Protos((Contract(service.contract, "", "", methods),), {}, {}, {}, {})


def test_contract_methods_become_routes_with_their_scopes() -> None:
    contract = protos(
        NOTES,
        method("GetNote", "/api/v1/notes/{id}", "documents:read"),
        method("PutNote", "/api/v1/notes/{id}", "documents:write", verb="PUT"),
        method("PurgeNotes", "/api/v1/notes:purge", "documents:write", verb="POST"),
        method("Internal", "", "", verb=""),
    )
    routes = [route.route() for route in rest_routes.rest_routes(contract, [NOTES])]
    assert [(route.name, route.path, route.upstream, list(route.scopes)) for route in routes] == [
        ("rest.notes", "/api/v1/notes", "notes", ["documents:read", "documents:write"]),
        ("rest.notes:purge", "/api/v1/notes:purge", "notes", ["documents:write"]),
    ]


def test_method_for_every_caller_removes_the_scope_check() -> None:
    contract = protos(NOTES, method("A", "/api/v1/notes", "documents:read"), method("B", "/api/v1/notes/mine", "*"))
    assert [route.scopes for route in rest_routes.rest_routes(contract, [NOTES])] == [()]


def test_route_has_the_longest_idle_timeout_of_its_methods() -> None:
    contract = protos(
        NOTES,
        method("A", "/api/v1/notes", "documents:read"),
        method("B", "/api/v1/notes/{id}:watch", "documents:read", idle_seconds=900),
        method("C", "/api/v1/notes:all", "documents:read"),
    )
    assert [route.idle_seconds for route in rest_routes.rest_routes(contract, [NOTES])] == [900, 120]


def test_audit_log_is_routed_to_the_gateway_process() -> None:
    contract = protos(LOG, method("A", "/api/v1/trail", "audit:read"))
    assert [route.service for route in rest_routes.rest_routes(contract, [LOG])] == ["log"]
    routes, _ = route_table(["gateway", "models", "rag", "workflow"], ())
    assert [route.upstream for route in routes if route.path == "/api/v1/audit"] == ["gateway"]


def test_each_method_is_routed_to_its_service_where_each_service_is_a_process() -> None:
    services = {service.contract: service.name for service in BY_NAME.values()}
    routes, _ = route_table([*BY_NAME, "serving.inference"], (), homes={name: name for name in BY_NAME})
    first_to_last = by_precedence(routes)
    methods = [(services[c.name], m) for c in compiled().contracts if c.name in services for m in c.methods if m.verb]
    for service, rest_method in methods:
        path = re.sub("{[^}]*}", "some-name", rest_method.path)
        route = next(route for route in first_to_last if is_below(path, route.path))
        assert (path, route.upstream) == (path, service)
        assert not route.scopes or rest_method.scope in route.scopes


def test_services_in_one_process_need_no_routes_of_patterns() -> None:
    together, _ = route_table(["gateway", "models", "rag", "workflow"], ())
    apart, _ = route_table([*BY_NAME, "serving.inference"], (), homes={name: name for name in BY_NAME})
    assert not [route.path for route in together if WILDCARD in route.path]
    assert {route.path for route in apart if WILDCARD in route.path} == {
        "/api/v1/collections/*/indexing",
        "/api/v1/collections/*:ask",
        "/api/v1/collections/*:search",
        "/api/v1/runs/*:watch",
        "/v1/vector_stores/*/search",
    }


def test_generated_module_defines_the_routes() -> None:
    routes = [
        RestRoute(path="/api/v1/notes", service="notes", scopes=("documents:read",), idle_seconds=120),
        RestRoute(path="/api/v1/other", service="notes", scopes=(), idle_seconds=900),
    ]
    module: dict[str, object] = {}
    exec(rest_routes.module(routes), module)
    assert module["REST_ROUTES"] == tuple(routes)


def test_paths_that_cannot_be_routed_are_reported() -> None:
    pages = Service(name="pages", cluster="models", summary="")
    both = Protos(
        (
            Contract(NOTES.contract, "", "", (method("A", "/api/v1/notes", "documents:read"),)),
            Contract(
                pages.contract,
                "",
                "",
                (
                    method("B", "/api/v1/notes/{id}/page", "documents:read"),
                    method("C", "/api/v1/{id}", "documents:read"),
                    method("D", "/v1/pages", "documents:read"),
                ),
            ),
        ),
        {},
        {},
        {},
        {},
    )
    assert list(rest_routes.problems(both, [NOTES, pages])) == [
        "/api/v1/notes leads to the processes rag and models: use one path prefix per process",
        "C is at /api/v1/{id}; a REST path starts with /api/v1/ and a fixed segment",
        "D is at /v1/pages; a REST path starts with /api/v1/ and a fixed segment",
    ]


def test_every_rest_method_has_a_route_with_its_scope() -> None:
    routes, _ = route_table(["gateway", "models", "rag", "workflow"], ())
    by_path = {route.path: route for route in routes}
    methods = [m for contract in compiled().contracts for m in contract.methods if m.verb]
    assert len(methods) > 60
    for rest_method in methods:
        route = by_path[rest_routes.prefix(rest_method.path)]
        assert not route.scopes or rest_method.scope in route.scopes, rest_method.path
    assert tuple(rest_routes.rest_routes(compiled(), BY_NAME.values())) == REST_ROUTES
