"""Calls to upstreams that answer in one piece: admission, replicas in turn, and an estimate of unreported tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import (
    EngineBusy,
    EngineUnavailable,
    ModelLoadFailed,
    OutOfModelMemory,
    ResponseTruncated,
)
from drw.models.serving.ports import EngineTarget
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.model_directory import engine_target

T = TypeVar("T")
BYTES_PER_TOKEN_ESTIMATE = 4
ENGINE_FAILURES = (EngineUnavailable, EngineBusy, ResponseTruncated, ModelLoadFailed, OutOfModelMemory)
"""Errors after which the next model of an alias is tried. Others, such as those of the ledger, end the request."""


class UpstreamCalls:
    """Bounds the concurrent calls of each model, and asks its replicas in order until one answers."""

    def __init__(self, queue: Callable[[str, int], AdmissionQueue]) -> None:
        self._queue = queue
        self._queues: dict[tuple[str, int], AdmissionQueue] = {}

    async def run(self, resolved: ResolvedModel, call: Callable[[EngineTarget], Awaitable[T]]) -> T:
        """Return the answer of the first replica that gives one.

        Raises what `call` raises for the last replica, and:
            EngineBusy: the admission queue is full, or the wait took too long.
        """
        key = resolved.model.id, resolved.max_concurrent
        if key not in self._queues:
            self._queues[key] = self._queue(*key)
        *others, last = resolved.base_urls or [resolved.base_url]
        async with self._queues[key].admit():
            with waiting("upstream"):
                for url in others:
                    try:
                        return await call(engine_target(resolved, url))
                    except (EngineUnavailable, ResponseTruncated):
                        continue
                return await call(engine_target(resolved, last))


def estimated_tokens(texts: Iterable[str]) -> int:
    """Return an estimate for engines that report no tokens: one for four bytes."""
    return sum(-(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN_ESTIMATE) for text in texts)
