"""Shell completion of names that the platform provides."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from drw.kernel.rpc.http.server import HttpServer

MODELS = {"models": [{"id": "small", "engine": "llama_cpp"}, {"id": "smart", "engine": "alias"}, {"id": "big"}]}
KEYS = {"keys": [{"id": "key_1", "name": "one"}, {"id": "key_2", "name": "two"}]}


async def complete(line: str, **env: str) -> tuple[int, list[str], str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    completion_env = {"_DRW_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drw.cli.main"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environ, **completion_env, **env},
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
    ("line", "expected"),
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
async def test_names_with_the_prefix_are_completed(platform: dict[str, str], line: str, expected: list[str]) -> None:
    # A long timeout: this test does not check the time.
    assert await complete(line, **platform, DRW_COMPLETION_SECONDS="60") == (0, expected, "")


@pytest.mark.parametrize("line", ["drw chat --model ", "drw keys revoke "])
async def test_completion_without_a_platform_is_silent(line: str, tmp_path: Path) -> None:
    assert await complete(line, DRW_DATA_DIR=str(tmp_path)) == (0, [], "")
    assert await complete(line, DRW_URL="http://127.0.0.1:9", DRW_API_KEY="k") == (0, [], "")
    assert await complete(line, DRW_URL="http://127.0.0.1:9") == (0, [], "")


async def test_completion_of_a_slow_platform_times_out(tmp_path: Path) -> None:
    disconnected = asyncio.Event()

    async def send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        disconnected.set()

    server = await asyncio.start_server(send_slowly, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        assert await complete("drw chat --model ", DRW_URL=url, DRW_API_KEY="k") == (0, [], "")
        async with asyncio.timeout(30):
            await disconnected.wait()
