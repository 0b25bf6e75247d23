"""Gives every portion its turn at the encoder: one at a time, those of short requests first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from drw.kernel.errors import RateLimited
from drw.rag.embedding.lengths import Lengths
from drw.rag.embedding.ports import Floats, Portion, TextEncoder

SHORT = 8
"""A request of at most so many texts is somebody's question, and does not wait behind a document."""


@dataclass(order=True, slots=True)
class _Turn:
    is_long: bool
    number: int
    portion: Portion = field(compare=False)
    vectors: asyncio.Future[Floats] = field(compare=False)


class Turns:
    """The queue in front of one encoder. Its texts are counted, so that it cannot grow without end."""

    def __init__(self, encoder: TextEncoder, most_texts: int) -> None:
        self._encoder = encoder
        self._most_texts = most_texts
        self._texts = 0
        self._turns: list[_Turn] = []
        self._numbers = itertools.count()
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "encoder")

    async def read(self, texts: Sequence[str], lengths: Lengths) -> list[Portion]:
        """Return the portions of a request; other requests are encoded meanwhile.

        Raises:
            RateLimited: too many texts wait already.
            TextTooLong: a text has more tokens than the model takes.
        """
        if self._texts + len(texts) > max(self._most_texts, len(texts)):
            raise RateLimited(f"{self._texts} texts wait to be embedded; try again in a second", retry_after="1")
        return await asyncio.to_thread(self._encoder.read, texts, lengths)

    async def encode(self, portions: Sequence[Portion]) -> list[Floats]:
        """Return the vectors of each portion."""
        count = sum(len(portion.places) for portion in portions)
        loop = asyncio.get_running_loop()
        turns = [_Turn(count > SHORT, next(self._numbers), p, loop.create_future()) for p in portions]
        for turn in turns:
            heapq.heappush(self._turns, turn)
        self._some.set()
        self._texts += count
        try:
            return [await turn.vectors for turn in turns]
        finally:
            self._texts -= count
            for turn in turns:  # of a request that was given up: nobody waits for these any more
                turn.vectors.cancel()

    async def work(self) -> None:
        """Encode what waits, until cancelled."""
        while True:
            await self._some.wait()
            while self._turns:
                await self._encode(heapq.heappop(self._turns))
            self._some.clear()

    async def stop(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode(self, turn: _Turn) -> None:
        if turn.vectors.done():
            return
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, self._encoder.encode, turn.portion)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, and the others be served
            if not turn.vectors.done():
                turn.vectors.set_exception(error)
            return
        if not turn.vectors.done():
            turn.vectors.set_result(vectors)
