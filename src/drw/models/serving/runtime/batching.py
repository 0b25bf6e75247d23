"""Request queue of one loaded model: bounds, turns of orgs, and dynamic batching with a bounded delay."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from drw.kernel.errors import InvalidRequest, RateLimited
from drw.kernel.observability.model_labels import model_label
from drw.models.serving.errors import EngineBusy, EngineUnavailable
from drw.models.serving.ports import LoadedModel, ModelSpec
from drw.models.serving.runtime import metrics
from drw.tensors.batches import Tensors, concatenated, split
from drw.tensors.datatypes import TensorError

AHEAD = 2
"""Batches that are sent to the process at once, so that it does not wait for the next one."""

Shape = tuple[object, ...]


class BatchFailed(Exception):
    """A request failed together with others of its batch; it can succeed alone."""


class QueueShareFull(RateLimited):
    """The org has used up its share of the queue of a model."""


@dataclass(eq=False, slots=True)
class _Request:
    org: str
    inputs: Tensors
    outputs: tuple[str, ...]
    rows: int
    shape: Shape | None
    """What requests of one batch have in common; None: it is processed alone."""
    result: asyncio.Future[Tensors]
    queued_at: float = field(default_factory=time.monotonic)
    waiting: bool = True


class RequestQueue:
    """Queues the requests of one loaded model and processes them in batches.

    Orgs take turns. One org can have half of the queue.
    """

    def __init__(self, spec: ModelSpec, model: LoadedModel, max_waiting: int, infer_seconds: float) -> None:
        self._spec = spec
        self._model = model
        self._max_waiting = max_waiting
        self._infer_seconds = infer_seconds
        self._max_rows = spec.max_batch if model.batchable else 1
        self._queues: OrderedDict[str, deque[_Request]] = OrderedDict()
        self._arrived = asyncio.Event()
        self._forming = asyncio.Lock()
        self._running = 0
        self._gauge = metrics.QUEUE.labels(model_label(spec.id))
        self._batch_rows = metrics.BATCH_ROWS.labels(model_label(spec.id))
        self._batch_seconds = metrics.INFER_SECONDS.labels(model_label(spec.id))
        self.waiting = 0
        """Number of requests that are not yet sent to the process."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(AHEAD)]
        self.frozen = asyncio.Event()
        """Set when the process did not answer in time."""

    async def run(self, org: str, inputs: Tensors, outputs: Sequence[str], *, alone: bool = False) -> Tensors:
        """Queue a request and return its outputs. A cancelled request leaves the queue.

        Raises:
            EngineBusy: the queue is full.
            QueueShareFull: the org has half of the queue.
            BatchFailed: the batch failed, and had other requests.
            InvalidRequest: the model rejects the inputs.
            EngineUnavailable: the process ended or does not answer.
        """
        self._check_bounds(org)
        result: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        names = tuple(outputs)
        rows = inputs[0].rows if inputs else 1
        shape = None if alone or self._max_rows == 1 else _joinable_shape(inputs, names, rows)
        request = _Request(org, inputs, names, rows, shape, result)
        self._queues.setdefault(org, deque()).append(request)
        self.waiting += 1
        self._arrived.set()
        try:
            return await result
        finally:
            if request.waiting:
                self._remove(request)

    async def close(self, error: EngineUnavailable) -> None:
        """Fail the waiting requests and stop."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for queue in self._queues.values():
            for request in queue:
                request.waiting = False
                _fail(request, error)
        self._queues.clear()
        self.waiting = 0
        self._gauge.set(0)

    def _check_bounds(self, org: str) -> None:
        if self.waiting >= self._max_waiting:
            message = (
                f"the model {self._spec.id!r} is busy: {self._max_waiting} requests wait for it already; try again"
            )
            raise EngineBusy(message, code="model_overloaded", retry_after="1")
        if len(self._queues.get(org, ())) >= max(1, self._max_waiting // 2):
            message = f"your org has {self._max_waiting // 2} requests in the queue of {self._spec.id!r}; try again"
            raise QueueShareFull(message, retry_after="1")

    async def _work(self) -> None:
        while True:
            async with self._forming:
                batch = await self._next_batch()
            self._running += 1
            try:
                await self._process(batch)
            except asyncio.CancelledError:
                for request in batch:
                    _fail(request, self._gone())
                raise
            finally:
                self._running -= 1

    async def _next_batch(self) -> list[_Request]:
        """Wait for a request, and for others that fit, until the batch is full or its first request is due."""
        while (first := self._pop()) is None:
            self._arrived.clear()
            await self._arrived.wait()
        batch, shape = [first], first.shape
        if shape is None:
            return batch
        due = first.queued_at + self._spec.max_batch_delay_seconds
        rows = first.rows
        try:
            while rows < self._max_rows:
                if (request := self._pop(shape, self._max_rows - rows)) is not None:
                    batch.append(request)
                    rows += request.rows
                elif (remaining := due - time.monotonic()) <= 0:
                    break
                else:
                    self._arrived.clear()
                    try:
                        async with asyncio.timeout(remaining):
                            await self._arrived.wait()
                    except TimeoutError:
                        break
        except asyncio.CancelledError:
            for request in batch:
                _fail(request, self._gone())
            raise
        return [request for request in batch if not request.result.done()]

    def _pop(self, shape: Shape | None = None, max_rows: int = 0) -> _Request | None:
        """Remove and return a request of the org whose turn it is; with a shape, only one that can join it."""
        for org in list(self._queues):
            queue = self._queues[org]
            if not queue:
                del self._queues[org]
                continue
            if shape is not None and (queue[0].rows > max_rows or queue[0].shape != shape):
                continue
            request = queue.popleft()
            request.waiting = False
            self.waiting -= 1
            self._queues.move_to_end(org)
            return request
        return None

    def _remove(self, request: _Request) -> None:
        self._queues[request.org].remove(request)
        self.waiting -= 1

    async def _process(self, batch: list[_Request]) -> None:
        if not batch:
            return
        self._gauge.set(self.waiting)
        rows = [request.rows for request in batch]
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._infer_seconds * self._running):
                inputs = concatenated([request.inputs for request in batch])
                outputs = split(await self._model.infer(inputs, batch[0].outputs), rows)
        except TimeoutError:
            self.frozen.set()
            _fail_all(batch, self._gone())
        except TensorError as error:
            _fail_all(batch, InvalidRequest(f"the model {self._spec.id!r} cannot be batched: {error}"))
        except (InvalidRequest, EngineUnavailable) as error:
            _fail_all(batch, error)
        else:
            self._batch_rows.observe(sum(rows))
            self._batch_seconds.observe(time.monotonic() - started_at)
            for request, result in zip(batch, outputs, strict=True):
                if not request.result.done():
                    request.result.set_result(result)

    def _gone(self) -> EngineUnavailable:
        message = (
            f"the process of the model {self._spec.id!r} ended or does not answer; it is being replaced: try again"
        )
        return EngineUnavailable(message, retry_after="1")


def _joinable_shape(inputs: Tensors, outputs: tuple[str, ...], rows: int) -> Shape | None:
    """Return what requests of one batch have in common; None if the request cannot be joined."""
    if not inputs or any(not tensor.shape or tensor.shape[0] != rows for tensor in inputs):
        return None
    return outputs, tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in inputs)


def _fail_all(batch: Sequence[_Request], error: Exception) -> None:
    """Fail a batch; with several requests, each of them can be tried alone."""
    for request in batch:
        _fail(request, error if len(batch) == 1 else BatchFailed())


def _fail(request: _Request, error: Exception) -> None:
    if not request.result.done():
        request.result.set_exception(error)
