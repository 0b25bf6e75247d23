"""State of the replicas in use, for watchers in other services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from drw.api.models.v1.serving_pb2 import Replica as ReplicaState
from drw.api.models.v1.serving_pb2 import Replicas
from drw.models.serving.routing.circuit_breaker import State
from drw.models.serving.routing.load_balancing import Replica
from drw.models.serving.routing.model_directory import ModelDirectory

REFRESH_SECONDS = 5.0
"""Interval of messages without a change of a circuit, which update the counts."""
MERGE_SECONDS = 0.05
"""Changes within this time are one message."""
CIRCUITS = {
    State.CLOSED: ReplicaState.CLOSED,
    State.HALF_OPEN: ReplicaState.HALF_OPEN,
    State.OPEN: ReplicaState.OPEN,
}


class Changes:
    """Notifies watchers of changes."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all watchers."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event of the first change after this call."""
        return self._event


async def watch(models: ModelDirectory, changes: Changes) -> AsyncGenerator[Replicas, None]:
    """Yield the state of all replicas now and after each change."""
    while True:
        changed = changes.next()
        yield Replicas(replicas=[_state(model, replica) for model, replica in models.replicas()])
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await changed.wait()
        await asyncio.sleep(MERGE_SECONDS)


def _state(model: str, replica: Replica) -> ReplicaState:
    signals = replica.signals
    return ReplicaState(
        model=model,
        name=replica.name,
        circuit=CIRCUITS[replica.circuit.state],
        succeeded=signals.succeeded,
        failed=signals.failed,
        error=signals.error,
    )
