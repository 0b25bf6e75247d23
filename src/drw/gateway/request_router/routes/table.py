"""The route table: upstream, scopes and limits by path.

A client cannot reach a path that is not in the table. Below `/api/v1` the data plane checks that the caller holds a
scope of any method of the path; the service checks the scope of the method itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import Field, field_validator, model_validator

from drw.api.gateway.v1.request_router_pb2 import Route
from drw.catalog import BY_NAME
from drw.gateway.request_router.routes import validation
from drw.gateway.request_router.routes.rest_routes import REST_ROUTES
from drw.gateway.request_router.routes.validation import (
    MIB,
    OPENAI_BODY,
    REST_BODY,
    REST_IDLE_SECONDS,
    credential_conflict,
)
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import SCOPES
from drw.kernel.runtime.settings import Settings as Base
from drw.kernel.validation import validate
from drw.routing.request_matching import IDLE_SECONDS, WILDCARD, is_below, upstreams_of

INFERENCE_GRPC_BODY = 64 * MIB
"""The maximum message of the gRPC server, above the bodies that Envoy buffers: messages stream through."""
UPLOAD_BODY = 513 * MIB
"""A file of 512 MiB with its multipart form. The documents service enforces the exact limit."""

MODEL_FILE_BODY = 1 << 40
"""A model file. Discovery enforces the limits of the settings."""

FIRST_BYTE_MS = 120_000
"""Timeout for the first byte of a response. Only a process that hangs reaches it, since other calls end after 30 s."""
SLOW_FIRST_BYTE_MS = {
    **dict.fromkeys(("chat", "completions", "embeddings", "messages", "responses", "rerank", "moderations"), 930_000),
    "files.write": 330_000,
    "model_files": 3_600_000,
}
"""First-byte timeouts of routes with slow responses or uploads. Services end their work before this time."""

INFERENCE = ("models:invoke", "models:read", "platform:admin")
RESPONSES = ("POST", "GET", "DELETE")
READ = ("documents:read",)
READ_OR_WRITE = ("documents:read", "documents:write")


class HeaderMatch(Base):
    """A header that a request must have: with an exact value, with a prefix, or with any value."""

    name: str
    exact: str = ""
    prefix: str = ""


class RouteSplit(Base):
    """An upstream of a split with its weight."""

    upstream: str
    weight: int


class RouteSettings(Base):
    """A route in the settings: additional to the table, or replacing the route of the same name."""

    name: str = Field(min_length=1, max_length=100)
    path: str = Field(pattern=r"^(/[A-Za-z0-9_.:~-]+)+$", max_length=200)
    methods: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    upstream: str = ""
    max_body_bytes: int = Field(REST_BODY, ge=0)
    idle_seconds: int = Field(REST_IDLE_SECONDS, ge=1, le=3600)
    models: tuple[str, ...] = ()
    model_header: bool = False
    headers: tuple[HeaderMatch, ...] = ()
    tenants: tuple[str, ...] = ()
    split: tuple[RouteSplit, ...] = ()
    fallbacks: tuple[str, ...] = ()
    affinity: tuple[str, ...] = ()
    pass_through: bool = False
    upstream_model: str = ""
    first_byte_ms: int = Field(0, ge=0)
    total_ms: int = Field(0, ge=0)

    @field_validator("scopes")
    @classmethod
    def _check_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scope in value:
            if scope not in SCOPES:
                raise ValueError(f"{scope!r} is not a scope; there are: {', '.join(SCOPES)}")
        return value

    @model_validator(mode="after")
    def _check_route(self) -> RouteSettings:
        upstreams = {self.upstream, *self.fallbacks, *(share.upstream for share in self.split)}
        try:
            validate(self.route(), ignore=("name",))  # a route of the settings can replace a route of the platform
            validation.check_fields(self.route(), upstreams)
        except InvalidRequest as error:
            raise ValueError(error.message) from error
        return self

    def route(self) -> Route:
        """Convert it to a route of the contract."""
        return Route(**self.model_dump(), origin="settings")


def route_table(
    upstreams: Iterable[str],
    settings: Sequence[RouteSettings],
    records: Iterable[Route] = (),
    credentials: Mapping[str, str] | None = None,
    processes: Iterable[str] = (),
    homes: Mapping[str, str] | None = None,
) -> tuple[list[Route], list[str]]:
    """Return all routes with existing upstreams, sorted by name, and errors of the records that cannot be used.

    `processes` are the upstreams that are processes of the platform. Only they have readable metrics. `homes` has the
    upstream of each service; without it, each cluster is one.
    """
    names = sorted(upstreams)
    routes = {route.name: route for route in (*_platform_routes(homes or {}), *_metrics_routes(sorted(processes)))}
    routes |= {route.name: route.route() for route in settings}
    results = [(record, _record_error(record, routes, names, credentials or {})) for record in records]
    routes |= {record.name: record for record, error in results if not error}
    errors = [error for _, error in results if error]
    return [route for _, route in sorted(routes.items()) if not _missing_upstreams(route, names)], errors


def reserved_names(upstreams: Iterable[str], settings: Sequence[RouteSettings]) -> set[str]:
    """Return the route names that records cannot use."""
    return {route.name for route in (*_service_routes(), *_metrics_routes(sorted(upstreams)))} | {
        route.name for route in settings
    }


def _missing_upstreams(route: Route, existing: Sequence[str]) -> list[str]:
    return [name for name in upstreams_of(route) if name not in existing]


def _record_error(
    record: Route, routes: Mapping[str, Route], upstreams: Sequence[str], credentials: Mapping[str, str]
) -> str:
    if record.name in routes:
        return f"{record.name!r}: there is a route of this name that is not a record"
    if missing_upstreams := _missing_upstreams(record, upstreams):
        return f"{record.name!r}: there is no upstream {missing_upstreams[0]!r}"
    if conflict := credential_conflict(record, credentials):
        return f"{record.name!r}: {conflict}"
    return ""


def _service_routes() -> Iterable[Route]:
    """Return the routes of the platform with the names of services as upstreams."""
    return (*_openai_routes(), *(rest.route() for rest in REST_ROUTES))


def _platform_routes(homes: Mapping[str, str]) -> Iterator[Route]:
    """Yield the routes of the platform with their upstreams."""
    prefixes = []
    for route in _service_routes():
        service, dot, protocol = route.upstream.partition(".")
        route.upstream = f"{homes.get(service, BY_NAME[service].process)}{dot}{protocol}"
        if WILDCARD not in route.path:
            prefixes.append(route)
        elif any(is_below(route.path, other.path) and other.upstream == route.upstream for other in prefixes):
            continue  # the route of the prefix leads there too
        yield route


def _openai_routes() -> Iterable[Route]:
    for name, path in [
        ("chat", "/v1/chat/completions"),
        ("completions", "/v1/completions"),
        ("embeddings", "/v1/embeddings"),
        ("rerank", "/v1/rerank"),
        ("tokenize", "/v1/tokenize"),
        ("detokenize", "/v1/detokenize"),
        ("moderations", "/v1/moderations"),
        ("messages", "/v1/messages"),
    ]:
        yield _route(name, path, "serving", "POST", scopes=("models:invoke",), body=OPENAI_BODY)
    yield _route("responses", "/v1/responses", "serving", *RESPONSES, scopes=("models:invoke",), body=OPENAI_BODY)
    # Callers of models can list them; the OpenAI client does so before its first call.
    yield _route("models", "/v1/models", "serving", "GET", scopes=("models:read", "models:invoke"))
    path, scopes = "/api/v1/model-files", ("models:write",)
    yield _route("model_files", path, "discovery", "PUT", "HEAD", scopes=scopes, body=MODEL_FILE_BODY)
    # The service checks the scope of each path: infer needs models:invoke, load and unload need platform:admin.
    yield _route("inference", "/v2", "serving", "GET", "POST", scopes=INFERENCE, body=OPENAI_BODY)
    grpc_path = "/inference.GRPCInferenceService"
    yield _route("inference.grpc", grpc_path, "serving.inference", "POST", scopes=INFERENCE, body=INFERENCE_GRPC_BODY)
    yield _route("ofrep", "/ofrep/v1", "experiments", "POST", scopes=("experiments:record",))
    yield _route("batches", "/v1/batches", "serving", "GET", "POST", scopes=("models:invoke",))
    yield _route("files.read", "/v1/files", "documents", "GET", scopes=READ)
    yield _route(
        "files.write", "/v1/files", "documents", "POST", "DELETE", scopes=("documents:write",), body=UPLOAD_BODY
    )
    yield _route("vector_stores.read", "/v1/vector_stores", "documents", "GET", scopes=READ)
    # A POST searches or writes: the data plane accepts either scope, and the service checks the scope of the method.
    yield _route("vector_stores.write", "/v1/vector_stores", "documents", "POST", "DELETE", scopes=READ_OR_WRITE)
    yield _route("vector_stores.search", "/v1/vector_stores/*/search", "retrieval", "POST", scopes=READ_OR_WRITE)


def _metrics_routes(processes: Sequence[str]) -> Iterable[Route]:
    for name in processes:
        yield _route(f"metrics.{name}", f"/metrics/{name}", name, "GET", scopes=("platform:read",))


def _route(
    name: str, path: str, upstream: str, *methods: str, scopes: Sequence[str] = (), body: int = REST_BODY
) -> Route:
    idle = IDLE_SECONDS if path.startswith("/v1/") else REST_IDLE_SECONDS
    return Route(
        name=name,
        path=path,
        upstream=upstream,
        methods=methods,
        scopes=scopes,
        max_body_bytes=body,
        idle_seconds=idle,
        first_byte_ms=SLOW_FIRST_BYTE_MS.get(name, FIRST_BYTE_MS),
        origin="table",
    )
