"""Double of an OpenAI-compatible upstream over TCP, with a scripted behaviour for each request."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from models.failover.time_loop import DoubleClock
from support.json_types import Json, JsonObject

TOKENS = [f" word{i}" + ("\n" if i % 10 == 9 else "") for i in range(60)]
"""An answer of 60 tokens; the 40th ends with white space, which chat templates remove."""
TEXT = "".join(TOKENS)
THOUGHTS = [f"thought {i}; " for i in range(20)]
PROMPT_TOKENS = 7


class DoubleUpstream:
    """Answers with `TEXT`, or with its rest if the request has a prefix of it.

    `script` names a behaviour (a method of this class) for each request; the last one is repeated.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.script = ["healthy"]
        self.bodies: list[JsonObject] = []
        self.base_url = ""
        self.under_way = 0
        self.go = asyncio.Event()
        """Resumes requests with the behaviour `held`."""
        self._clock = DoubleClock()

    @property
    def request_count(self) -> int:
        """The number of requests received."""
        return len(self.bodies)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(body := await request.json())
        behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.under_way += 1
        try:
            return await getattr(self, behaviour)(request, body)
        finally:
            self.under_way -= 1

    async def healthy(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response, tokens = await self._begin(request), _left(body)
        await self._words(response, tokens)
        await self._finish(response, len(tokens), body)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def limited(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(429, "slow down", "rate_limit_exceeded", {"retry-after": "4"})

    async def limited_long(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(429, "slow down", "rate_limit_exceeded", {"retry-after": "40"})

    async def status_500(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(500, "it broke", "server_error")

    async def status_503(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(503, "no place free", "service_unavailable")

    async def maintenance(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(503, "in maintenance", "service_unavailable", {"retry-after": "40"})

    async def redirect(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return web.Response(status=307, headers={"location": f"{request.url.origin()}/elsewhere"})

    async def status_400(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(400, "temperature is out of range", "invalid_value")

    async def reset(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        _reset(request)
        return web.Response()

    async def silent(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        await self._clock.sleep(120)
        return await self.healthy(request, body)

    async def held(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        await self.go.wait()
        return await self.healthy(request, body)

    async def held_500(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        await self.go.wait()
        return await self.status_500(request, body)

    async def held_stream(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self.go.wait()
        return response

    async def slow_start(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._clock.sleep(20)
        await self._words(response, TOKENS)
        await self._finish(response, 60, body)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def cut(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self._wait_until_read(request)
        _reset(request)
        return response

    async def stall(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self._clock.sleep(30)
        await self._words(response, TOKENS[40:])
        await self._finish(response, 60, body)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def malformed(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await response.write(b'data: {"choices": [{"delta": {"content": "wor\n\n')
        await self._words(response, TOKENS[41:])
        await self._finish(response, 60, body)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def no_field(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await response.write(b'{"choices": [{"index": 0, "delta": {"content": "lost"}}]}\n\n')
        await self._words(response, TOKENS[41:])
        await self._finish(response, 60, body)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def no_done(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS)
        await self._finish(response, 60, body)
        return response

    async def no_finish(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await response.write(b"data: [DONE]\n\n")
        return response

    async def too_long(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(400, "maximum context length is 4096 tokens", "context_length_exceeded")

    async def filtered(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return _error(400, "the prompt is against our rules", "content_filter")

    async def filtered_in_parts(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Return an error with a generic status and a body in two parts."""
        response = web.StreamResponse(status=500, headers={"content-type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"error": {"message": "against our rules", ')
        await self._clock.sleep(0.2)
        await response.write(b'"code": "content_filter"}}')
        return response

    async def filtered_end(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self._send(response, {}, "content_filter")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def filtered_cut(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """End with a content filter, then close the connection without `[DONE]`."""
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self._send(response, {}, "content_filter")
        return response

    async def filtered_stall(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await self._raw(response, {}, "content_filter: SAFETY")  # as Gemini words it
        await self._clock.sleep(30)
        return response

    async def aborted(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:39])
        await self._raw(response, {"content": TOKENS[39]}, "abort")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def thinking(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Stream reasoning under its newer field name, then answer."""
        response = await self._begin(request)
        for thought in THOUGHTS:
            await self._clock.sleep(2)
            await self._raw(response, {"reasoning": thought})
        await self._words(response, TOKENS)
        await self._finish(response, 60, body)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def cut_thinking(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._raw(response, {"reasoning": THOUGHTS[0]})
        await self._words(response, TOKENS[:1])
        await self._wait_until_read(request)
        _reset(request)
        return response

    async def heartbeats(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Show signs of life, and say nothing more."""
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        while True:
            await self._clock.sleep(1)
            await self._send(response, {})

    async def filtered_event(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._words(response, TOKENS[:40])
        await response.write(b'data: {"error": {"message": "against our rules", "code": "content_filter"}}\n\n')
        return response

    async def no_prefill(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        if body["messages"][-1]["role"] == "assistant":
            return _error(400, "the last message must be the user's", "invalid_request_error")
        return await self.healthy(request, body)

    async def echo(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Repeat the prefix in the answer, as some engines do."""
        return await self.healthy(request, body | {"messages": body["messages"][:1]})

    async def redirected(self, request: web.Request) -> web.StreamResponse:
        """Answer at the target of the redirect."""
        return await self.healthy(request, await request.json())

    async def _wait_until_read(self, request: web.Request) -> None:
        """Wait until the client has read all written bytes; a reset would discard them."""
        assert request.transport is not None
        plug = request.transport.get_extra_info("socket")
        while _unread(plug):
            await asyncio.sleep(0.001)

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await self._send(response, {"role": "assistant", "content": ""})
        return response

    async def _words(self, response: web.StreamResponse, tokens: list[str]) -> None:
        for token in tokens:
            await self._send(response, {"content": token})

    async def _finish(self, response: web.StreamResponse, tokens: int, body: JsonObject) -> None:
        await self._send(response, {}, "stop")
        prompt = PROMPT_TOKENS + 60 - len(_left(body))
        usage = CompletionUsage(prompt_tokens=prompt, completion_tokens=tokens, total_tokens=prompt + tokens)
        await self._chunk(response, choices=[], usage=usage)

    async def _send(self, response: web.StreamResponse, delta: dict[str, str], finish: str | None = None) -> None:
        await self._chunk(response, choices=[{"index": 0, "delta": delta, "finish_reason": finish}])

    async def _raw(self, response: web.StreamResponse, delta: dict[str, str], finish: str | None = None) -> None:
        """Send fields that OpenAI's types do not have."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        await response.write(b"data: " + json.dumps({"id": "up", "choices": [choice]}).encode() + b"\n\n")

    async def _chunk(self, response: web.StreamResponse, **fields: Json) -> None:
        head = {"id": "up", "object": "chat.completion.chunk", "created": 1, "model": self.name}
        chunk = ChatCompletionChunk.model_validate(head | fields)
        await response.write(b"data: " + chunk.model_dump_json(exclude_none=True).encode() + b"\n\n")


def _left(body: JsonObject) -> list[str]:
    """Return the tokens to send: after a prefix, the rest of the text."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return TOKENS
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    prefix = last["content"]
    assert TEXT.startswith(prefix), f"{prefix!r} is no beginning of the answer"
    rest = TEXT[len(prefix) :]
    words = rest.split(" ")
    return [piece for piece in [words[0], *(f" {word}" for word in words[1:])] if piece]


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "error", "code": code, "param": None}
    return web.json_response({"error": error}, status=status, headers=headers)


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    plug = request.transport.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _unread(plug: socket.socket) -> int:
    """Return the number of sent bytes that the peer has not acknowledged."""
    import fcntl
    import termios

    return int(struct.unpack("i", fcntl.ioctl(plug.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


@asynccontextmanager
async def double_upstream(name: str) -> AsyncIterator[DoubleUpstream]:
    """Serve a `DoubleUpstream` on a port of the loopback."""
    upstream = DoubleUpstream(name)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.serve)
    app.router.add_post("/elsewhere", upstream.redirected)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()
