"""What one turn of the event loop writes to a connection is one write."""

import asyncio
from typing import Any

from drw.kernel.rpc.joined_writes import MAX_BUFFERED_BYTES, JoinedWrites


class Recorded(asyncio.Transport):
    """What a transport was told."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Any] = []
        self.closed = False

    def write(self, data):
        self.written.append(data)

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


async def test_writes_of_one_event_loop_iteration_are_joined() -> None:
    below = Recorded()
    joined = JoinedWrites(below, asyncio.get_running_loop())
    joined.write(b"head, ")
    joined.write(b"body")
    assert below.written == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)
    assert below.written == [b"head, body", b"next"]


async def test_much_is_written_at_once() -> None:
    below = Recorded()
    joined = JoinedWrites(below, asyncio.get_running_loop())
    joined.write(b"x")
    joined.write(b"y" * MAX_BUFFERED_BYTES)
    assert [len(data) for data in below.written] == [MAX_BUFFERED_BYTES + 1]


async def test_buffered_writes_are_flushed_at_close() -> None:
    below = Recorded()
    joined = JoinedWrites(below, asyncio.get_running_loop())
    joined.write(b"last")
    joined.close()
    joined.write(b"too late")
    await asyncio.sleep(0)
    assert below.written == [b"last"] and below.closed
