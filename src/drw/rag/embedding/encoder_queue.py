"""Gives every portion its turn at the encoder: short requests first, then orgs in fair shares of tokens."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from drw.kernel.errors import RateLimited
from drw.kernel.rpc.context import caller_or_none
from drw.rag.embedding.lengths import LengthPolicy
from drw.rag.embedding.ports import EncodingBatch, Floats, Text, TextEncoder

SHORT = 8
"""A request of at most so many texts is somebody's question, and does not wait behind a document."""


@dataclass(order=True, slots=True)
class _OrgShare:
    is_long: bool
    start: int
    """The tokens that its org has had before it, by which orgs take turns (start-time fair queueing)."""
    number: int
    portion: EncodingBatch = field(compare=False)
    vectors: asyncio.Future[Floats] = field(compare=False)


class EncoderQueue:
    """The queue in front of one encoder. Its texts are counted, so that it cannot grow without end."""

    def __init__(self, encoder: TextEncoder, most_texts: int) -> None:
        self._encoder = encoder
        self._most_texts = most_texts
        self._texts: Counter[str] = Counter()
        self._turns: list[_OrgShare] = []
        self._numbers = itertools.count()
        self._clock = 0
        self._ends: dict[str, int] = {}
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "encoder")

    async def read(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        """Return the portions of a request; other requests are encoded meanwhile.

        Raises:
            RateLimited: too many texts wait already.
            TextTooLong: a text has more tokens than the model takes.
        """
        own, total = self._texts[_org()], self._texts.total()
        if own and own + len(texts) > self._most_texts // 2 or total and total + len(texts) > self._most_texts:
            raise RateLimited(f"{own} texts of yours wait to be embedded; try again in a second", retry_after="1")
        with self._counted(len(texts)):
            return await asyncio.to_thread(self._encoder.read, texts, lengths)

    async def encode(self, portions: Sequence[EncodingBatch]) -> list[Floats]:
        """Return the vectors of each portion."""
        count = sum(len(portion.places) for portion in portions)
        loop = asyncio.get_running_loop()
        turns = [
            _OrgShare(count > SHORT, self._start(p), next(self._numbers), p, loop.create_future()) for p in portions
        ]
        for turn in turns:
            heapq.heappush(self._turns, turn)
        self._some.set()
        with self._counted(count):
            try:
                return [await turn.vectors for turn in turns]
            finally:
                for turn in turns:  # of a request that was given up: nobody waits for these any more
                    turn.vectors.cancel()

    @contextmanager
    def _counted(self, texts: int) -> Iterator[None]:
        org = _org()
        self._texts[org] += texts
        try:
            yield
        finally:
            self._texts -= Counter({org: texts})

    def _start(self, portion: EncodingBatch) -> int:
        """Return when a portion of the caller's org has its turn, in tokens: behind those that the org has waiting."""
        org = _org()
        start = max(self._clock, self._ends.get(org, 0))
        self._ends[org] = start + portion.tokens
        return start

    async def work(self) -> None:
        """Encode what waits, until cancelled."""
        while True:
            await self._some.wait()
            while self._turns:
                turn = heapq.heappop(self._turns)
                self._clock = max(self._clock, turn.start)
                await self._encode(turn)
            self._ends.clear()
            self._some.clear()

    async def stop(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode(self, turn: _OrgShare) -> None:
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


def _org() -> str:
    who = caller_or_none()
    return who.org if who else ""
