"""Processes that die or freeze under load: each is replaced, and callers hear of it as the documentation says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import openai
import pytest

from drw.cli.platform.platform import _send_command
from drw.local.paths import PlatformPaths
from support.load import MODEL, Load, kinds, mixed_load
from support.platform import Platform

KILLED = ("rag", "models", "gateway", "workflow", "engine", "valkey", "postgres")
SECONDS = 180


@pytest.mark.timeout(900)  # a loaded machine takes long to start seven processes three times
async def test_whatever_dies_or_freezes_is_replaced_and_named_with_a_time_to_come_back(
    platform: Platform, client: openai.OpenAI
) -> None:
    store, kept = client.vector_stores.create(name="reliability"), platform.credentials
    # Costs money, so that Valkey is on the way of each call.
    platform.run("prices", "set", "smollm2-135m-instruct", "--prompt", "1", "--completion", "1")
    platform.run("budgets", "set", "1000", "--desk", "research", "--period", "day")
    try:
        async with mixed_load(kept["url"], kept["api_key"], store.id) as load:
            await load.good(set(kinds("")), 0.0, SECONDS)
            await one_after_the_other(platform, load)
            await all_frozen(platform, load, (*KILLED, "agent"))
            assert surprises(load.outcomes) == {}
            envoy = time.monotonic()
            await all_frozen(platform, load, ("envoy",))
            assert {status for _, status, *_ in surprises(load.since(envoy))} <= {0}
    finally:
        platform.run("budgets", "remove", "--desk", "research", "--period", "day")
    handed_back = "handed back the lease of a process that died"
    assert handed_back in (platform.data / "logs" / "models.log").read_text()


@pytest.mark.timeout(400)
async def test_no_rebuild_of_the_counters_waits_for_a_lease_that_nobody_has(
    platform: Platform, client: openai.OpenAI
) -> None:
    """Valkey dies with model serving, and freezes before model serving has begun a lease."""
    platform.run("prices", "set", MODEL, "--prompt", "1", "--completion", "1")
    platform.run("budgets", "set", "1000", "--desk", "research", "--period", "day")
    try:
        await answered(client)
        before = await parts(platform)
        for name in ("valkey", "models"):
            kill(before[name]["pid"], signal.SIGKILL)
        await replaced(platform, before, ("valkey", "models"))
        await answered(client)
        before = await parts(platform)
        kill(before["models"]["pid"], signal.SIGKILL)
        await replaced(platform, before, ("models",))
        kill(before["valkey"]["pid"], signal.SIGSTOP)
        with pytest.raises(openai.InternalServerError):
            await asyncio.to_thread(ask, client)
        await replaced(platform, before, ("valkey",))
        await answered(client)
    finally:
        platform.run("budgets", "remove", "--desk", "research", "--period", "day")
    log = (platform.data / "logs" / "gateway.log").read_text().splitlines()
    rebuilt = [json.loads(line) for line in log if "the counters of money are whole again" in line]
    assert [line["lost"] for line in rebuilt[-2:]] == [0, 0]


def ask(client: openai.OpenAI) -> bool:
    said: list[Any] = [{"role": "user", "content": "Say hello."}]
    return bool(client.chat.completions.create(model=MODEL, messages=said, max_tokens=2).choices)


async def answered(client: openai.OpenAI) -> None:
    """Wait until a call that costs money is answered."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(openai.InternalServerError):
                if await asyncio.to_thread(ask, client):
                    return
            await asyncio.sleep(0.1)


async def one_after_the_other(platform, load: Load) -> None:
    """Kill each process while the ones before it are still on their way back."""
    before = await parts(platform)
    for name in KILLED:
        pid = (await parts(platform))[name]["pid"] or before[name]["pid"]
        kill(pid, signal.SIGKILL)
        await load.turn(SECONDS)
    await replaced(platform, before, KILLED)
    await load.good(set(kinds("")), time.monotonic(), SECONDS)


async def all_frozen(platform, load: Load, names: tuple[str, ...]) -> None:
    before = await parts(platform)
    for name in names:
        kill(before[name]["pid"], signal.SIGSTOP)
    await replaced(platform, before, names)
    await load.good(set(kinds("")), time.monotonic(), SECONDS)


def surprises(outcomes) -> Counter:
    found = [outcome for outcome in outcomes if not documented(outcome)]
    return Counter((o.kind, o.status, o.code, o.message, o.retry_after) for o in found)


def documented(outcome) -> bool:
    """Return whether a caller may hear this: an answer, or which part is away and when to come back."""
    if outcome.status == 503:
        return bool(outcome.code and outcome.message) and int(outcome.retry_after or 0) >= 1
    # A connection ends without an answer where one had begun.
    return outcome.status == 200 or (outcome.kind == "stream" and outcome.status == 0)


async def parts(platform) -> dict[str, Any]:
    found = await asyncio.to_thread(_send_command, PlatformPaths.of(platform.data), "status")
    assert found is not None
    return {part["name"]: part for part in found["processes"]} | {"healthy": found["healthy"]}


async def replaced(platform, before: dict[str, Any], names: tuple[str, ...]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            now = await parts(platform)
            if now["healthy"] and all(now[name]["restarts"] > before[name]["restarts"] for name in names):
                return
            await asyncio.sleep(0.1)


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself, as one does that cannot begin without the others
        os.kill(pid, number)
