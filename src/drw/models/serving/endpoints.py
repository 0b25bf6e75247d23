"""OpenAI's endpoints, by hand and without a framework's detours: this is the path that must be fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from drw.api.models.v1.discovery_pb2 import GetModelRequest, ListModelsRequest, Model
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.audit import AuditWriter
from drw.kernel.call import caller
from drw.kernel.errors import DrwError, TooLarge, http_body
from drw.models.serving.answers import Answer
from drw.models.serving.chats import check_length, generate
from drw.models.serving.embeddings import Embeddings
from drw.models.serving.models import ChatModel, Models
from drw.models.serving.ports import Chunk, Endpoint
from drw.models.serving.record import ClientGone, Record
from drw.models.serving.requests import ChatCompletion, Completion, Embedding, Sampling, read

INVOKE = "models:invoke"
READ = "models:read"
JSON = (b"content-type", b"application/json")
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))
DONE = b"data: [DONE]\n\n"

Serve = Callable[["Exchange", Record], Awaitable[None]]


class Exchange:
    """One request and its answer on the wire."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False

    async def body(self, limit: int) -> bytes:
        """Return the body of the request."""
        pieces, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            more = message.get("more_body", False)
        return b"".join(pieces)

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Run the block, and raise `ClientGone` in it as soon as the caller is."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            watching.cancel()

    def log(self, fields: dict[str, Any]) -> None:
        """Add to the request's line of log."""
        self._scope["state"]["log"].update(fields)

    async def answer(self, body: bytes, model: str) -> None:
        """Send a whole answer."""
        headers = [JSON, (b"content-length", b"%d" % len(body)), (b"x-drw-model", model.encode())]
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_events(self, model: str) -> None:
        """Begin a stream of events."""
        headers = [*EVENTS, (b"x-drw-model", model.encode())]
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def event(self, data: bytes) -> None:
        """Send one event."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self, last: bytes) -> None:
        """Send the last event."""
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, error: DrwError) -> None:
        """Send the error as an event where a stream has begun; raise it where nothing has been sent."""
        if not self._started:
            raise error
        self.log({"error": error.message})
        await self.end_events(b"data: " + orjson.dumps(http_body(error)) + b"\n\n")


class Audited:
    """An ASGI application that serves one endpoint and leaves a record, however it ends."""

    def __init__(self, audit: AuditWriter, operation: str, limit: int, serve: Serve) -> None:
        self._audit = audit
        self._operation = operation
        self._limit = limit
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        caller()
        try:
            raw = await exchange.body(self._limit)
        except ClientGone:
            return
        record = Record(self._audit, self._operation, raw)
        try:
            caller().must_hold(INVOKE)
            async with exchange.while_connected():
                await self._serve(exchange, record)
        except ClientGone as gone:
            await record.fail(gone)
        except DrwError as error:
            await exchange.fail(await _recorded(record, error))
        except BaseException as error:
            await record.fail(error)
            raise
        finally:
            exchange.log(record.brief())


async def _recorded(record: Record, error: DrwError) -> DrwError:
    """Write the record, and return what the caller is to hear: that it could not be written, if so."""
    try:
        await record.fail(error)
    except DrwError as unwritten:
        return unwritten
    return error


class ChatEndpoints:
    """Chats and completions."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def chat(self, exchange: Exchange, record: Record) -> None:
        """`POST /v1/chat/completions`."""
        await self._serve(exchange, record, "chat/completions", read(ChatCompletion, record.request))

    async def completion(self, exchange: Exchange, record: Record) -> None:
        """`POST /v1/completions`."""
        await self._serve(exchange, record, "completions", read(Completion, record.request))

    async def _serve(self, exchange: Exchange, record: Record, endpoint: Endpoint, request: Sampling) -> None:
        model = await self._models.chat(request.model)
        check_length(model, *request.most_tokens())
        answer = Answer(endpoint, request.model, request.choices)
        chunks = generate(model, endpoint, request.body(), answer, record)
        try:
            if request.stream:
                await self._stream(exchange, record, model, answer, chunks, with_usage=request.usage_in_stream)
            else:
                await self._whole(exchange, record, model, answer, chunks)
        finally:
            await chunks.aclose()

    async def _whole(
        self,
        exchange: Exchange,
        record: Record,
        model: ChatModel,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
    ) -> None:
        async for _ in chunks:
            pass
        await record.close()
        await exchange.answer(answer.body(), model.id)

    async def _stream(
        self,
        exchange: Exchange,
        record: Record,
        model: ChatModel,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
        *,
        with_usage: bool,
    ) -> None:
        begun = False
        async for chunk in chunks:
            if not begun:  # only now: an error before it is an ordinary answer with its own status
                await exchange.begin_events(model.id)
                begun = True
            if event := answer.event(chunk, with_usage=with_usage):
                await exchange.event(event)
        await record.close()
        await exchange.end_events((answer.usage_event() if with_usage else b"") + DONE)


class ModelList:
    """`GET /v1/models` and `GET /v1/models/{id}`."""

    def __init__(self, discovery: DiscoveryClient) -> None:
        self._discovery = discovery

    async def all(self, request: Request) -> Response:
        """Return every model."""
        caller().must_hold(READ)
        listed = await self._discovery.list_models(ListModelsRequest())
        return _json({"object": "list", "data": [_shown(model) for model in listed.models]})

    async def one(self, request: Request) -> Response:
        """Return one model."""
        caller().must_hold(READ)
        return _json(_shown(await self._discovery.get_model(GetModelRequest(id=request.path_params["id"]))))


def routes(
    models: Models, discovery: DiscoveryClient, embeddings: Embeddings, audit: AuditWriter, max_body: int
) -> list[BaseRoute]:
    """Return OpenAI's endpoints."""
    chats, listed = ChatEndpoints(models), ModelList(discovery)

    async def embed(exchange: Exchange, record: Record) -> None:
        request = read(Embedding, record.request)
        await exchange.answer(await embeddings.answer(request, record), request.model)

    served = {
        "/v1/chat/completions": ("chat", chats.chat),
        "/v1/completions": ("completion", chats.completion),
        "/v1/embeddings": ("embedding", embed),
    }
    made: list[BaseRoute] = [
        Route(path, Audited(audit, operation, max_body, serve), methods=["POST"])
        for path, (operation, serve) in served.items()
    ]
    made.append(Route("/v1/models", listed.all, methods=["GET"]))
    made.append(Route("/v1/models/{id:path}", listed.one, methods=["GET"]))
    return made


def _shown(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
