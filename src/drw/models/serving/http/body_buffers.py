"""Limits the bytes of request bodies in memory, per org and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drw.kernel.errors import RateLimited, Unavailable

MIB = 1 << 20


class BodyLimitReached(RateLimited):
    """The limit of body bytes of one org is reached."""


class BuffersFull(Unavailable):
    """The limit of body bytes of all orgs together is reached."""


class BodyBuffers:
    """Counts the body bytes of running requests."""

    def __init__(self, max_per_org: int, max_total: int) -> None:
        self._max_per_org = max_per_org
        self._max_total = max_total
        self._reserved: Counter[str] = Counter()

    @contextmanager
    def reserve(self, org: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes for the org; all of them are released after the block.

        Raises:
            BodyLimitReached: from the function, if the org exceeds its limit.
            BuffersFull: from the function, if all orgs together exceed the limit.
        """
        reserved = 0

        def add(size: int) -> None:
            nonlocal reserved
            if self._reserved[org] + size > self._max_per_org:
                message = f"concurrent requests of the org {org!r} have {self._reserved[org] // MIB} MiB; at most "
                raise BodyLimitReached(
                    f"{message}{self._max_per_org // MIB} MiB: send fewer or shorter", retry_after="1"
                )
            if self._reserved.total() + size > self._max_total:
                raise BuffersFull("too many long requests are running: try again", retry_after="1")
            self._reserved[org] += size
            reserved += size

        try:
            yield add
        finally:
            self._reserved[org] -= reserved
            if not self._reserved[org]:
                del self._reserved[org]
