"""The HTTP side of a process: REST and hand-written routes under one middleware, served by uvicorn."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    http_form,
    http_headers,
)
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context, start_times
from drw.kernel.rpc.content_encoding import decoded
from drw.kernel.rpc.joined_writes import HttpProtocol
from drw.kernel.rpc.json_bodies import json_object
from drw.kernel.rpc.lost_connections import LOST, unavailable
from drw.kernel.rpc.metrics_page import page

log = logging.getLogger(__name__)

Measure = Callable[[], Awaitable[bytes]]
"""Brings the gauges of a process up to date, and returns further metrics in Prometheus' text format."""

JSON = "application/json"
ALIVE = "/healthz"
"""Liveness path: responds from the event loop, without any dependency."""
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "_OTHER"
"""Label of unknown HTTP methods, as in OpenTelemetry's conventions, to bound cardinality."""
CLIENT_GONE = 499
"""Status in the log for requests whose client disconnected, as in nginx."""


async def _nothing_to_measure() -> bytes:
    return b""


def app(routes: Sequence[BaseRoute], process: str, measure: Measure = _nothing_to_measure) -> ASGIApp:
    """Return the ASGI application of a process; `measure` runs before metrics are read."""

    async def metrics(_: Request) -> Response:
        if (principal := context.caller_or_none()) is not None:
            principal.must_hold("platform:read")
        return Response(page(await measure()), media_type=CONTENT_TYPE_LATEST)

    own_routes = [
        Route(ALIVE, _alive, methods=["GET"]),
        Route(f"/metrics/{process}", metrics, methods=["GET"]),
    ]
    return RequestMiddleware(Router([*routes, *own_routes], redirect_slashes=False, default=_nothing_here))


class RequestMiddleware:
    """Around every request: the caller, the trace, one line of log, errors in OpenAI's shape."""

    def __init__(self, inner: Router) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] == ALIVE:  # probed often, and worth no line of log each time
            await self._inner(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        answer = _Answer(send)
        with (
            telemetry.Request("http", scope["method"] if scope["method"] in VERBS else OTHER, headers) as request,
            context.acting_for(context.Principal.from_headers(headers)),
        ):
            scope["state"] = {"log": request.fields}
            scope["path"] = scope["path"].rstrip("/") or "/"  # a list's path is never that of an item without a name
            scope["app"] = self  # so that a wrong verb is raised, not answered in plain text
            request.fields |= {"path": scope["path"]}
            if principal := context.caller_or_none():
                request.fields |= {"key": principal.key, "desk": principal.desk}
            try:
                if encoding := headers.get("content-encoding", "").strip().lower():
                    receive = decoded(receive, encoding)
                await self._inner(scope, receive, answer.send)
            except ClientDisconnect:
                answer.status = CLIENT_GONE
            except asyncio.CancelledError:
                answer.status = CLIENT_GONE
                raise
            except HTTPException:
                verbs = self._verbs(scope)
                message = f"{scope['path']} takes {verbs}, not {scope['method']}"
                await answer.fail(MethodNotAllowed(message, allow=verbs))
            except DrwError as error:
                request.fails(error)
                await answer.fail(error)
            except LOST as lost:
                log.warning("a connection was lost", exc_info=lost)
                gone = unavailable()
                request.fails(gone)
                await answer.fail(gone)
            except Exception:
                log.exception("unexpected error")
                await answer.fail(InternalError("unexpected error; the log has more under this trace id"))
            finally:
                request.finish(str(answer.status or CLIENT_GONE))

    def _verbs(self, scope: Scope) -> str:
        routes = (r for r in self._inner.routes if isinstance(r, Route) and r.matches(scope)[0] is not Match.NONE)
        return ", ".join(sorted({verb for route in routes for verb in route.methods or ()}))


class _Answer:
    """The answer to one request; an error can still become it while nothing has been sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if trace_id := telemetry.current_trace_id():
                message["headers"] = [*message.get("headers", ()), (b"x-trace-id", trace_id.encode())]
        await self._send(message)

    async def fail(self, error: DrwError) -> None:
        if self.status:
            # What has gone out cannot be called back: break the connection, so that nobody takes it for whole.
            raise error
        response = error_response(error)
        await response({"type": "http"}, _no_body, self.send)


def error_response(error: DrwError) -> Response:
    """Return the error as an HTTP answer."""
    if (
        isinstance(error, Unavailable)
        and "retry_after" not in error.metadata
        and (after := start_times.start_seconds(error))
    ):
        error.metadata["retry_after"] = str(after)
    body = orjson.dumps(http_body(error))
    return Response(body, http_form(error).status, headers=http_headers(error), media_type=JSON)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object of at most `limit` bytes.

    Raises:
        InvalidRequest: it is not.
    """
    return json_object(await read_body(request, limit))


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request; of a larger one no more than the limit is read.

    Raises:
        TooLarge: it has more than `limit` bytes.
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
            timeout_keep_alive=600,  # longer than the data plane keeps idle connections, so that it closes them
            proxy_headers=False,  # who calls is said by the data plane, in headers of its own
            server_header=False,
            date_header=False,
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, address: str) -> str:
        """Listen, and return the address (with the port, where it was 0)."""
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
        """Take no more requests, and wait `grace` seconds for those under way."""
        self._server.should_exit = True
        self._server.config.timeout_graceful_shutdown = max(1, int(grace))
        if self._task:
            self._task.cancel()  # it would look only every tenth of a second whether it should exit
            await asyncio.gather(self._task, return_exceptions=True)
            if self._server.server_state.connections:
                await self._server.shutdown()
            else:  # nothing to wait for, which it would do all the same
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


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"there is nothing at {scope['method']} {scope['path']}")


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
