"""What is ours of a request's time is what nobody else was waited for."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from drw.kernel.observability import overhead
from drw.kernel.observability.overhead import waited, waiting


def count(part: str) -> float:
    return REGISTRY.get_sample_value("drw_overhead_seconds_count", {"part": part}) or 0.0


async def test_waits_of_a_request_and_of_its_tasks_are_not_ours() -> None:
    account = overhead.begin()
    before = count("serving"), count("queue")
    waited("upstream", 1.5)
    await asyncio.create_task(later("upstream", 0.25))
    waited("client", 0.125)
    assert account.close(2.0) == pytest.approx(0.125)
    assert (count("serving"), count("queue")) == (before[0] + 1, before[1])
    waited("queue", 0.5)
    assert account.close(2.5) == pytest.approx(0.125)
    assert count("queue") == before[1] + 1


async def later(what, seconds):
    waited(what, seconds)


async def test_a_request_does_not_count_the_waits_of_another() -> None:
    async def one(seconds):
        account = overhead.begin()
        await asyncio.sleep(0)
        waited("upstream", seconds)
        return account.upstream

    assert list(await asyncio.gather(one(1.0), one(2.0))) == [1.0, 2.0]


async def test_a_wait_that_fails_counts_too_and_more_waits_than_time_are_not_negative() -> None:
    account = overhead.begin()
    with pytest.raises(TimeoutError), waiting("upstream"):
        raise TimeoutError
    assert account.upstream > 0
    waited("upstream", 9.0)
    assert account.close(1.0) == 0.0


def test_outside_of_requests_waits_are_nobodys() -> None:
    account = overhead.begin()
    overhead._account.set(None)
    with waiting("upstream"):
        pass
    assert account.upstream == 0
