"""Predictive models: batched throughput beside bare ONNX Runtime, and memory over rounds of load and unload.

`python -m bench.predictive [--pairs N] [--rounds N]`. Each pair runs both sides one after the other, so that other load
on the machine affects both. A ratio is the mean over all pairs, with a 95 % interval from their spread: of rows a
second, and of rows a second of processor time, which other load affects less. That of the pool includes both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import uvloop

from drw.models.serving.adapters.onnx import OnnxLoader
from drw.models.serving.ports import ModelSpec
from drw.models.serving.runtime.pool import ModelPool
from drw.models.serving.runtime.settings import RuntimeSettings
from drw.tensors.datatypes import Tensor

WIDTH, LAYERS, BATCH = 512, 4, 64
SECONDS = 1.0
"""Of one side of a pair."""
MARKS = (100, 500, 1000)
T_95 = 2.26
"""Quantile of Student's distribution for ten pairs."""


def main() -> None:
    """Run both parts and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.predictive", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="pairs of measurements; 0: no throughput")
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of load and unload; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        uvloop.run(_run(Path(folder), options.pairs, options.rounds))


def write_model(folder: Path) -> None:
    """Write a network of fully connected layers."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    nodes, weights = [], []
    for layer in range(LAYERS):
        weight = random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / math.sqrt(WIDTH)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", ["x" if layer == 0 else f"h{layer}", f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], ["y" if layer == LAYERS - 1 else f"h{layer + 1}"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


async def _run(folder: Path, pairs: int, rounds: int) -> None:
    loader = OnnxLoader(OnnxLoader.Settings(max_output_bytes=64 << 20))

    async def locate(spec: ModelSpec) -> Path:
        return Path(spec.folder)

    pool = ModelPool(lambda engine: loader, locate, RuntimeSettings(max_waiting=4096))
    spec = ModelSpec(
        "network", "", "onnx", folder=str(folder), max_batch=BATCH, max_batch_delay_seconds=0.002, threads=1
    )
    try:
        if pairs:
            await _throughput(pool, spec, folder, pairs)
        if rounds:
            await _rounds(pool, spec, rounds)
    finally:
        await pool.close()


async def _throughput(pool: ModelPool, spec: ModelSpec, folder: Path, pairs: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(2).standard_normal((BATCH, WIDTH)).astype(np.float32)

    async def bare() -> int:
        session.run(None, {"x": batch})
        return BATCH

    async def whole_batches() -> int:
        await pool.infer(spec, "bench", (Tensor("x", "FP32", batch.shape, batch.tobytes()),))
        return BATCH

    async def single_rows() -> int:
        await pool.infer(spec, "bench", (Tensor("x", "FP32", (1, WIDTH), batch[0].tobytes()),))
        return 1

    await pool.load(spec)
    sides: dict[str, tuple[Callable[[], Awaitable[int]], int]] = {
        f"requests of {BATCH} rows": (whole_batches, 3),
        "requests of 1 row, joined": (single_rows, 3 * BATCH),
    }
    print(f"network of {LAYERS} layers of {WIDTH}, 1 thread, batches of {BATCH} rows, {pairs} pairs of {SECONDS:g} s")
    for name, (call, clients) in sides.items():
        measured = [(await _rate(bare, 1), await _rate(call, clients)) for _ in range(pairs)]
        _report(name, measured)


class Rate(NamedTuple):
    """Rows a second, and rows a second of processor time."""

    wall: float
    processor: float


async def _rate(call: Callable[[], Awaitable[int]], clients: int) -> Rate:
    """Return the rate of so many concurrent clients."""
    end = time.perf_counter() + SECONDS
    rows = 0

    async def client() -> None:
        nonlocal rows
        while time.perf_counter() < end:
            done = await call()  # not `rows += await`, which reads the sum before it waits
            rows += done

    started_at, processor = time.perf_counter(), _processor_seconds()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Rate(rows / (time.perf_counter() - started_at), rows / (_processor_seconds() - processor))


def _processor_seconds() -> float:
    """Return the processor time of this process and of its running children."""
    ticks = 0
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _report(name: str, measured: list[tuple[Rate, Rate]]) -> None:
    bare, ours = (statistics.mean(rate.wall for rate in side) for side in zip(*measured, strict=True))
    wall = _interval([ours.wall / bare.wall for bare, ours in measured])
    processor = _interval([ours.processor / bare.processor for bare, ours in measured])
    print(f"{name}: {ours:,.0f} rows/s; bare ONNX Runtime {bare:,.0f} rows/s")
    print(f"    ratio {wall}; of processor time {processor}", flush=True)


def _interval(ratios: list[float]) -> str:
    half = T_95 * statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    return f"{statistics.mean(ratios):.2f} ± {half:.2f}"


async def _rounds(pool: ModelPool, spec: ModelSpec, rounds: int) -> None:
    await pool.unload(spec)
    first: dict[str, int] = {}
    for number in range(1, rounds + 1):
        await pool.load(spec)
        await pool.unload(spec)
        if number == 10:  # caches of the first rounds are not growth
            first = _usage()
        if number in MARKS or number == rounds:
            growth: Any = {name: value - first.get(name, 0) for name, value in _usage().items()}
            used = ", ".join(f"{name} {value} ({growth[name]:+d} since round 10)" for name, value in _usage().items())
            print(f"after {number} rounds of load and unload: {used}", flush=True)


def _usage() -> dict[str, int]:
    """Return memory, open files and child processes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "RSS KiB": pages * os.sysconf("SC_PAGESIZE") >> 10,
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(children),
    }


if __name__ == "__main__":
    main()
