"""The pool of loaded models: memory budget, single flight, crashes, freezes, cancellation and fairness."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drw.kernel.errors import InvalidRequest, RateLimited
from drw.models.serving.adapters.onnx import OnnxLoader, OnnxProcess
from drw.models.serving.errors import EngineBusy, EngineUnavailable, ModelLoadFailed, OutOfModelMemory
from drw.models.serving.ports import LoadedModel, ModelLoader, ModelSpec
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.settings import RuntimeSettings
from drw.tensors.datatypes import Tensor
from models.inference import onnx_models

MIB = 256
"""Memory limit of one model."""


class CountingLoader(ModelLoader):
    """Loads ONNX models, and counts the loads."""

    def __init__(self) -> None:
        self._inner = OnnxLoader(OnnxLoader.Settings(max_output_bytes=1 << 20))
        self.loads: list[str] = []

    async def load(self, spec: ModelSpec, path: Path, memory_mib: int) -> LoadedModel:
        self.loads.append(spec.id)
        return await self._inner.load(spec, path, memory_mib)


class Runtime:
    """A pool with its loader."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.loader = CountingLoader()
        self.folder = folder
        self.pool = ModelPool(lambda engine: self.loader, self._locate, RuntimeSettings(**settings))

    async def _locate(self, spec: ModelSpec) -> Path:
        return Path(spec.folder)

    def spec(self, name: str, make: Callable[[Path], Path] = onnx_models.identity, **fields: Any) -> ModelSpec:
        """Write a model and return its specification."""
        return ModelSpec(name, "", "onnx", folder=str(make(self.folder / name)), **{"memory_mib": MIB, **fields})

    async def infer(self, spec: ModelSpec, *values: float, org: str = "acme") -> list[list[float]]:
        """Run one row per two values."""
        outputs = await self.pool.infer(spec, org, (tensor(*values),))
        return np.frombuffer(outputs[0].data, np.float32).reshape(outputs[0].shape).tolist()

    def process(self, spec: ModelSpec) -> int:
        """Return the id of the process of a loaded model."""
        model = self.pool.model(spec)
        assert isinstance(model, OnnxProcess)
        return model._process.pid


def tensor(*values: float) -> Tensor:
    """Return rows of two values."""
    return Tensor("x", "FP32", (len(values) // 2, 2), np.array(values, np.float32).tobytes())


@pytest.fixture
def open_runtime(tmp_path: Path) -> Callable[..., Any]:
    """Open a pool: `async with open_runtime(memory_mib=...) as runtime`."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Runtime]:
        runtime = Runtime(tmp_path, **settings)
        try:
            yield runtime
        finally:
            await runtime.pool.close()

    return opened


@pytest.fixture
def stopped() -> Iterator[Callable[[int], None]]:
    """Stop processes for the test."""
    pids: list[int] = []

    def stop(pid: int) -> None:
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield stop
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_least_recently_used_model_is_unloaded_for_another(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(memory_mib=2 * MIB) as runtime:
        a, b, c = (runtime.spec(name) for name in "abc")
        for spec in (a, b, a, c):
            await runtime.infer(spec, 1, 2)
        assert [runtime.pool.ready(spec) for spec in (a, b, c)] == [True, False, True]
        assert sum(state.memory_mib for state in runtime.pool.loaded()) == 2 * MIB


async def test_process_and_memory_are_gone_after_the_unload(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.pool.load(a)
        pid = runtime.process(a)
        assert await runtime.pool.unload(a)
        assert not Path(f"/proc/{pid}").exists()
        assert not await runtime.pool.unload(a)


async def test_concurrent_requests_load_once(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a", max_batch=4)
        results = await asyncio.gather(*(runtime.infer(a, i, -i) for i in range(20)))
        assert results == [[[float(i), float(-i)]] for i in range(20)]
        assert runtime.loader.loads == ["a"]


async def test_model_in_use_is_never_unloaded_for_another(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(memory_mib=MIB, load_seconds=3) as runtime:
        a, b = runtime.spec("a"), runtime.spec("b")
        async with runtime.pool.lease(a):
            with pytest.raises(OutOfModelMemory, match="in use"):
                await runtime.pool.load(b)
            assert runtime.pool.ready(a)
        assert await runtime.infer(b, 1, 2) == [[1.0, 2.0]]


async def test_waiting_load_continues_when_a_model_becomes_idle(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(memory_mib=MIB) as runtime:
        a, b = runtime.spec("a"), runtime.spec("b")
        async with runtime.pool.lease(a):
            load = asyncio.create_task(runtime.pool.load(b))
            await asyncio.sleep(0)
            assert not load.done()
        await load
        assert runtime.pool.ready(b) and not runtime.pool.ready(a)


async def test_model_that_exceeds_the_budget_fails_clearly(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(memory_mib=MIB) as runtime:
        with pytest.raises(ModelLoadFailed, match=f"needs {2 * MIB} MiB; the runtime has {MIB} MiB"):
            await runtime.pool.load(runtime.spec("a", memory_mib=2 * MIB))


async def test_reader_cannot_evict_models(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(memory_mib=MIB) as runtime:
        a, b = runtime.spec("a"), runtime.spec("b")
        await runtime.pool.load(a)
        with pytest.raises(OutOfModelMemory):
            async with runtime.pool.lease(b, evict=False):
                pass
        assert runtime.pool.ready(a)


async def test_killed_process_fails_its_request_and_is_replaced(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 1, 2)
        os.kill(pid := runtime.process(a), signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="replaced"):
            for _ in range(100):
                await runtime.infer(a, 1, 2)
        await until(lambda: runtime.pool.ready(a))
        assert runtime.process(a) != pid
        assert await runtime.infer(a, 1, 2) == [[1.0, 2.0]]


async def test_frozen_process_fails_its_request_and_is_replaced(
    open_runtime: Callable[..., Any], stopped: Callable[[int], None]
) -> None:
    async with open_runtime(infer_seconds=1) as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 1, 2)
        stopped(pid := runtime.process(a))
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await runtime.infer(a, 1, 2)
        await until(lambda: runtime.pool.ready(a))
        assert runtime.process(a) != pid
        assert await runtime.infer(a, 3, 4) == [[3.0, 4.0]]


async def test_dead_idle_process_is_replaced_without_a_request(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime(check_seconds=0.1) as runtime:
        a = runtime.spec("a")
        await runtime.pool.load(a)
        watch = asyncio.create_task(runtime.pool.watch())
        os.kill(pid := runtime.process(a), signal.SIGKILL)
        await until(lambda: runtime.pool.ready(a) and runtime.process(a) != pid)
        watch.cancel()


async def test_crash_under_load_is_retried_alone(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a", max_batch=8, max_batch_delay_seconds=0.2)
        await runtime.pool.load(a)
        requests = [asyncio.create_task(runtime.infer(a, i, i)) for i in range(4)]
        await asyncio.sleep(0)
        os.kill(runtime.process(a), signal.SIGKILL)
        assert await asyncio.gather(*requests) == [[[float(i), float(i)]] for i in range(4)]


async def test_bad_request_does_not_fail_its_batch(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        lookup = runtime.spec("lookup", onnx_models.gather, max_batch=8, max_batch_delay_seconds=0.2)
        await runtime.pool.load(lookup)

        def request(index: int) -> Any:
            return runtime.pool.infer(lookup, "acme", (Tensor("x", "INT64", (1,), np.int64(index).tobytes()),))

        results = await asyncio.gather(*(request(index) for index in (0, 1, 99, 3)), return_exceptions=True)
        values = [np.frombuffer(r[0].data, np.float32).tolist() for r in results if not isinstance(r, BaseException)]
        assert values == [[0, 1], [2, 3], [6, 7]]
        assert isinstance(results[2], InvalidRequest)


async def test_batches_are_split_exactly(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        double = runtime.spec(
            "d", lambda folder: onnx_models.scale(folder, 2.0), max_batch=16, max_batch_delay_seconds=0.05
        )
        await runtime.pool.load(double)
        sizes = [1, 3, 2, 5, 16, 17, 1, 4]
        requests = [[float(i * 100 + k) for k in range(2 * size)] for i, size in enumerate(sizes)]
        results = await asyncio.gather(*(runtime.infer(double, *values) for values in requests))
        for values, result in zip(requests, results, strict=True):
            assert result == (2 * np.array(values, np.float32)).reshape(-1, 2).tolist()


async def test_requests_of_other_shapes_and_outputs_do_not_share_a_batch(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        spec = runtime.spec("s", onnx_models.sum_and_double, max_batch=64, max_batch_delay_seconds=0.05)
        await runtime.pool.load(spec)

        async def request(rows: int, length: int, *outputs: str) -> None:
            values = np.arange(rows * length, dtype=np.float32).reshape(rows, length)
            results = await runtime.pool.infer(
                spec, "acme", (Tensor("x", "FP32", values.shape, values.tobytes()),), outputs
            )
            expected = {"sum": values.sum(axis=1, keepdims=True), "double": 2 * values}
            assert [each.name for each in results] == list(outputs or expected)
            for result in results:
                array = np.frombuffer(result.data, np.float32).reshape(result.shape)
                np.testing.assert_array_equal(array, expected[result.name])

        named: list[tuple[str, ...]] = [(), ("sum",), ("double",), ("double", "sum")]
        await asyncio.gather(
            *(request(rows, length, *outputs) for rows in (1, 3) for length in (1, 2, 7) for outputs in named * 2)
        )


async def test_texts_are_split_exactly(open_runtime: Callable[..., Any]) -> None:
    from drw.tensors.datatypes import elements, encoded

    async with open_runtime() as runtime:
        spec = runtime.spec("t", lambda f: onnx_models.identity(f, "BYTES"), max_batch=16, max_batch_delay_seconds=0.05)
        await runtime.pool.load(spec)
        texts = [[b"", b"a" * i] for i in range(6)]
        results = await asyncio.gather(
            *(runtime.pool.infer(spec, "o", (Tensor("x", "BYTES", (1, 2), encoded(text)),)) for text in texts)
        )
        assert [elements(outputs[0].data) for outputs in results] == texts


async def test_model_whose_rows_affect_each_other_is_not_batched(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        mixing = runtime.spec("m", onnx_models.mixing, max_batch=8, max_batch_delay_seconds=0.2)
        await runtime.pool.load(mixing)
        results = await asyncio.gather(*(runtime.infer(mixing, i, i) for i in range(4)))
        assert results == [[[0.0, 0.0]]] * 4  # each row minus its own mean
        (state,) = runtime.pool.loaded()
        assert state.max_batch == 1


async def test_cancelled_request_leaves_the_queue(
    open_runtime: Callable[..., Any], stopped: Callable[[int], None]
) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 1, 2)
        stopped(pid := runtime.process(a))
        running = [asyncio.create_task(runtime.infer(a, 1, 2)) for _ in range(5)]
        await until(lambda: next(runtime.pool.loaded()).waiting == 3)
        for task in running[2:]:
            task.cancel()
        await asyncio.gather(*running[2:], return_exceptions=True)
        assert next(runtime.pool.loaded()).waiting == 0
        os.kill(pid, signal.SIGCONT)
        assert await asyncio.gather(*running[:2]) == [[[1.0, 2.0]]] * 2


async def test_one_org_cannot_fill_the_queue(open_runtime: Callable[..., Any], stopped: Callable[[int], None]) -> None:
    async with open_runtime(max_waiting=4) as runtime:
        a = runtime.spec("a")
        await runtime.infer(a, 1, 2)
        stopped(pid := runtime.process(a))
        sent = [asyncio.create_task(runtime.infer(a, 1, 2)) for _ in range(2)]
        await until(lambda: next(runtime.pool.loaded()).running == 2 and next(runtime.pool.loaded()).waiting == 0)
        greedy = [asyncio.create_task(runtime.infer(a, 1, 2, org="greedy")) for _ in range(2)]
        await until(lambda: next(runtime.pool.loaded()).waiting == 2)
        with pytest.raises(RateLimited, match="your org"):
            await runtime.infer(a, 1, 2, org="greedy")
        others = [asyncio.create_task(runtime.infer(a, 5, 6, org=org)) for org in ("b", "c")]
        await until(lambda: next(runtime.pool.loaded()).waiting == 4)
        with pytest.raises(EngineBusy):
            await runtime.infer(a, 1, 2, org="d")
        os.kill(pid, signal.SIGCONT)
        await asyncio.gather(*sent, *greedy, *others)


async def test_memory_limit_of_a_process_is_enforced(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        slow = runtime.spec("s", lambda folder: onnx_models.slow(folder, steps=40, size=64), memory_mib=80)
        await runtime.pool.load(slow)
        rows = 300_000
        data = Tensor("x", "FP32", (rows, 64), bytes(rows * 64 * 4))
        with pytest.raises((EngineUnavailable, InvalidRequest)):
            await runtime.pool.infer(slow, "acme", (data,))


async def test_files_that_are_no_model_fail_with_their_reason(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        (Path(a.folder) / "model.onnx").write_bytes(b"\x80\x04\x95not a model")
        with pytest.raises(ModelLoadFailed, match="cannot be loaded"):
            await runtime.pool.load(a)
        with pytest.raises(ModelLoadFailed):  # at once, without another process
            await runtime.infer(a, 1, 2)
        assert runtime.loader.loads == ["a"]


async def test_other_digest_is_refused(open_runtime: Callable[..., Any]) -> None:
    async with open_runtime() as runtime:
        with pytest.raises(ModelLoadFailed, match="digest"):
            await runtime.pool.load(runtime.spec("a", digest="sha256:" + "0" * 64))


async def test_external_data_outside_of_the_folder_is_refused(open_runtime: Callable[..., Any], tmp_path: Path) -> None:
    from onnx import TensorProto, external_data_helper, helper

    (tmp_path / "secret").write_bytes(bytes(64))

    def make(folder: Path) -> Path:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0], raw=False)
        weight.ClearField("float_data")
        weight.raw_data = bytes(8)
        external_data_helper.set_external_data(weight, "../secret")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
        folder.mkdir(parents=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return folder

    async with open_runtime() as runtime:
        with pytest.raises(ModelLoadFailed, match="secret"):
            await runtime.pool.load(runtime.spec("a", make))


async def test_child_inherits_no_secret(open_runtime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2")
    async with open_runtime() as runtime:
        a = runtime.spec("a")
        await runtime.pool.load(a)
        assert b"hunter2" not in Path(f"/proc/{runtime.process(a)}/environ").read_bytes()
