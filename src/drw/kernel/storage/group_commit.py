"""Group commit: batches concurrent writes into one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from drw.kernel.errors import Unavailable

MAX_BATCH = 500
T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Passes items to `write` in batches, in order.

    A batch that is rejected is written item by item, so that only invalid items fail.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: T) -> None:
        """Return when the item is written, or raise the error of `write`.

        Cancelling the caller does not cancel the write.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await self._write([item for item, _ in batch])
        except Unavailable as unavailable:
            error = unavailable
        except Exception as rejected:  # noqa: BLE001 - every error is passed to the callers
            if len(batch) > 1:  # only the invalid items must fail
                for entry in batch:
                    await self._write_batch([entry])
                return
            error = rejected
        for _, written in batch:
            if not written.done():
                written.set_exception(error) if error else written.set_result(None)
