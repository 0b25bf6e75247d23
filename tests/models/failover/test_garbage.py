"""Calls leave no reference cycles that would keep request bodies in memory until garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from drw.models.serving.observability.call_record import CallRecord
from models.failover.world import World
from support.json_types import Json, JsonObject

BEHAVIOURS = [
    "healthy",
    "status_500",
    "status_400",
    "limited",
    "reset",
    "silent",
    "cut",
    "stall",
    "malformed",
    "no_done",
]


def live_call_records() -> list[CallRecord]:
    return [each for each in gc.get_objects() if isinstance(each, CallRecord)]


async def leaves_nothing(world: World, **request: Json) -> None:
    await world.ask(**request)
    gc.collect()
    before = len(live_call_records())
    gc.disable()
    try:
        for _ in range(3):
            await world.ask(**request)
        assert len(live_call_records()) <= max(1, before)  # the task of the last one may not have ended yet
    finally:
        gc.enable()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_call_leaves_no_reference_cycle(in_world: Callable[..., None], behaviour: str, stream: bool) -> None:
    async def run(world: World) -> None:
        for each in world.upstreams.values():
            each.script = [behaviour]
        await leaves_nothing(world, stream=stream)

    in_world(run)


@pytest.mark.parametrize("wrong", [{"temperature": 9}, {"model": "nobody"}, {"max_tokens": 1 << 30}], ids=str)
def test_a_rejected_call_leaves_no_reference_cycle(in_world: Callable[..., None], wrong: JsonObject) -> None:
    in_world(lambda world: leaves_nothing(world, **{"stream": False, **wrong}))
