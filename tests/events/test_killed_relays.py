"""Relays that are killed: no event is lost, none is applied twice, and each key keeps its order."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from events.applied import applied_count, check_once_in_order, consumer, wait_for
from events.brokers import Broker
from events.relay_process import publish
from support.parts import until

SCRIPT = Path(__file__).with_name("relay_process.py")
EVENTS, KEYS, WRITERS, KILLS = 4000, 20, 4, 8


def duplicates() -> float:
    return REGISTRY.get_sample_value("drw_events_duplicates_total", {"consumer": "events"}) or 0.0


async def start(profile: Profile, mode: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), mode, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin and process.stdout
    process.stdin.write(profile.model_dump_json().encode())
    process.stdin.close()
    return process


async def test_a_relay_killed_at_any_line_loses_nothing(broker: Broker, tables: Database) -> None:
    before = duplicates()
    async with consumer(broker.profile, tables):
        process = await start(broker.profile, "lines")
        output, _ = await asyncio.wait_for(process.communicate(), 250)
        assert process.returncode == 0
        published = int(output)
        await wait_for(tables, published)
        await check_once_in_order(tables, published)
    assert duplicates() > before, "some relays die after the broker has accepted their events"


@pytest.mark.parametrize("broker", ["valkey", "kafka-mock"], indirect=True)
async def test_4000_events_survive_killed_relays(broker: Broker, tables: Database) -> None:
    async def write(writer: int) -> None:
        # The numbers of a key come from one writer, in order.
        for number in range(EVENTS):
            if number % KEYS % WRITERS == writer:
                await publish(tables, f"key-{number % KEYS}", number)

    async def kill_relays() -> None:
        for kill in range(KILLS):
            process = await start(broker.profile, "run")
            target = min(await applied_count(tables) + 100, EVENTS) if kill else 1

            async def has_progress(count: int = target) -> bool:
                return await applied_count(tables) >= count

            await until(has_progress, "progress", 60)
            process.kill()
            await process.communicate()

    async with consumer(broker.profile, tables):
        await asyncio.gather(*(write(writer) for writer in range(WRITERS)), kill_relays())
        last = await start(broker.profile, "run")
        try:
            await wait_for(tables, EVENTS)
        finally:
            last.kill()
            await last.communicate()
        await check_once_in_order(tables, EVENTS)
