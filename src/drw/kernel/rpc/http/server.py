"""HTTP server of a process: REST and hand-written routes with one middleware, served by uvicorn."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drw.kernel.errors import (
    DrwError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unavailable,
    http_body,
    http_error,
    http_headers,
)
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context, start_times
from drw.kernel.rpc.http.content_encoding import decoded
from drw.kernel.rpc.http.metrics_page import page
from drw.kernel.rpc.http.write_coalescing import HttpProtocol
from drw.kernel.rpc.lost_connections import LOST_CONNECTION_ERRORS, connection_lost

log = logging.getLogger(__name__)

UpdateMetrics = Callable[[], Awaitable[bytes]]
"""Updates the gauges of a process, and returns further metrics in Prometheus' text format."""

JSON = "application/json"
ALIVE = "/healthz"
LIVE, STARTED, READY = "/livez", "/startupz", "/readyz"
PROBE_PATHS = frozenset({ALIVE, LIVE, STARTED, READY})
"""Paths of probes. Liveness (`/livez` and `/healthz`) responds from the event loop, without any dependency."""
ERROR_RESPONSE = "error_response"
"""Key of a request's state: a function that returns the response of an error, for endpoints with another format."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER_METHOD = "_OTHER"
"""Label of unknown HTTP methods, as in OpenTelemetry's conventions, to bound cardinality."""
CLIENT_CLOSED_REQUEST = 499
"""Status in the log for requests whose client disconnected, as in nginx."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What a process reports to probes."""

    started: Callable[[], bool] = lambda: True
    """Whether all services have started."""
    failing: Callable[[], Mapping[str, Sequence[str]]] = lambda: {}
    """The services that are not ready, with the names of the dependencies that do not work."""


async def _no_metrics() -> bytes:
    return b""


def app(
    routes: Sequence[BaseRoute],
    process: str,
    update_metrics: UpdateMetrics = _no_metrics,
    probes: Probes = Probes(),
) -> ASGIApp:
    """Return the ASGI application of a process; `update_metrics` runs before each scrape."""

    async def metrics(_: Request) -> Response:
        if (principal := context.caller_or_none()) is not None:
            principal.require_scope("platform:read")
        return Response(page(await update_metrics()), media_type=CONTENT_TYPE_LATEST)

    async def started(_: Request) -> Response:
        return _probe_response("" if probes.started() else "starting")

    async def ready(request: Request) -> Response:
        failing = dict(probes.failing())
        if service := request.query_params.get("service"):
            failing = {name: needs for name, needs in failing.items() if name == service}
        return _probe_response("\n".join(f"{name}: {', '.join(needs)}" for name, needs in failing.items()))

    process_routes = [
        Route(ALIVE, _alive, methods=["GET"]),
        Route(LIVE, _alive, methods=["GET"]),
        Route(STARTED, started, methods=["GET"]),
        Route(READY, ready, methods=["GET"]),
        Route(f"/metrics/{process}", metrics, methods=["GET"]),
    ]
    return RequestMiddleware(Router([*routes, *process_routes], redirect_slashes=False, default=_not_found))


class RequestMiddleware:
    """Sets the caller and the trace of each request, logs it, and returns errors in OpenAI's format."""

    def __init__(self, inner: Router) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS:  # probes are frequent and not logged
            await self._inner(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        response = _TrackedResponse(send)
        with (
            telemetry.Request(
                "http", scope["method"] if scope["method"] in METHODS else OTHER_METHOD, headers
            ) as request,
            context.acting_for(context.Principal.from_headers(headers)),
        ):
            scope["state"] = {"log": request.fields}
            scope["path"] = scope["path"].rstrip("/") or "/"  # "/runs/" is the list, not an item with an empty name
            scope["app"] = self  # makes Starlette raise on a wrong method, instead of responding with plain text
            request.fields |= {"path": scope["path"]}
            if principal := context.caller_or_none():
                request.fields |= {"key": principal.key, "desk": principal.desk}
            try:
                if encoding := headers.get("content-encoding", "").strip().lower():
                    receive = decoded(receive, encoding)
                await self._inner(scope, receive, response.send)
            except ClientDisconnect:
                response.status = CLIENT_CLOSED_REQUEST
            except asyncio.CancelledError:
                response.status = CLIENT_CLOSED_REQUEST
                raise
            except HTTPException:
                methods = self._allowed_methods(scope)
                message = f"{scope['path']} takes {methods}, not {scope['method']}"
                await response.fail(MethodNotAllowed(message, allow=methods), scope)
            except DrwError as error:
                request.record_error(error)
                await response.fail(error, scope)
            except LOST_CONNECTION_ERRORS as error:
                log.warning("a connection was lost", exc_info=error)
                unavailable_error = connection_lost()
                request.record_error(unavailable_error)
                await response.fail(unavailable_error, scope)
            except Exception:  # the boundary of a request: a bug becomes a 500 without details
                log.exception("unexpected error")
                await response.fail(InternalError("unexpected error; the log has more under this trace id"), scope)
            finally:
                request.finish(str(response.status or CLIENT_CLOSED_REQUEST))

    def _allowed_methods(self, scope: Scope) -> str:
        routes = (r for r in self._inner.routes if isinstance(r, Route) and r.matches(scope)[0] is not Match.NONE)
        return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


class _TrackedResponse:
    """Tracks the status of a response; an error can replace the response until it starts."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if trace_id := telemetry.current_trace_id():
                message["headers"] = [*message.get("headers", ()), (b"x-trace-id", trace_id.encode())]
        await self._send(message)

    async def fail(self, error: DrwError, scope: Scope | None = None) -> None:
        if self.status:
            # The response has started: break the connection, so that the client does not take it for complete.
            raise error
        _add_retry_after(error)
        formatted = scope["state"].get(ERROR_RESPONSE, error_response) if scope else error_response
        response: Response = formatted(error)
        await response({"type": "http"}, _no_body, self.send)


def error_response(error: DrwError) -> Response:
    """Return the error as an HTTP response, in OpenAI's format."""
    _add_retry_after(error)
    body = orjson.dumps(http_body(error))
    return Response(body, http_error(error).status, headers=http_headers(error), media_type=JSON)


def _add_retry_after(error: DrwError) -> None:
    """Add the time that an unavailable process needs to start."""
    if (
        isinstance(error, Unavailable)
        and "retry_after" not in error.metadata
        and (after := start_times.start_seconds(error))
    ):
        error.metadata["retry_after"] = str(after)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request; stop reading at the limit.

    Raises:
        TooLarge: the body has more than `limit` bytes.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        if (size := size + len(part)) > limit:
            raise TooLarge(f"the body has more than {limit} bytes, the maximum")
    return b"".join(parts)


class HttpServer:
    """Serves an application at `unix:/path` or `host:port`."""

    def __init__(self, application: ASGIApp) -> None:
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            loop="none",
            http=HttpProtocol,
            ws="none",
            timeout_keep_alive=600,  # longer than that of the data plane, so that the data plane closes connections
            proxy_headers=False,  # the data plane sets its own headers for the caller
            server_header=False,
            date_header=False,
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, address: str) -> str:
        """Listen, and return the address. Port 0 selects a free port."""
        sock = _listen(address)
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[sock])
        self._task = asyncio.create_task(self._server.main_loop())
        if address.startswith("unix:"):
            return address
        host, port = sock.getsockname()[:2]
        return f"{host}:{port}"

    async def stop(self, grace: float) -> None:
        """Stop accepting requests, and wait `grace` seconds for those in flight."""
        self._server.should_exit = True
        self._server.config.timeout_graceful_shutdown = max(1, int(grace))
        if self._task:
            self._task.cancel()  # the main loop checks `should_exit` only ten times a second
            await asyncio.gather(self._task, return_exceptions=True)
            if self._server.server_state.connections:
                await self._server.shutdown()
            else:  # `shutdown` waits even without connections
                for server in self._server.servers:
                    server.close()


def _listen(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(path))
        else:
            host, _, port = address.rpartition(":")
            sock = socket.socket(socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, int(port)))
    except OSError as error:
        raise Unavailable(f"cannot listen at {address!r}: {error.strerror}") from error
    sock.setblocking(False)
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _alive(_: Request) -> Response:
    return Response(b"ok\n", media_type="text/plain")


def _probe_response(problems: str) -> Response:
    return Response(f"{problems or 'ok'}\n", status_code=503 if problems else 200, media_type="text/plain")


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"there is nothing at {scope['method']} {scope['path']}")


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
