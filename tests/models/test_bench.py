"""The telemetry benchmark runs with the present code."""

from __future__ import annotations

from bench import telemetry


async def test_the_telemetry_benchmark_receives_complete_answers() -> None:
    assert await telemetry.measure(telemetry.application(), requests=2, rounds=1) > 0
