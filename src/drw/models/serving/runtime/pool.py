"""Pool of loaded models: load on demand, unload the least recently used within a memory budget, replace dead ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from drw.kernel.errors import DrwError, Unavailable
from drw.kernel.observability.model_labels import model_label
from drw.models.serving.errors import EngineUnavailable, ModelLoadFailed, OutOfModelMemory
from drw.models.serving.ports import LoadedModel, ModelLoader, ModelSpec
from drw.models.serving.runtime import metrics
from drw.models.serving.runtime.batching import BatchFailed, RequestQueue
from drw.models.serving.runtime.settings import RuntimeSettings
from drw.tensors.batches import Tensors

MIB = 1 << 20
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 60.0
STABLE_SECONDS = 10.0
"""A process that ends earlier counts as a failed load."""

log = logging.getLogger(__name__)

Locate = Callable[[ModelSpec], Awaitable[Path]]
"""Returns the folder with the files of a model, and downloads them first if they are missing."""


@dataclass(frozen=True, slots=True)
class LoadedState:
    """A loaded model, for lists."""

    spec: ModelSpec
    digest: str
    memory_mib: int
    """Memory limit of its process."""
    resident_bytes: int
    running: int
    """Requests in progress."""
    waiting: int
    max_batch: int


class _Entry:
    """One model that is loading or loaded."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.memory_mib = 0
        self.model: LoadedModel | None = None
        self.queue: RequestQueue | None = None
        self.loading: asyncio.Task[None] | None = None
        self.users = 0
        self.used_at = self.loaded_at = time.monotonic()
        self.resident_bytes = 0
        self.closed = False

    @property
    def ready(self) -> bool:
        return self.model is not None and self.model.alive and not self.closed

    @property
    def idle(self) -> bool:
        return self.ready and not self.users


class _Backoff:
    """Failed loads of one model. With `retry`, the first failure is retried at once."""

    def __init__(self, error: DrwError, previous: _Backoff | None, *, retry: bool = False) -> None:
        self.error = error
        self.seconds: float = min(previous.seconds * 2 if previous else FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self.until = time.monotonic() + (0.0 if retry and previous is None else self.seconds)


class ModelPool:
    """Loads models and runs requests on them. A model with a request in progress is never unloaded for another."""

    def __init__(self, loader: Callable[[str], ModelLoader], locate: Locate, settings: RuntimeSettings) -> None:
        self._loader = loader
        self._locate = locate
        self._settings = settings
        self._entries: dict[ModelSpec, _Entry] = {}
        self._backoffs: dict[ModelSpec, _Backoff] = {}
        self._changed = asyncio.Condition()
        self._slots = asyncio.Semaphore(settings.max_loading)
        self._reserving = asyncio.Lock()
        self._ending: set[_Entry] = set()
        self._replacements: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(
        self, spec: ModelSpec, *, evict: bool = True, keep: Collection[ModelSpec] = ()
    ) -> AsyncIterator[LoadedModel]:
        """Load the model if it is not loaded, and keep it loaded for the block.

        Raises:
            ModelLoadFailed: it cannot be loaded.
            OutOfModelMemory: the memory does not suffice; without `evict`, other models are not unloaded for it, and
                those of `keep` never are.
        """
        entry = await self._acquire(spec, evict=evict, keep=keep)
        try:
            assert entry.model is not None
            yield entry.model
        finally:
            await self._release(entry)

    async def infer(self, spec: ModelSpec, org: str, inputs: Tensors, outputs: Sequence[str] = ()) -> Tensors:
        """Run a request of an org; raises as `lease` and `RequestQueue.run` do."""
        try:
            return await self._infer_once(spec, org, inputs, outputs, alone=False)
        except BatchFailed:
            return await self._infer_once(spec, org, inputs, outputs, alone=True)

    async def load(self, spec: ModelSpec) -> None:
        """Load the model if it is not loaded; an explicit load does not wait for the end of a backoff."""
        self._backoffs.pop(spec, None)
        async with self.lease(spec):
            pass

    async def unload(self, spec: ModelSpec, reason: str = "request") -> bool:
        """Unload the model after the requests in progress, at most `load_seconds` later; return whether it was loaded.

        Raises:
            OutOfModelMemory: it is still in use.
        """
        if (entry := self._entries.get(spec)) is None or not entry.ready:
            return False
        try:
            async with asyncio.timeout(self._settings.load_seconds), self._changed:
                await self._changed.wait_for(lambda: not entry.users or entry.closed)
        except TimeoutError:
            raise OutOfModelMemory(f"{spec.id!r} has {entry.users} requests in progress; try again") from None
        await self._close(entry, reason)
        return True

    def ready(self, spec: ModelSpec) -> bool:
        """Return whether the model is loaded and warm."""
        entry = self._entries.get(spec)
        return entry is not None and entry.ready

    def model(self, spec: ModelSpec) -> LoadedModel | None:
        """Return the loaded model, or None."""
        entry = self._entries.get(spec)
        return entry.model if entry and entry.ready else None

    def failure(self, spec: ModelSpec) -> str:
        """Return why the last load failed; empty: it did not."""
        backoff = self._backoffs.get(spec)
        return backoff.error.message if backoff else ""

    def loaded(self) -> Iterator[LoadedState]:
        """Yield all loaded models."""
        for spec, entry in list(self._entries.items()):
            if entry.ready and entry.model:
                yield LoadedState(
                    spec,
                    entry.model.digest,
                    entry.memory_mib,
                    entry.resident_bytes,
                    entry.users,
                    entry.queue.waiting if entry.queue else 0,
                    spec.max_batch if entry.model.batchable else 1,
                )

    async def watch(self) -> None:
        """Check the idle models in intervals, and replace those that ended or froze."""
        while True:
            await asyncio.sleep(self._settings.check_seconds)
            await asyncio.gather(*(self._check(entry) for entry in list(self._entries.values())))

    async def close(self) -> None:
        """End all processes."""
        tasks = [entry.loading for entry in self._entries.values() if entry.loading] + list(self._replacements)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._close(entry, "request") for entry in list(self._entries.values())))

    async def _infer_once(
        self, spec: ModelSpec, org: str, inputs: Tensors, outputs: Sequence[str], *, alone: bool
    ) -> Tensors:
        entry = await self._acquire(spec)
        try:
            if entry.queue is None:
                raise EngineUnavailable(f"the model {spec.id!r} was unloaded; try again", retry_after="1")
            result = await entry.queue.run(org, inputs, outputs, alone=alone)
            if time.monotonic() - entry.loaded_at > STABLE_SECONDS:
                self._backoffs.pop(spec, None)
            return result
        except (EngineUnavailable, BatchFailed):
            assert entry.model is not None
            if not entry.model.alive or (entry.queue and entry.queue.frozen.is_set()):
                self._replace(entry, "died" if not entry.model.alive else "frozen")
            raise
        finally:
            await self._release(entry)

    async def _acquire(self, spec: ModelSpec, *, evict: bool = True, keep: Collection[ModelSpec] = ()) -> _Entry:
        entry = self._entries.get(spec)
        if entry is None or entry.closed or (entry.model is not None and not entry.model.alive):
            if entry is not None and not entry.closed:
                await self._close(entry, "died")
            entry = self._start_load(spec, evict=evict, keep=keep)
        entry.users += 1
        entry.used_at = time.monotonic()
        try:
            if entry.loading:
                await self._wait_for(entry)
        except BaseException:
            await self._release(entry)
            raise
        return entry

    async def _wait_for(self, entry: _Entry) -> None:
        loading = entry.loading
        assert loading is not None
        try:
            async with asyncio.timeout(self._settings.load_seconds):
                await asyncio.shield(loading)  # other requests wait for the same load
        except TimeoutError:
            message = f"{entry.spec.id!r} is not loaded after {self._settings.load_seconds:g} s; try again"
            raise ModelLoadFailed(message, retry_after="5") from None
        except asyncio.CancelledError:
            if loading.cancelled():
                raise ModelLoadFailed(f"the load of {entry.spec.id!r} was stopped; try again") from None
            raise

    async def _release(self, entry: _Entry) -> None:
        entry.users -= 1
        entry.used_at = time.monotonic()
        if not entry.users:
            async with self._changed:
                self._changed.notify_all()

    def _start_load(self, spec: ModelSpec, *, evict: bool, keep: Collection[ModelSpec]) -> _Entry:
        backoff = self._backoffs.get(spec)
        if backoff and (remaining := backoff.until - time.monotonic()) > 0:
            raise type(backoff.error)(backoff.error.message, retry_after=str(max(1, round(remaining))))
        entry = _Entry(spec)
        self._entries[spec] = entry
        entry.loading = asyncio.create_task(self._load(entry, evict=evict, keep=keep))
        entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry

    async def _load(self, entry: _Entry, *, evict: bool, keep: Collection[ModelSpec]) -> None:
        spec = entry.spec
        try:
            async with asyncio.timeout(self._settings.load_seconds):
                path = await self._locate(spec)
                memory_mib = spec.memory_mib or await self._default_memory(spec, path)
                await self._reserve(entry, memory_mib, evict=evict, keep=keep)
                threads = spec.threads or (0 if spec.kind == "chat" else self._settings.threads)
                async with self._slots:
                    model = await self._loader(spec.engine).load(replace(spec, threads=threads), path, memory_mib)
        except TimeoutError:
            self._failed(entry, ModelLoadFailed(f"{spec.id!r} did not load in {self._settings.load_seconds:g} s"))
        except DrwError as error:
            self._failed(entry, error)
        except BaseException:
            self._entries.pop(spec, None)
            entry.closed = True
            raise
        else:
            entry.model = model
            if not model.address:
                entry.queue = RequestQueue(spec, model, self._settings.max_waiting, self._settings.infer_seconds)
            entry.loaded_at = time.monotonic()
            metrics.LOADS.labels(model_label(spec.id), "ok").inc()
            metrics.LOADED.labels(model_label(spec.id)).set(1)
            log.info("loaded", extra={"fields": {"model": spec.id, "memory_mib": memory_mib}})
        finally:
            entry.loading = None

    def _failed(self, entry: _Entry, error: DrwError) -> None:
        """Raise the error of a load, and remember it: requests fail at once until the end of the backoff."""
        spec = entry.spec
        self._entries.pop(spec, None)
        entry.closed = True
        self._update_reserved()
        metrics.LOADS.labels(model_label(spec.id), "failed").inc()
        log.warning("%s", error.message)
        if isinstance(error, OutOfModelMemory):  # it can succeed as soon as another model is idle
            raise error
        self._backoffs[spec] = _Backoff(error, self._backoffs.get(spec))
        raise error

    async def _reserve(self, entry: _Entry, memory_mib: int, *, evict: bool, keep: Collection[ModelSpec]) -> None:
        """Reserve memory for a model; unload idle models, the least recently used first, until it suffices."""
        if memory_mib > self._settings.memory_mib:
            message = f"{entry.spec.id!r} needs {memory_mib} MiB; the runtime has {self._settings.memory_mib} MiB"
            raise ModelLoadFailed(message)
        async with self._reserving:
            while self._reserved() + memory_mib > self._settings.memory_mib:
                others = [other for other in self._entries.values() if other is not entry and other.spec not in keep]
                if not evict or not (others or self._ending):
                    raise OutOfModelMemory(f"{entry.spec.id!r} is not loaded, and the memory does not suffice")
                await self._unload_least_recently_used(entry, keep)
            entry.memory_mib = memory_mib
            self._update_reserved()

    async def _unload_least_recently_used(self, needed_for: _Entry, keep: Collection[ModelSpec]) -> None:
        def idle() -> list[_Entry]:
            return [entry for entry in self._entries.values() if entry.idle and entry.spec not in keep]

        if entries := idle():
            await self._close(min(entries, key=lambda entry: entry.used_at), "memory")
            return
        try:
            async with asyncio.timeout(self._settings.load_seconds / 2), self._changed:
                await self._changed.wait_for(idle)
        except TimeoutError:
            message = f"the memory does not suffice for {needed_for.spec.id!r}: all loaded models are in use; try again"
            raise OutOfModelMemory(message, retry_after="2") from None

    async def _close(self, entry: _Entry, reason: str) -> None:
        """End the process of a model. Its memory counts until the process has ended."""
        if not entry.closed and entry.model is not None:
            self._begin_close(entry, reason)
            await self._finish_close(entry)

    def _begin_close(self, entry: _Entry, reason: str) -> None:
        """Take a model out of use: later requests load it again."""
        entry.closed = True
        self._ending.add(entry)
        metrics.LOADED.labels(model_label(entry.spec.id)).set(0)
        metrics.MEMORY.labels(model_label(entry.spec.id)).set(0)
        metrics.UNLOADS.labels(model_label(entry.spec.id), reason).inc()
        log.info("unloaded", extra={"fields": {"model": entry.spec.id, "reason": reason}})

    async def _finish_close(self, entry: _Entry) -> None:
        try:
            await asyncio.shield(asyncio.ensure_future(self._end(entry)))
        finally:
            self._ending.discard(entry)
            if self._entries.get(entry.spec) is entry:
                del self._entries[entry.spec]
            self._update_reserved()
            async with self._changed:
                self._changed.notify_all()

    async def _end(self, entry: _Entry) -> None:
        assert entry.model is not None
        await entry.model.close()
        if entry.queue:
            await entry.queue.close(EngineUnavailable(f"the model {entry.spec.id!r} was unloaded", retry_after="1"))

    def _replace(self, entry: _Entry, reason: str) -> None:
        """Close a model whose process ended or froze, and load it again."""
        if entry.closed:
            return
        if time.monotonic() - entry.loaded_at < STABLE_SECONDS:
            error = ModelLoadFailed(f"the process of the model {entry.spec.id!r} ended soon after its start; try again")
            self._backoffs[entry.spec] = _Backoff(error, self._backoffs.get(entry.spec), retry=True)

        self._begin_close(entry, reason)

        async def run() -> None:
            await self._finish_close(entry)
            with suppress(Unavailable):  # the next request reports it
                async with self.lease(entry.spec):
                    pass

        task = asyncio.create_task(run())
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _check(self, entry: _Entry) -> None:
        if entry.closed or entry.model is None:
            return
        if not entry.model.alive:
            self._replace(entry, "died")
            return
        if entry.users:  # a busy process answers in order; its requests have their own time limit
            return
        try:
            entry.resident_bytes = await entry.model.check()
            metrics.MEMORY.labels(model_label(entry.spec.id)).set(entry.resident_bytes)
        except EngineUnavailable as error:
            if not entry.users and not entry.closed:
                log.warning("%s", error.message)
                self._replace(entry, "frozen" if entry.model.alive else "died")

    def _reserved(self) -> int:
        return sum(entry.memory_mib for entry in {*self._entries.values(), *self._ending})

    def _update_reserved(self) -> None:
        metrics.RESERVED.set(self._reserved() * MIB)

    async def _default_memory(self, spec: ModelSpec, path: Path) -> int:
        of_model = await asyncio.to_thread(self._loader(spec.engine).memory_mib, spec, path)
        return self._settings.default_memory_mib + of_model
