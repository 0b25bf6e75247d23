"""A mock of an OpenAI-compatible engine, as fast as Python can be: `python -m bench.support.upstream PORT`.

It responds with the same words to each request, with `"stream": true` as events. If a streamed prompt contains the word
`paced`, the response comes one word at a time, and each word is the time at which it was sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

from support.json_types import Json, JsonObject

USAGE = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "mock"}
COMPLETION = json.dumps(
    {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one two three four"}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }
).encode()


def _event(choices: list[JsonObject], **fields: Json) -> bytes:
    return (
        b"data: "
        + json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": choices, **fields}).encode()
        + b"\n\n"
    )


END = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + _event([], usage=USAGE) + b"data: [DONE]\n\n"
STREAM = (
    b"".join(
        _event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        for word in ("one ", "two ", "three ", "four")
    )
    + END
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _answer(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


MODELS = {"object": "list", "data": [{"id": "mock", "object": "model", "created": 1, "owned_by": "bench"}]}
MODELS_RESPONSE = _answer(b"application/json", json.dumps(MODELS).encode())
"""Response to GET requests, with which routers check their workers."""

PACED_WORDS, FIRST_SECONDS, WORD_SECONDS = 20, 0.02, 0.01
"""Number of words of a paced response, delay of the first word, and of each further word."""

ANSWERS = {False: _answer(b"application/json", COMPLETION), True: _answer(b"text/event-stream", STREAM)}


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._data = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if at < 0 and b"chunked" in head:
                if not self._data.endswith(b"0\r\n\r\n"):
                    return
                length = len(self._data) - end - 4
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            streams = b'"stream":true' in body or b'"stream": true' in body
            if head.startswith(b"get "):
                self._transport.write(MODELS_RESPONSE)
            elif streams and b"paced" in body:
                self._tasks.add(asyncio.create_task(self._pace()))
            else:
                self._transport.write(ANSWERS[streams])

    async def _pace(self) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        for number in range(PACED_WORDS):
            await asyncio.sleep(WORD_SECONDS if number else FIRST_SECONDS)
            delta = {"content": f"{time.monotonic_ns()} "}
            event = _event([{"index": 0, "delta": delta, "finish_reason": None}])
            self._transport.write((b"" if number else head) + _chunk(event))
        self._transport.write(_chunk(END) + b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
