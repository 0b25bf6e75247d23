"""Write coalescing: the writes of one event loop iteration are joined."""

import asyncio

from drw.kernel.rpc.http.write_coalescing import MAX_BUFFERED_BYTES, CoalescingTransport


class RecordingTransport(asyncio.Transport):
    """A transport that records what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | bytearray | memoryview] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_writes_of_one_event_loop_iteration_are_joined() -> None:
    transport = RecordingTransport()
    coalescing = CoalescingTransport(transport, asyncio.get_running_loop())
    coalescing.write(b"head, ")
    coalescing.write(b"body")
    assert transport.written == []
    await asyncio.sleep(0)
    coalescing.write(b"next")
    await asyncio.sleep(0)
    assert transport.written == [b"head, body", b"next"]


async def test_a_full_buffer_is_written_immediately() -> None:
    transport = RecordingTransport()
    coalescing = CoalescingTransport(transport, asyncio.get_running_loop())
    coalescing.write(b"x")
    coalescing.write(b"y" * MAX_BUFFERED_BYTES)
    assert [len(data) for data in transport.written] == [MAX_BUFFERED_BYTES + 1]


async def test_buffered_writes_are_flushed_at_close() -> None:
    transport = RecordingTransport()
    coalescing = CoalescingTransport(transport, asyncio.get_running_loop())
    coalescing.write(b"last")
    coalescing.close()
    coalescing.write(b"too late")
    await asyncio.sleep(0)
    assert transport.written == [b"last"] and transport.closed
