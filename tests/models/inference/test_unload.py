"""Complaints of users of other servers: readiness before the load, unloads under load, leaks, mixed batches."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drw.models.serving.ports import LoadedModel, ModelSpec
from drw.models.serving.runtime import metrics
from models.inference import onnx_models
from models.inference.test_pool import CountingLoader, open_runtime, stopped, tensor, until

__all__ = ["open_runtime", "stopped"]  # fixtures


class WaitingLoader(CountingLoader):
    """Loads a model once a test permits it."""

    def __init__(self) -> None:
        super().__init__()
        self.permitted = asyncio.Event()

    async def load(self, spec: ModelSpec, path: Path, memory_mib: int) -> LoadedModel:
        loaded = await super().load(spec, path, memory_mib)
        await self.permitted.wait()
        return loaded


async def test_a_model_is_ready_only_after_its_load(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        runtime.loader = WaitingLoader()
        a = runtime.spec("a")
        request = asyncio.create_task(runtime.infer(a, 1, 2))
        await until(lambda: runtime.loader.loads == ["a"])
        assert not runtime.pool.ready(a) and runtime.pool.model(a) is None and not list(runtime.pool.loaded())
        runtime.loader.permitted.set()
        assert await request == [[1.0, 2.0]]
        assert runtime.pool.ready(a)


async def test_an_unload_waits_for_the_requests_in_progress(
    open_runtime: Callable[..., Any], stopped: Callable[[int], None]
) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 0, 0)
        stopped(pid := runtime.process(a))
        requests = [asyncio.create_task(runtime.infer(a, i, i)) for i in range(4)]
        await until(lambda: next(runtime.pool.loaded()).running == 4)
        unload = asyncio.create_task(runtime.pool.unload(a))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not unload.done() and runtime.pool.ready(a)
        os.kill(pid, signal.SIGCONT)
        assert await asyncio.gather(*requests) == [[[float(i), float(i)]] for i in range(4)]
        assert await unload and not Path(f"/proc/{pid}").exists()
        assert await runtime.infer(a, 5, 6) == [[5.0, 6.0]]


async def test_repeated_loads_and_unloads_leave_nothing(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 0, 0)
        await runtime.pool.unload(a)
        descriptors, processes = len(list(Path("/proc/self/fd").iterdir())), []
        for i in range(5):
            assert await runtime.infer(a, i, i) == [[float(i), float(i)]]
            processes.append(runtime.process(a))
            assert await runtime.pool.unload(a)
            assert metrics.RESERVED._value.get() == 0
        assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


async def test_requests_for_other_outputs_are_not_joined(
    open_runtime: Callable[..., Any], stopped: Callable[[int], None]
) -> None:
    async with open_runtime() as runtime:
        double = runtime.spec(
            "d", lambda folder: onnx_models.scale(folder, 2.0), max_batch=16, max_batch_delay_seconds=0.05
        )
        await runtime.infer(double, 0, 0)
        named, unnamed = ("y",), ()
        stopped(pid := runtime.process(double))
        requests = [
            asyncio.create_task(runtime.pool.infer(double, "acme", (tensor(i, i),), (named, unnamed)[i % 2]))
            for i in range(8)
        ]
        await until(lambda: next(runtime.pool.loaded()).running == 8)
        os.kill(pid, signal.SIGCONT)
        results = await asyncio.gather(*requests)
        assert [[output.name for output in outputs] for outputs in results] == [["y"]] * 8
        values = [np.frombuffer(outputs[0].data, np.float32).tolist() for outputs in results]
        assert values == [[2.0 * i, 2.0 * i] for i in range(8)]
