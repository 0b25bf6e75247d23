"""A mock of an OpenAI-compatible engine, as fast as Python can be: `python -m bench.upstream PORT`.

It reads a request whole before it answers, always with the same words; with `"stream": true` as events.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

USAGE = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "mock"}
WHOLE = json.dumps(
    {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one two three four"}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }
).encode()


def _event(choices: list[dict], **more) -> bytes:
    return (
        b"data: "
        + json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}).encode()
        + b"\n\n"
    )


STREAM = (
    b"".join(
        _event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        for word in ("one ", "two ", "three ", "four")
    )
    + _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _event([], usage=USAGE)
    + b"data: [DONE]\n\n"
)


def _answer(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


ANSWERS = {False: _answer(b"application/json", WHOLE), True: _answer(b"text/event-stream", STREAM)}


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

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
            self._transport.write(ANSWERS[streams])


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
