"""Double of a vLLM server: lists its models, and answers every chat with one word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drw.kernel.rpc.http.server import HttpServer
from support.json_types import JsonObject


class DoubleVllm:
    """Serves `models`; `chats` has the models of the requests that it received."""

    def __init__(self) -> None:
        self.models = ["m1", "m2"]
        self.status = 200
        self.chats: list[str] = []
        self.probes: list[dict[str, str]] = []
        self.base_url = ""
        self.go = asyncio.Event()
        """Cleared, it holds the answers of probes."""
        self.go.set()

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        self.probes.append(dict(request.headers))
        await self.go.wait()
        return JSONResponse({"object": "list", "data": [{"id": model} for model in self.models]}, self.status)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        self.chats.append((await request.json())["model"])
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        finished: JsonObject = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        for event in ({"choices": [finished]}, {"choices": [], "usage": usage}):
            head = {"id": "up", "object": "chat.completion.chunk", "created": 1, "model": "up"}
            yield b"data: " + orjson.dumps(head | event) + b"\n\n"
        yield b"data: [DONE]\n\n"


@asynccontextmanager
async def double_vllm() -> AsyncIterator[DoubleVllm]:
    """Run a server on a free port."""
    double = DoubleVllm()
    routes = [
        Route("/v1/models", double.list_models, methods=["GET"]),
        Route("/v1/chat/completions", double.chat, methods=["POST"]),
    ]
    server = HttpServer(Starlette(routes=routes))
    double.base_url = f"http://{await server.start('127.0.0.1:0')}/v1"
    try:
        yield double
    finally:
        double.go.set()
        await server.stop(0)
