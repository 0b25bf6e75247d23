"""Token counting of the llama.cpp adapter with partial and malformed responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from drw.models.serving.adapters.llama_cpp import LlamaCppEngine
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.ports import EngineTarget
from drw.models.serving.settings import ClientSettings

Serving = Callable[[Sequence[bytes]], AbstractAsyncContextManager[tuple[LlamaCppEngine, EngineTarget]]]


@pytest.fixture
def answering(folder: Path) -> Serving:
    """Serve an answer in these parts, each sent when the one before has been taken."""

    @asynccontextmanager
    async def begin(parts: Sequence[bytes]) -> AsyncIterator[tuple[LlamaCppEngine, EngineTarget]]:
        async def tokenize(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            for part in parts:
                await response.write(part)
                for _ in range(10):
                    await asyncio.sleep(0)  # the client's turn
            return response

        app = web.Application()
        app.router.add_post("/tokenize", tokenize)
        runner = web.AppRunner(app)
        await runner.setup()
        socket = folder / "counting.sock"
        await web.UnixSite(runner, str(socket)).start()
        engine = LlamaCppEngine(ClientSettings())
        try:
            yield engine, EngineTarget("m", f"unix:{socket}", "m", "")
        finally:
            await engine.close()
            await runner.cleanup()

    return begin


async def test_a_response_in_several_reads_is_read_completely(answering: Serving) -> None:
    async with answering([b'{"tokens": [1, 2, 3', b", 4, 5", b"]}"]) as (engine, target):
        assert await engine.count_prompt(target, "completions", {"prompt": "long"}) == (5, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("response_body", [b'{"tokens": [1, 2', b"[1, 2]", b"", b'{"tokens": 2}'])
async def test_a_malformed_token_response_is_an_error_with_failover(answering: Serving, response_body: bytes) -> None:
    async with answering([response_body]) as (engine, target):
        with pytest.raises(ResponseTruncated, match="malformed response"):
            await engine.count_prompt(target, "completions", {"prompt": "long"})
