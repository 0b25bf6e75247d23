"""Double of an OpenAI-compatible engine; the last message of a request names its behaviour."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from support.json_types import JsonObject

WORDS = ("Rates", " rose", ".")


class DoubleEngine:
    """Stores request bodies and headers, and counts running requests."""

    def __init__(self) -> None:
        self.bodies: list[JsonObject] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = 0
        self.words: tuple[str, ...] = WORDS
        self.cut_after = 1
        self.failing: set[str] = set()
        """Models, by the name in the request, that fail each request."""
        self.hanging: set[str] = set()
        """Models that answer only after `go`."""
        self.go = asyncio.Event()
        """Resumes requests with the behaviour `wait`."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.under_way += 1
        try:
            if body["model"] in self.failing:
                return await self.status_500(request, body)
            if body["model"] in self.hanging:
                await self.go.wait()
            content = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            return await getattr(self, content if isinstance(content, str) else "plain", self.plain)(request, body)
        finally:
            self.under_way -= 1

    async def plain(
        self, request: web.Request, body: JsonObject, *, done: bool = True, finish: bool = True
    ) -> web.StreamResponse:
        response = await self._begin(request)
        for word in self.words:
            await self._word(response, body, word)
        if finish:
            await self._send(response, self._choices(body, {}, "stop"))
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
            await self._send(response, {"choices": [], "usage": usage})
        if done:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def thinking(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        for word in self.words:
            await self._send(response, self._choices(body, {"reasoning": word}))
        await self._send(response, self._choices(body, {"content": "So."}, "stop"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def citing(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        self.words = ("Rates [2]", " rose [1", ", 9].")
        return await self.plain(request, body)

    async def calls(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Interleave the deltas of two tool calls, with a text between them."""
        response = await self._begin(request)
        for index, arguments, name in ((0, '{"a":', "price"), (1, "{}", "other"), (0, "1}", "")):
            function = {"arguments": arguments} | ({"name": name} if name else {})
            call = {"index": index, "function": function} | ({"id": f"call_{index}"} if name else {})
            await self._send(response, self._choices(body, {"tool_calls": [call]}))
        await self._word(response, body, "Late.")
        await self._send(response, self._choices(body, {}, "tool_calls"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def broken_call(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        """Call a tool with arguments that are not JSON."""
        response = await self._begin(request)
        call = {"index": 0, "id": "call_0", "function": {"name": "price", "arguments": '{"a":'}}
        await self._send(response, self._choices(body, {"tool_calls": [call]}))
        await self._send(response, self._choices(body, {}, "tool_calls"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def filtered(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._send(response, self._choices(body, {"refusal": "No."}))
        await self._send(response, self._choices(body, {}, "content_filter"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def too_long(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._word(response, body, "Rates")
        await self._send(response, self._choices(body, {}, "length"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def wait(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        await self.go.wait()
        return await self.plain(request, body)

    async def stall(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._word(response, body, self.words[0])
        await self.go.wait()
        return response

    async def cut(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        for word in self.words[: self.cut_after]:
            await self._word(response, body, word)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def no_done(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return await self.plain(request, body, done=False)

    async def no_finish(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return await self.plain(request, body, finish=False)

    async def error_event(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._word(response, body, self.words[0])
        await self._send(response, {"error": {"message": "out of memory", "code": 500}})
        return response

    async def status_500(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return web.json_response({"error": {"message": "it broke"}}, status=500)

    async def quoting(self, request: web.Request, body: JsonObject, status: int = 500) -> web.StreamResponse:
        content = body["messages"][0]["content"]
        return web.json_response({"error": {"message": f"cannot read: {content}"}}, status=status)

    async def quoting_400(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return await self.quoting(request, body, 400)

    async def quoting_429(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return await self.quoting(request, body, 429)

    async def quoting_event(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._word(response, body, WORDS[0])
        await self._send(response, {"error": {"message": f"cannot read: {body['messages'][0]['content']}"}})
        return response

    async def repeating(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        response = await self._begin(request)
        await self._word(response, body, body["messages"][0]["content"])
        await self._send(response, self._choices(body, {}, "stop"))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def status_429(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})

    async def no_money(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        error = {"message": "You exceeded your current quota", "type": "insufficient_quota", "param": None}
        headers = {"retry-after": "7"}
        return web.json_response({"error": error | {"code": "insufficient_quota"}}, status=429, headers=headers)

    async def no_model(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        error = {"message": "The model `up-1` does not exist.", "type": "NotFoundError", "param": None, "code": 404}
        return web.json_response({"error": error}, status=404)

    async def status_401(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        return web.json_response({"error": {"message": "bad key sk-secret"}}, status=401)

    async def status_400(self, request: web.Request, body: JsonObject) -> web.StreamResponse:
        error = {"message": "too long: 9 of 8", "code": "context_length_exceeded", "param": "messages"}
        return web.json_response({"error": error}, status=400)

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def _word(self, response: web.StreamResponse, body: JsonObject, word: str) -> None:
        await self._send(response, self._choices(body, {"content": word} if "messages" in body else {"text": word}))

    def _choices(self, body: JsonObject, content: JsonObject, finish: str | None = None) -> JsonObject:
        put = {"delta": content} if "messages" in body else {"text": "", **content}
        prompt = body.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        choices = [{"index": i, **put, "finish_reason": finish} for i in range(body.get("n", 1) * prompts)]
        return {"id": "up", "object": "x", "created": 1, "model": body["model"], "choices": choices}

    async def _send(self, response: web.StreamResponse, event: JsonObject) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def double_engine(socket: Path) -> AsyncIterator[DoubleEngine]:
    """Serve a `DoubleEngine` on a Unix socket."""
    engine = DoubleEngine()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", engine.serve)
    app.router.add_post("/v1/completions", engine.serve)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield engine
    finally:
        engine.go.set()
        await runner.cleanup()
