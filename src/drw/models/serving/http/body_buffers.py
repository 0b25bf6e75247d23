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

    def __init__(self, most_of_org: int, most: int) -> None:
        self._most_of_org = most_of_org
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def holding(self, org: str) -> Iterator[Callable[[int], None]]:
        """Give a function that takes note of so many more bytes of the org's; all are free again after the block.

        Raises:
            BodyLimitReached: from that function: the org holds too much.
            BodiesFull: from it: all orgs together hold too much.
        """
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            if self._held[org] + size > self._most_of_org:
                message = f"requests of the org {org!r} hold {self._held[org] // MIB} MiB at once; at most "
                raise BodyLimitReached(
                    f"{message}{self._most_of_org // MIB} MiB: send fewer or shorter", retry_after="1"
                )
            if self._held.total() + size > self._most:
                raise BuffersFull("too many long requests are under way: try again", retry_after="1")
            self._held[org] += size
            mine += size

        try:
            yield add
        finally:
            self._held[org] -= mine
            if not self._held[org]:
                del self._held[org]
