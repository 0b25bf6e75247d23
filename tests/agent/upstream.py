"""A double of an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from openai.types import CompletionUsage, CreateEmbeddingResponse, Embedding
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.create_embedding_response import Usage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drw.kernel.rpc.http.server import HttpServer
from support.json_types import JsonObject

CHUNKS = ("one ", "two ", "three")


class DoubleVllm:
    """Answers like vLLM with the official types, records its requests, and fails as the test sets."""

    def __init__(self, name: str = "vllm") -> None:
        self.name = name
        self.received: list[tuple[dict[str, str], JsonObject]] = []
        self.status = 200
        self.hang = False
        self.stall = False
        self.padding = 0
        self.address = ""
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
                Route("/healthz", self._alive, methods=["GET"]),
            ]
        )
        self._server = HttpServer(app)

    async def start(self) -> DoubleVllm:
        self.address = await self._server.start("127.0.0.1:0")
        return self

    async def stop(self) -> None:
        self.hang = self.stall = False
        await self._server.stop(0)

    async def _alive(self, request: Request) -> Response:
        return Response("ok\n")

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.received.append((dict(request.headers), body))
        if self.hang:
            await asyncio.Event().wait()
        if self.status != 200:
            return JSONResponse({"error": {"message": "no"}}, self.status, {"retry-after": "1"})
        if "stream_options" in body and not body.get("stream"):  # as vLLM and OpenAI do
            return JSONResponse({"error": {"message": "stream_options only with stream"}}, 400)
        if body.get("stream"):
            return StreamingResponse(self._events(body), media_type="text/event-stream")
        message = ChatCompletionMessage(role="assistant", content="".join(CHUNKS) + "x" * self.padding)
        answer = ChatCompletion(
            id="chatcmpl-1",
            object="chat.completion",
            created=1,
            model=body["model"],
            choices=[Choice(index=0, finish_reason="stop", message=message)],
            usage=CompletionUsage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
        )
        return JSONResponse(answer.model_dump(mode="json"), headers={"x-upstream": self.name})

    async def _events(self, body: JsonObject) -> AsyncIterator[str]:
        for number, text in enumerate(CHUNKS):
            choice = ChunkChoice(index=0, delta=ChoiceDelta(content=text), finish_reason=None)
            yield _event(body, [choice], None)
            if self.stall and number == 1:
                await asyncio.Event().wait()
        yield _event(body, [ChunkChoice(index=0, delta=ChoiceDelta(), finish_reason="stop")], None)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(body, [], CompletionUsage(prompt_tokens=7, completion_tokens=3, total_tokens=10))
        yield "data: [DONE]\n\n"

    async def _embed(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.received.append((dict(request.headers), body))
        answer = CreateEmbeddingResponse(
            object="list",
            model=body["model"],
            data=[Embedding(index=0, object="embedding", embedding=[0.5])],
            usage=Usage(prompt_tokens=5, total_tokens=5),
        )
        return JSONResponse(answer.model_dump(mode="json"))


def _event(body: JsonObject, choices: list[ChunkChoice], usage: CompletionUsage | None) -> str:
    chunk = ChatCompletionChunk(
        id="chatcmpl-1", object="chat.completion.chunk", created=1, model=body["model"], choices=choices, usage=usage
    )
    return f"data: {chunk.model_dump_json()}\n\n"
