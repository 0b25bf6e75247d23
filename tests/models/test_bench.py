"""The bench of our own code on the managed path still fits the code."""

from __future__ import annotations

from bench import telemetry


async def test_the_bench_of_our_own_code_gets_whole_answers() -> None:
    assert await telemetry.measure(telemetry.application(), requests=2, rounds=1) > 0
