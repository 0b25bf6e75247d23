"""Bounds the bytes of request bodies that serving holds at once, for each org and for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drw.kernel.errors import RateLimited, Unavailable

MIB = 1 << 20


class BodyLimitReached(RateLimited):
    """An org has as many bytes of requests under way as it may."""


class BuffersFull(Unavailable):
    """All orgs together have as many bytes of requests under way as fit."""


class BodyBuffers:
    """Counts the bytes of requests under way."""

    def __init__(self, max_per_org: int, max_total: int) -> None:
        self._max_per_org = max_per_org
        self._max = max_total
        self._held: Counter[str] = Counter()

    @contextmanager
    def holding(self, org: str) -> Iterator[Callable[[int], None]]:
        """Give a function that adds bytes of the org; all of them are released after the block.

        Raises:
            BodyLimitReached: from that function: the org holds too much.
            BuffersFull: from that function: all orgs together hold too much.
        """
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            if self._held[org] + size > self._max_per_org:
                message = f"requests of the org {org!r} hold {self._held[org] // MIB} MiB at once; at most "
                raise BodyLimitReached(
                    f"{message}{self._max_per_org // MIB} MiB: send fewer or shorter", retry_after="1"
                )
            if self._held.total() + size > self._max:
                raise BuffersFull("too many long requests are under way: try again", retry_after="1")
            self._held[org] += size
            mine += size

        try:
            yield add
        finally:
            self._held[org] -= mine
            if not self._held[org]:
                del self._held[org]
