"""REST endpoints of the Open Inference Protocol, as plain ASGI applications."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from drw.kernel.errors import DrwError, InvalidRequest, MethodNotAllowed, NotFound, http_error, http_headers
from drw.kernel.observability.telemetry import ERROR_TYPE, loggable
from drw.kernel.rpc.context import caller
from drw.kernel.rpc.http.json_bodies import json_object
from drw.kernel.rpc.http.server import read_body
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.open_inference import rest_messages
from drw.models.serving.open_inference.inference import Inference
from drw.models.serving.open_inference.repository import ModelMetadata, Repository
from drw.models.serving.open_inference.requests import InferRequest
from drw.tensors.datatypes import TensorSpec

HEADER_LENGTH = b"inference-header-content-length"
BINARY = (b"content-type", b"application/octet-stream")
MAX_SMALL_BODY = 1 << 20
LARGE_BYTES = 1 << 18
"""Larger bodies are parsed and compressed in a thread, so that they do not block other requests."""
MIN_COMPRESSED_BYTES = 1 << 10

Audited = Callable[[Callable[[HttpExchange, CallRecord], Awaitable[None]]], ASGIApp]
"""Returns the application that checks, meters and audits an inference request."""
Answer = Callable[[Request], Awaitable[Response]]


class ProtocolErrors:
    """Application that returns errors as the protocol does, and rejects other methods of its path."""

    def __init__(self, method: str, inner: ASGIApp) -> None:
        self._method = method
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            if scope["method"] != self._method:
                message = f"{scope['path']} takes {self._method}, not {scope['method']}"
                raise MethodNotAllowed(message, allow=self._method)
            await self._inner(scope, receive, send)
        except DrwError as error:
            scope["state"]["log"].update({ERROR_TYPE: error.reason, "error": loggable(error)})
            response = _json({"error": error.message}, http_error(error).status, http_headers(error))
            await response(scope, receive, send)


class InferEndpoint:
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    def __init__(self, inference: Inference, max_json: int) -> None:
        self._inference = inference
        self._max_json = max_json

    async def serve(self, exchange: HttpExchange, record: CallRecord) -> None:
        """Serve one request."""
        name, version = exchange.path_params["name"], exchange.path_params.get("version", "")
        length = exchange.header(HEADER_LENGTH)
        arguments = (name, version, record.request, length, self._max_json)
        if len(record.request) > LARGE_BYTES:
            request = await asyncio.to_thread(rest_messages.decode, *arguments)
        else:
            request = rest_messages.decode(*arguments)
        response = _Rendered(request, self._max_json)
        model = await self._inference.run(request, record, response.render)
        body = response.body
        encoding = exchange.header(b"accept-encoding").strip().lower()
        if encoding in ENCODERS and len(body) >= MIN_COMPRESSED_BYTES:
            body = await asyncio.to_thread(ENCODERS[encoding], body)
            exchange.headers += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
        if response.json_length is None:
            await exchange.send_response(body, model)
            return
        exchange.headers.append((HEADER_LENGTH, b"%d" % response.json_length))
        await exchange.send_response(body, model, BINARY)


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}
"""Used only if the client names a single encoding, as clients of the protocol do to request it. Other clients list all
encodings that they can read, and compression would cost more than it saves."""


class _Rendered:
    """The response of a request."""

    def __init__(self, request: InferRequest, max_json: int) -> None:
        self._request = request
        self._max_json = max_json
        self.body = b""
        self.json_length: int | None = None

    def render(self, model: str, version: str, outputs: Any) -> bytes:
        self.body, self.json_length = rest_messages.encode(self._request, model, version, outputs, self._max_json)
        return self.body


class RepositoryEndpoints:
    """Health, metadata and repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def server(self, request: Request) -> Response:
        """`GET /v2`."""
        return _json(self._repository.server())

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """`GET /v2/health/ready`. Models are loaded on demand, so that the server is ready when it listens."""
        return _json({"live": True, "ready": True})

    async def model_ready(self, request: Request) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]/ready`: 503 if the model is not loaded."""
        name, version = _model(request)
        ready = await self._repository.is_ready(name, version)
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def metadata(self, request: Request) -> Response:
        """`GET /v2/models/{name}[/versions/{version}]`."""
        return _json(_metadata(await self._repository.metadata(*_model(request))))

    async def index(self, request: Request) -> Response:
        """`POST /v2/repository/index`."""
        values = await _small_object(request, ("ready", "repository_name"))
        entries = await self._repository.index(ready_only=values.get("ready") is True)
        return _json([{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries])

    async def load(self, request: Request) -> Response:
        """`POST /v2/repository/models/{name}/load`."""
        await self._repository.load(request.path_params["name"], await _small_parameters(request))
        return _json({})

    async def unload(self, request: Request) -> Response:
        """`POST /v2/repository/models/{name}/unload`."""
        await self._repository.unload(request.path_params["name"], await _small_parameters(request))
        return _json({})


def routes(inference: Inference, repository: Repository, audited: Audited, max_json: int) -> list[BaseRoute]:
    """Return the routes of the protocol."""
    infer = ProtocolErrors("POST", audited(InferEndpoint(inference, max_json).serve))
    endpoints = RepositoryEndpoints(repository)
    route_list: list[BaseRoute] = [
        Route("/v2", _answer("GET", endpoints.server)),
        Route("/v2/health/live", _answer("GET", endpoints.live)),
        Route("/v2/health/ready", _answer("GET", endpoints.ready)),
        Route("/v2/repository/index", _answer("POST", endpoints.index)),
        Route("/v2/repository/models/{name:path}/load", _answer("POST", endpoints.load)),
        Route("/v2/repository/models/{name:path}/unload", _answer("POST", endpoints.unload)),
    ]
    for path in ("/v2/models/{name:path}/versions/{version}", "/v2/models/{name:path}"):
        route_list.append(Route(f"{path}/infer", infer))
        route_list.append(Route(f"{path}/ready", _answer("GET", endpoints.model_ready)))
        route_list.append(Route(path, _answer("GET", endpoints.metadata)))
    # "/v2/models/a/versions/1" must not be the metadata of the model "a/versions/1", nor "a/infer" that of "a/infer".
    route_list.sort(key=lambda route: route.path.count("/") if isinstance(route, Route) else 0, reverse=True)
    return [*route_list, Route("/v2/{rest:path}", ProtocolErrors("GET", _nothing))]


def _answer(method: str, function: Answer) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        caller()  # every path needs a key
        response = await function(Request(scope, receive))
        await response(scope, receive, send)

    return ProtocolErrors(method, serve)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"there is nothing at {scope['path']}")


def _model(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


async def _small_object(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    if not (body := await read_body(request, MAX_SMALL_BODY)):
        return {}
    values = json_object(body)
    if unknown := sorted(values.keys() - set(known)):
        raise InvalidRequest(f"{unknown[0]!r} is not a field; there are: {', '.join(known)}", param=unknown[0])
    return values


async def _small_parameters(request: Request) -> dict[str, Any]:
    parameters = (await _small_object(request, ("parameters",))).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("parameters is not an object", param="parameters")
    return parameters


def _metadata(metadata: ModelMetadata) -> dict[str, Any]:
    return {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": "onnx_onnxv1",
        "inputs": [_tensor(spec) for spec in metadata.inputs],
        "outputs": [_tensor(spec) for spec in metadata.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers=headers, media_type="application/json")
