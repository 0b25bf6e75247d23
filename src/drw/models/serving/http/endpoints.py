"""OpenAI's endpoints, by hand and without a framework's detours: this is the path that must be fast."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from drw.api.models.v1.discovery_pb2 import GetModelRequest, ListModelsRequest, Model
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import ClientGone, DrwError
from drw.kernel.rpc.context import caller
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList, killed_error
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.embeddings import Embeddings
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding, Sampling, read
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk, Endpoint
from drw.models.serving.request_runner import RequestRunner

INVOKE = "models:invoke"
READ = "models:read"
SESSION = b"x-session-id"
MAX_SESSION = 512
DONE = b"data: [DONE]\n\n"

Serve = Callable[[HttpExchange, CallRecord], Awaitable[None]]


class Audited:
    """An ASGI application that serves one endpoint and leaves a record, however it ends."""

    def __init__(
        self, audit: AuditWriter, kills: KillList, buffers: BodyBuffers, operation: str, limit: int, serve: Serve
    ) -> None:
        self._audit = audit
        self._buffers = buffers
        self._kills = kills
        self._operation = operation
        self._limit = limit
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = HttpExchange(scope, receive, send)
        with self._buffers.holding(caller().org) as reserve_bytes:
            try:
                raw = await exchange.body(self._limit, reserve_bytes)
            except ClientGone:
                return
            await self._answer(exchange, raw)

    async def _answer(self, exchange: HttpExchange, raw: bytes) -> None:
        record = CallRecord(self._audit, self._operation, raw)
        try:
            caller().must_hold(INVOKE)
            with exchange.while_connected(), self._kills.guard_block(caller(), lambda: record.models):
                await self._serve(exchange, record)
        except ClientGone as gone:
            # A data plane that cuts the stream before we do is no caller who left.
            kill = self._kills.find(caller(), record.models)
            await record.fail(killed_error(kill) if kill else gone)
        except DrwError as error:
            await exchange.fail(await _recorded(record, error))
        except BaseException as error:
            await record.fail(error)
            raise
        finally:
            exchange.log(record.log_fields())


async def _recorded(record: CallRecord, error: DrwError) -> DrwError:
    """Write the record, and return what the caller is to hear: that it could not be written, if so."""
    try:
        await record.fail(error)
    except DrwError as unwritten:
        return unwritten
    return error


class ChatEndpoints:
    """Chats and completions."""

    def __init__(self, runner: RequestRunner) -> None:
        self._runner = runner

    async def chat(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/chat/completions`."""
        await self._serve(exchange, record, "chat/completions", read(ChatCompletion, record.request))

    async def completion(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/completions`."""
        await self._serve(exchange, record, "completions", read(Completion, record.request))

    async def _serve(self, exchange: HttpExchange, record: CallRecord, endpoint: Endpoint, request: Sampling) -> None:
        answer, chunks = await self._runner.start(
            endpoint,
            request,
            record,
            model=request.model,
            live=bool(request.stream),
            session=exchange.header(SESSION)[:MAX_SESSION],
            headers=exchange.headers,
        )
        try:
            if request.stream:
                await self._stream(exchange, answer, chunks, with_usage=request.usage_in_stream)
            else:
                await self._whole(exchange, answer, chunks)
        finally:
            await chunks.aclose()

    async def _whole(self, exchange: HttpExchange, answer: Answer, chunks: AsyncGenerator[Chunk, None]) -> None:
        async for _ in chunks:
            pass
        await exchange.answer(answer.body(), answer.model)

    async def _stream(
        self,
        exchange: HttpExchange,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
        *,
        with_usage: bool,
    ) -> None:
        begun = False
        async for chunk in chunks:
            if not begun:  # only now: an error before it is an ordinary answer with its own status
                await exchange.begin_events(answer.model)
                begun = True
            if event := answer.event(chunk, with_usage=with_usage):
                await exchange.event(event)
        await exchange.end_events((answer.usage_event() if with_usage else b"") + DONE)


class ModelList:
    """`GET /v1/models` and `GET /v1/models/{id}`."""

    def __init__(self, discovery: DiscoveryClient) -> None:
        self._discovery = discovery

    async def all(self, request: Request) -> Response:
        """Return every model."""
        caller().must_hold(READ, INVOKE)
        listed = await self._discovery.list_models(ListModelsRequest())
        return _json({"object": "list", "data": [_shown(model) for model in listed.models]})

    async def one(self, request: Request) -> Response:
        """Return one model."""
        caller().must_hold(READ, INVOKE)
        return _json(_shown(await self._discovery.get_model(GetModelRequest(id=request.path_params["id"]))))


def routes(
    runner: RequestRunner,
    discovery: DiscoveryClient,
    embeddings: Embeddings,
    kills: KillList,
    audit: AuditWriter,
    buffers: BodyBuffers,
    max_body: int,
) -> list[BaseRoute]:
    """Return OpenAI's endpoints."""
    chats, listed = ChatEndpoints(runner), ModelList(discovery)

    async def embed(exchange: HttpExchange, record: CallRecord) -> None:
        request = read(Embedding, record.request)
        await exchange.answer(await embeddings.answer(request, record), request.model)

    served = {
        "/v1/chat/completions": ("chat", chats.chat),
        "/v1/completions": ("completion", chats.completion),
        "/v1/embeddings": ("embedding", embed),
    }
    made: list[BaseRoute] = [
        Route(path, Audited(audit, kills, buffers, operation, max_body, serve), methods=["POST"])
        for path, (operation, serve) in served.items()
    ]
    made.append(Route("/v1/models", listed.all, methods=["GET"]))
    made.append(Route("/v1/models/{id:path}", listed.one, methods=["GET"]))
    return made


def _shown(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
