"""OpenAI's endpoints for models. They are plain ASGI applications, since this is the hot path."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from drw.kernel.errors import ClientDisconnected, DrwError
from drw.kernel.rpc.context import caller
from drw.kernel.storage.audit import AuditWriter
from drw.killswitch.watch import KillList, killed_error
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.embeddings import Embeddings
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding, Sampling, parse_request
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk, Endpoint
from drw.models.serving.request_runner import RequestRunner

INVOKE = "models:invoke"
SESSION = b"x-session-id"
DOCUMENT = b"x-document-id"
"""The document that a call is about: a unit of experiments."""
MAX_SESSION = 512
DONE = b"data: [DONE]\n\n"

Serve = Callable[[HttpExchange, CallRecord], Awaitable[None]]


class AuditedEndpoint:
    """ASGI application of one endpoint: bounds the body, checks scope and kills, always writes the call record."""

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
        with self._buffers.reserve(caller().org) as reserve_bytes:
            try:
                raw = await exchange.body(self._limit, reserve_bytes)
            except ClientDisconnected:
                return
            await self._serve_audited(exchange, raw)

    async def _serve_audited(self, exchange: HttpExchange, raw: bytes) -> None:
        record = CallRecord(self._audit, self._operation, raw)
        try:
            caller().require_scope(INVOKE)
            with exchange.while_connected(), self._kills.guard_block(caller(), lambda: record.models):
                await self._serve(exchange, record)
        except ClientDisconnected as client_gone:
            # The data plane may have cut the stream because of a kill.
            kill = self._kills.find(caller(), record.models)
            await record.fail(killed_error(kill) if kill else client_gone)
        except DrwError as error:
            await exchange.fail(await _record_failure(record, error))
        except BaseException as error:
            await record.fail(error)
            raise
        finally:
            exchange.log(record.log_fields())


class AuditedEndpoints:
    """Builds the applications of endpoints that call models."""

    def __init__(self, audit: AuditWriter, kills: KillList, buffers: BodyBuffers, limit: int) -> None:
        self._audit = audit
        self._kills = kills
        self._buffers = buffers
        self._limit = limit

    def endpoint(self, operation: str, serve: Serve) -> AuditedEndpoint:
        """Return the application of one endpoint; `operation` names its calls in the audit log."""
        return AuditedEndpoint(self._audit, self._kills, self._buffers, operation, self._limit, serve)


async def _record_failure(record: CallRecord, error: DrwError) -> DrwError:
    """Write the record; return the error for the caller, which is a different one if the record cannot be written."""
    try:
        await record.fail(error)
    except DrwError as record_error:
        return record_error
    return error


class ChatEndpoints:
    """Serves chats and completions."""

    def __init__(self, runner: RequestRunner) -> None:
        self._runner = runner

    async def chat(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/chat/completions`."""
        await self._serve(exchange, record, "chat/completions", parse_request(ChatCompletion, record.request))

    async def completion(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/completions`."""
        await self._serve(exchange, record, "completions", parse_request(Completion, record.request))

    async def _serve(self, exchange: HttpExchange, record: CallRecord, endpoint: Endpoint, request: Sampling) -> None:
        answer, chunks = await self._runner.start(
            endpoint,
            request,
            record,
            model=request.model,
            stream=bool(request.stream),
            session=exchange.header(SESSION)[:MAX_SESSION],
            document=exchange.header(DOCUMENT)[:MAX_SESSION],
            headers=exchange.headers,
        )
        try:
            if request.stream:
                await self._stream(exchange, answer, chunks, with_usage=request.usage_in_stream)
            else:
                async for _ in chunks:
                    pass
                await exchange.send_response(answer.body(), answer.model)
        finally:
            await chunks.aclose()

    async def _stream(
        self,
        exchange: HttpExchange,
        answer: Answer,
        chunks: AsyncGenerator[Chunk, None],
        *,
        with_usage: bool,
    ) -> None:
        started = False
        async for chunk in chunks:
            if not started:  # errors before the first chunk have their own status
                await exchange.start_stream(answer.model)
                started = True
            if event := answer.event(chunk, with_usage=with_usage):
                await exchange.send_event(event)
        await exchange.end_stream((answer.usage_event() if with_usage else b"") + DONE)


def routes(runner: RequestRunner, embeddings: Embeddings, audited: AuditedEndpoints) -> list[BaseRoute]:
    """Return the routes of OpenAI's endpoints that call models."""
    chats = ChatEndpoints(runner)

    async def embed(exchange: HttpExchange, record: CallRecord) -> None:
        request = parse_request(Embedding, record.request)
        await exchange.send_response(await embeddings.respond(request, record), request.model)

    served = {
        "/v1/chat/completions": ("chat", chats.chat),
        "/v1/completions": ("completion", chats.completion),
        "/v1/embeddings": ("embedding", embed),
    }
    return [
        Route(path, audited.endpoint(operation, serve), methods=["POST"]) for path, (operation, serve) in served.items()
    ]
