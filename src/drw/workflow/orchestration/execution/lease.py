"""The lease of a leader, and the fence of its effects: without the lease, an activity calls no other service.

A process that was frozen, or cut from the database, finds out late that another one has taken over its runs. The
database rejects what it writes. This fence rejects what it would do elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

from google.protobuf.message import Message

from drw.api.contract import Client, Method, Transport
from drw.kernel.storage.advisory_lock import AdvisoryLock
from drw.workflow.orchestration.ports import LeadershipLost

C = TypeVar("C", bound=Client)


class Lease:
    """Whether this process may act for the runs that it executes. The clock of this process decides."""

    def __init__(self) -> None:
        self.lock: AdvisoryLock | None = None
        """The lock of the leader, while this process holds it."""

    def check(self) -> None:
        """Check that no other process can have taken over.

        Raises:
            LeadershipLost: the lease has expired.
        """
        if self.lock is None or self.lock.has_expired():
            raise LeadershipLost("the lease of this process has expired: another process may execute its runs")

    def fenced(self, client: C) -> C:
        """Return a client that calls only while the lease is valid."""
        return client.wrapped(lambda transport: _FencedTransport(transport, self))


class _FencedTransport:
    def __init__(self, transport: Transport, lease: Lease) -> None:
        self._transport = transport
        self._lease = lease

    async def unary(self, method: Method, request: Message, timeout: float | None) -> Message:
        self._lease.check()
        return await self._transport.unary(method, request, timeout)

    async def stream(self, method: Method, request: Message, timeout: float | None) -> AsyncGenerator[Message, None]:
        self._lease.check()
        async for message in self._transport.stream(method, request, timeout):
            yield message
