"""Queue of the encoder: short requests first, then fair shares of tokens for each org."""

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

MAX_SHORT_TEXTS = 8
"""Requests with at most this many texts are questions and take precedence over documents."""


@dataclass(order=True, slots=True)
class _Entry:
    """A batch in the queue; entries sort in the order of encoding."""

    is_long: bool
    start: int
    """Virtual start time in tokens, by which orgs share the encoder (start-time fair queueing)."""
    number: int
    batch: EncodingBatch = field(compare=False)
    vectors: asyncio.Future[Floats] = field(compare=False)


class EncoderQueue:
    """The queue of one encoder, bounded by the number of texts."""

    def __init__(self, encoder: TextEncoder, max_texts: int) -> None:
        self._encoder = encoder
        self._max_texts = max_texts
        self._queued: Counter[str] = Counter()
        self._heap: list[_Entry] = []
        self._numbers = itertools.count()
        self._virtual_time = 0
        self._finish_by_org: dict[str, int] = {}
        self._not_empty = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "encoder")

    async def tokenize(self, texts: Sequence[Text], lengths: LengthPolicy) -> list[EncodingBatch]:
        """Tokenise texts and return the batches of a request.

        Raises:
            RateLimited: the queue is full, or the org occupies half of it.
            TextTooLong: a text has more tokens than the model's maximum.
        """
        queued = self._queued[_org()]
        total = self._queued.total()
        if queued and queued + len(texts) > self._max_texts // 2 or total and total + len(texts) > self._max_texts:
            raise RateLimited(
                f"your org has {queued} texts in the embedding queue, which is full; retry in a second", retry_after="1"
            )
        with self._in_queue(len(texts)):
            return await asyncio.to_thread(self._encoder.tokenize, texts, lengths)

    async def encode(self, batches: Sequence[EncodingBatch]) -> list[Floats]:
        """Return the vectors of each batch."""
        count = sum(len(batch.positions) for batch in batches)
        loop = asyncio.get_running_loop()
        entries = [
            _Entry(
                count > MAX_SHORT_TEXTS, self._virtual_start(batch), next(self._numbers), batch, loop.create_future()
            )
            for batch in batches
        ]
        for entry in entries:
            heapq.heappush(self._heap, entry)
        self._not_empty.set()
        with self._in_queue(count):
            try:
                return [await entry.vectors for entry in entries]
            finally:
                for entry in entries:  # a cancelled request needs none of them
                    entry.vectors.cancel()

    @contextmanager
    def _in_queue(self, texts: int) -> Iterator[None]:
        org = _org()
        self._queued[org] += texts
        try:
            yield
        finally:
            self._queued -= Counter({org: texts})

    def _virtual_start(self, batch: EncodingBatch) -> int:
        """Return the virtual start time of a batch: after the queued batches of the caller's org."""
        org = _org()
        start = max(self._virtual_time, self._finish_by_org.get(org, 0))
        self._finish_by_org[org] = start + batch.tokens
        return start

    async def work(self) -> None:
        """Encode queued batches, until cancelled."""
        while True:
            await self._not_empty.wait()
            while self._heap:
                entry = heapq.heappop(self._heap)
                self._virtual_time = max(self._virtual_time, entry.start)
                await self._encode(entry)
            self._finish_by_org.clear()
            self._not_empty.clear()

    async def stop(self) -> None:
        """Stop the encoder thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode(self, entry: _Entry) -> None:
        if entry.vectors.done():
            return
        loop = asyncio.get_running_loop()
        try:
            vectors = await loop.run_in_executor(self._thread, self._encoder.encode, entry.batch)
        except Exception as error:  # noqa: BLE001 - the waiting request raises it
            if not entry.vectors.done():
                entry.vectors.set_exception(error)
            return
        if not entry.vectors.done():
            entry.vectors.set_result(vectors)


def _org() -> str:
    caller = caller_or_none()
    return caller.org if caller else ""
