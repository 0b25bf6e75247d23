"""Routes of the REST API, one for each first path segment below `/api/v1`."""

from __future__ import annotations

from dataclasses import dataclass

from drw.api.gateway.v1.request_router_pb2 import Route
from drw.gateway.request_router.routes.validation import REST_BODY

REST_FIRST_BYTE_MS = 120_000
"""Timeout of the data plane for the first byte of a response. Services end calls after 30 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestRoute:
    """A path prefix of the REST API with the service, scopes and timeout of the methods below it."""

    path: str
    """A prefix, or a pattern with `*` for the methods of another service below the prefix of the first one."""
    service: str
    scopes: tuple[str, ...]
    """A caller needs one of these to use any method below the path; empty: a method allows all callers.

    The service checks the scope of the method itself.
    """
    idle_seconds: int

    @property
    def name(self) -> str:
        """The name of the route, as in `rest.keys` and `rest.runs:watch`."""
        return f"rest.{self.path.removeprefix('/api/v1/').replace('/*', '')}"

    def route(self) -> Route:
        """Convert it to a route of the contract."""
        return Route(
            name=self.name,
            path=self.path,
            upstream=self.service,
            scopes=self.scopes,
            max_body_bytes=REST_BODY,
            idle_seconds=self.idle_seconds,
            first_byte_ms=REST_FIRST_BYTE_MS,
            origin="table",
        )
