"""Overhead of a request: its duration minus its waits."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from drw.kernel.observability import overhead
from drw.kernel.observability.overhead import WaitKind, add_wait, waiting


def count(part: str) -> float:
    return REGISTRY.get_sample_value("drw_overhead_seconds_count", {"part": part}) or 0.0


async def test_overhead_excludes_the_waits_of_a_request_and_its_tasks() -> None:
    wait_time = overhead.begin()
    before = count("serving"), count("queue")
    add_wait("upstream", 1.5)
    await asyncio.create_task(wait_in_task("upstream", 0.25))
    add_wait("client", 0.125)
    assert wait_time.record(2.0) == pytest.approx(0.125)
    assert (count("serving"), count("queue")) == (before[0] + 1, before[1])
    add_wait("queue", 0.5)
    assert wait_time.record(2.5) == pytest.approx(0.125)
    assert count("queue") == before[1] + 1


async def wait_in_task(kind: WaitKind, seconds: float) -> None:
    add_wait(kind, seconds)


async def test_concurrent_requests_have_separate_wait_times() -> None:
    async def serve(seconds: float) -> float:
        wait_time = overhead.begin()
        await asyncio.sleep(0)
        add_wait("upstream", seconds)
        return wait_time.upstream

    assert list(await asyncio.gather(serve(1.0), serve(2.0))) == [1.0, 2.0]


async def test_a_failed_wait_counts_and_overhead_is_never_negative() -> None:
    wait_time = overhead.begin()
    with pytest.raises(TimeoutError), waiting("upstream"):
        raise TimeoutError
    assert wait_time.upstream > 0
    add_wait("upstream", 9.0)
    assert wait_time.record(1.0) == 0.0


def test_waits_outside_of_requests_are_ignored() -> None:
    wait_time = overhead.begin()
    overhead._current.set(None)
    with waiting("upstream"):
        pass
    assert wait_time.upstream == 0
