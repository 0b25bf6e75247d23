"""Conversations of `drw chat`: request bodies, history, errors and interrupts."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import cast

import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drw.cli.api import Api
from drw.cli.models import conversation
from drw.cli.models.conversation import Conversation
from drw.kernel.errors import DrwError, InvalidRequest, Unavailable
from drw.kernel.rpc.http.server import HttpServer
from support.json_types import JsonObject

MODELS = {"models": [{"id": "small", "kind": "CHAT", "default": True, "engine": "llama_cpp"}]}
TOO_LONG = {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "too long"}


class DoubleGateway:
    """Echoes a message in capitals; `on` streams forever, and `full` fails unless the history is short."""

    def __init__(self) -> None:
        self.bodies: list[JsonObject] = []
        self.client_left = asyncio.Event()
        self.models = MODELS
        self.url = ""

    async def list(self, request: Request) -> Response:
        return JSONResponse(self.models)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        text = body["messages"][-1]["content"]
        if text == "full" and len(body["messages"]) > 2:
            return JSONResponse({"error": TOO_LONG}, 400)
        if text == "bad":
            return JSONResponse({"error": {"type": "invalid_request_error", "message": "not that"}}, 400)
        if not body.get("stream"):
            return JSONResponse({"choices": [{"message": {"content": text.upper()}}]})
        return StreamingResponse(self.events(text), media_type="text/event-stream")

    async def events(self, text: str) -> AsyncIterator[str]:
        yield event(text[:1].upper())
        try:
            if text == "on":
                await asyncio.Event().wait()
        finally:
            self.client_left.set()
        yield event(text[1:].upper())
        yield event("", "length" if text == "cut" else "stop")
        yield "data: [DONE]\n\n"


def event(text: str, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}, 'finish_reason': finish}]})}\n\n"


@pytest.fixture
async def gateway() -> AsyncIterator[DoubleGateway]:
    gateway = DoubleGateway()
    routes = [Route("/api/v1/models", gateway.list), Route("/v1/chat/completions", gateway.chat, methods=["POST"])]
    server = HttpServer(Starlette(routes=routes))
    gateway.url = f"http://{await server.start('127.0.0.1:0')}"
    yield gateway
    await server.stop(0)


def environment(gateway: DoubleGateway) -> dict[str, str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DRW_")}
    return {**environ, "DRW_URL": gateway.url, "DRW_API_KEY": "k"}


async def chat(gateway: DoubleGateway, *args: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drw.cli.main", "chat", *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(gateway),
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def test_options_are_sent_with_one_prompt(gateway: DoubleGateway) -> None:
    result = await chat(gateway, "hello", "--system", "Be short.", "--temperature", "0.5", "--max-tokens", "9")
    assert result == (0, "HELLO\n", "")
    assert gateway.bodies == [
        {
            "model": "small",
            "max_tokens": 9,
            "temperature": 0.5,
            "messages": [{"role": "system", "content": "Be short."}, user("hello")],
            "stream": True,
        }
    ]
    await chat(gateway, "-", "--model", "other", stdin="two\nlines")
    assert gateway.bodies[1] == {"model": "other", "max_tokens": 256, "messages": [user("two\nlines")], "stream": True}


async def test_truncated_answer_is_reported(gateway: DoubleGateway) -> None:
    assert await chat(gateway, "cut", "--max-tokens", "3") == (
        *(0, "CUT\n"),
        "drw: the answer was cut off after 3 tokens; --max-tokens allows more\n",
    )


async def test_piped_conversation_sends_its_history(gateway: DoubleGateway) -> None:
    assert await chat(gateway, "--system", "S", stdin="one\n\ntwo\n") == (0, "ONE\nTWO\n", "")
    system = {"role": "system", "content": "S"}
    assert gateway.bodies[1]["messages"] == [system, user("one"), model("ONE"), user("two")]
    code, out, _ = await chat(gateway, "--json", stdin="one\ntwo")
    assert (code, [json.loads(line)["choices"][0]["message"]["content"] for line in out.splitlines()]) == (
        *(0, ["ONE", "TWO"]),
    )
    assert gateway.bodies[3]["messages"] == [user("one"), model("ONE"), user("two")]


async def test_error_ends_a_piped_conversation(gateway: DoubleGateway) -> None:
    assert await chat(gateway, stdin="one\nbad\ntwo\n") == (2, "ONE\n", "drw: not that\n")
    assert len(gateway.bodies) == 2


async def test_oldest_messages_are_dropped_when_the_context_is_full(gateway: DoubleGateway) -> None:
    code, out, err = await chat(gateway, stdin="one\ntwo\nfull\nmore\n")
    assert (code, out) == (0, "ONE\nTWO\nFULL\nMORE\n")
    assert err.count("\n") == 2 and "the oldest message" in err
    assert gateway.bodies[-1]["messages"] == [user("full"), model("FULL"), user("more")]


async def test_missing_default_model_is_an_error_with_a_hint(gateway: DoubleGateway) -> None:
    gateway.models = {"models": []}
    assert await chat(gateway, "hello") == (
        *(3, ""),
        "drw: the platform has no default chat model: name one with --model; `drw models` lists them\n",
    )


WITH_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command with the terminal of its input as its controlling terminal, whose Ctrl-C is a signal."""


async def test_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(gateway: DoubleGateway) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITH_TERMINAL, sys.executable, "-m", "drw.cli.main", "chat"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment(gateway), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(slave)
    screen = b""

    async def until(text: bytes) -> None:
        nonlocal screen
        while text not in screen:
            screen += await asyncio.to_thread(os.read, master, 4096)
        screen = screen.partition(text)[2]

    async def is_idle() -> None:
        async with asyncio.timeout(30):
            while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
                await asyncio.sleep(0.01)

    await until(b"> ")
    os.write(master, b"on\n")
    await until(b"\nO")
    os.write(master, b"\x03")
    await gateway.client_left.wait()
    await until(b"> ")
    os.write(master, b"bad\n")
    await until(b"drw: not that")
    await until(b"> ")
    os.write(master, b"half a li")
    await until(b"half a li")
    # Python's readline misses a signal that arrives while it processes a character.
    await is_idle()
    os.write(master, b"\x03")
    await until(b"> ")
    os.write(master, b"two\n")
    await until(b"TWO")
    await until(b"> ")
    os.write(master, b"\x04")
    assert await process.wait() == 0
    os.close(master)
    assert gateway.bodies[-1]["messages"] == [user("on"), model("O"), user("two")]


class DoubleApi:
    """Answers with one word or raises `error`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.bodies: list[JsonObject] = []

    def events(self, method: str, path: str, body: JsonObject) -> Iterator[JsonObject]:
        self.bodies.append(body)
        yield {"choices": [{"delta": {"content": "word"}}]}
        if self.error:
            raise self.error


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_MESSAGES", 5)
    monkeypatch.setattr(conversation, "MAX_CHARACTERS", 100)
    api = DoubleApi()
    session = Conversation(cast(Api, api), {"max_tokens": 1}, "S")
    for number in range(10):
        session.ask(str(number))
    assert [m["content"] for m in api.bodies[-1]["messages"]] == ["S", "7", "word", "8", "word", "9"]
    session.ask("x" * 99)
    assert [m["content"] for m in api.bodies[-1]["messages"]] == ["S", "x" * 99]


@pytest.mark.parametrize("error", [Unavailable("gone"), InvalidRequest("no")])
def test_message_without_an_answer_is_not_in_the_history(error: DrwError) -> None:
    api = DoubleApi()
    session = Conversation(cast(Api, api), {"max_tokens": 1})
    api.error = error
    with suppress(type(error)):
        session.ask("one")
    api.error = None
    session.ask("two")
    assert api.bodies[-1]["messages"] == [user("two")]
