"""Completion of names that only the platform knows, as a shell asks for it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from drw.kernel.rpc.http_server import HttpServer

MODELS = {"models": [{"id": "small", "engine": "llama_cpp"}, {"id": "smart", "engine": "alias"}, {"id": "big"}]}
KEYS = {"keys": [{"id": "key_1", "name": "one"}, {"id": "key_2", "name": "two"}]}


async def complete(words: str, **env: str) -> tuple[int, list[str], str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    asked = {"_DRW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drw.cli.main"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**known, **asked, **env},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode().split(), err.decode()


@pytest.fixture
async def platform() -> AsyncIterator[dict[str, str]]:
    async def models(request: Request) -> JSONResponse:
        return JSONResponse(MODELS)

    async def keys(request: Request) -> JSONResponse:
        return JSONResponse(KEYS)

    server = HttpServer(Starlette(routes=[Route("/api/v1/models", models), Route("/api/v1/keys", keys)]))
    yield {"DRW_URL": f"http://{await server.start('127.0.0.1:0')}", "DRW_API_KEY": "k"}
    await server.stop(0)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("drw chat --model sm", ["small", "smart"]),
        ("drw ask x --model b", ["big"]),
        ("drw budgets set 5 --model s", ["small", "smart"]),
        ("drw kill --model x", []),
        ("drw keys revoke ", ["key_1", "key_2"]),
        ("drw limits set --key key_2", ["key_2"]),
        ("drw audit list --key k", ["key_1", "key_2"]),
        ("drw ke", ["keys"]),
    ],
)
async def test_names_that_begin_so(platform: Any, words: str, found: Any) -> None:
    # As long as it takes: what is tested here is not the time.
    assert await complete(words, **platform, DRW_COMPLETION_SECONDS="60") == (0, found, "")


@pytest.mark.parametrize("words", ["drw chat --model ", "drw keys revoke "])
async def test_without_a_platform_nothing_is_said(words: str, tmp_path: Path) -> None:
    assert await complete(words, DRW_DATA_DIR=str(tmp_path)) == (0, [], "")
    assert await complete(words, DRW_URL="http://127.0.0.1:9", DRW_API_KEY="k") == (0, [], "")
    assert await complete(words, DRW_URL="http://127.0.0.1:9") == (0, [], "")


async def test_a_platform_that_dribbles_is_waited_for_no_longer_than_the_time(tmp_path: Path) -> None:
    hung_up = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        assert await complete("drw chat --model ", DRW_URL=url, DRW_API_KEY="k") == (0, [], "")
        async with asyncio.timeout(30):
            await hung_up.wait()
