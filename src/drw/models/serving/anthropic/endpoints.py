"""Anthropic's endpoints: messages and the count of their tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from drw.kernel.rpc.context import caller
from drw.kernel.rpc.http.server import read_body
from drw.models.serving.anthropic import responses
from drw.models.serving.anthropic.conversion import to_chat
from drw.models.serving.anthropic.format import PLATFORM_REQUEST_ID, AnthropicRoute
from drw.models.serving.anthropic.requests import CountTokens, CreateMessage
from drw.models.serving.anthropic.stream import MessageStream, error_event
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.endpoints import INVOKE, MAX_SESSION, SESSION, AuditedEndpoints
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import parse_request
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.request_runner import RequestRunner


class MessageEndpoints:
    """Serves messages."""

    def __init__(self, runner: RequestRunner, buffers: BodyBuffers, max_body: int) -> None:
        self._runner = runner
        self._buffers = buffers
        self._max_body = max_body

    async def create(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/messages`."""
        request_id = exchange.header(PLATFORM_REQUEST_ID)
        exchange.error_event = partial(error_event, request_id=request_id)
        request = parse_request(CreateMessage, record.request)
        answer, chunks = await self._runner.start(
            "chat/completions",
            to_chat(request),
            record,
            model=request.model,
            stream=bool(request.stream),
            session=(exchange.header(SESSION) or request.session)[:MAX_SESSION],
            headers=exchange.headers,
        )
        stops = request.stop_sequences or []
        hides_text = request.thinking is not None and request.thinking.display == "omitted"
        try:
            if request.stream:
                stream = MessageStream(answer, stops, shows_thinking=request.shows_thinking, hides_text=hides_text)
                await _send_stream(exchange, answer, chunks, stream)
            else:
                async for _ in chunks:
                    pass
                message = responses.message(answer, stops, shows_thinking=request.shows_thinking, hides_text=hides_text)
                await exchange.send_response(orjson.dumps(message), answer.model)
        finally:
            await chunks.aclose()

    async def count_tokens(self, request: Request) -> Response:
        """`POST /v1/messages/count_tokens`."""
        caller().require_scope(INVOKE)
        with self._buffers.reserve(caller().org) as reserve_bytes:
            raw = await read_body(request, self._max_body)
            reserve_bytes(len(raw))
            parsed = parse_request(CountTokens, raw)
            tokens = await self._runner.count_tokens(to_chat(parsed), parsed.model)
        return Response(orjson.dumps({"input_tokens": tokens}), media_type="application/json")


async def _send_stream(
    exchange: HttpExchange, answer: Answer, chunks: AsyncGenerator[Chunk, None], stream: MessageStream
) -> None:
    started = False
    async for chunk in chunks:
        if not started:  # errors before the first chunk have their own status
            await exchange.start_stream(answer.model)
            await exchange.send_event(stream.start())
            started = True
        if events := stream.feed(chunk):
            await exchange.send_event(events)
    await exchange.end_stream(stream.end())


def routes(runner: RequestRunner, audited: AuditedEndpoints, buffers: BodyBuffers, max_body: int) -> list[BaseRoute]:
    """Return the routes of Anthropic's endpoints."""
    messages = MessageEndpoints(runner, buffers, max_body)
    return [
        AnthropicRoute("/v1/messages", audited.endpoint("messages", messages.create), methods=["POST"]),
        AnthropicRoute("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
    ]
