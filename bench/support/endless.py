"""An OpenAI-compatible engine whose answers never end: `python -m bench.support.endless PORT`. It prints its port."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

SECONDS = 0.1
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "endless"}
CHOICE = {"index": 0, "delta": {"content": "on "}, "finish_reason": None}
EVENT = b"data: " + json.dumps({**CHUNK, "choices": [CHOICE]}).encode() + b"\n\n"
HTTP_CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


class Endless(asyncio.Protocol):
    """One connection, with one endless response."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses
        self._task: asyncio.Task[None] | None = None
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._task is None and b"\r\n\r\n" in self._data:
            self._task = asyncio.get_running_loop().create_task(self._answer())

    def connection_lost(self, error: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    async def _answer(self) -> None:
        self._transport.write(HEAD)
        while True:
            self._transport.write(HTTP_CHUNK)
            await asyncio.sleep(SECONDS)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Endless, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
