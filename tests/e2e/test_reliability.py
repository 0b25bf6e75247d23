"""Processes that die or freeze under load are replaced, and callers get only documented errors."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress

import openai
import pytest

from drw.cli.platform.platform import _send_command
from drw.local.paths import PlatformPaths
from e2e.platform import Platform
from support.json_types import Json, JsonObject
from support.load import MODEL, Load, Outcome, kinds, mixed_load

PROCESSES = ("rag", "models", "gateway", "workflow", "engine", "valkey", "postgres")
TIMEOUT_SECONDS = 180


@pytest.mark.timeout(900)  # a loaded machine needs long to start seven processes three times
async def test_killed_or_frozen_processes_are_replaced_with_documented_errors(
    platform: Platform, client: openai.OpenAI
) -> None:
    store, credentials = client.vector_stores.create(name="reliability"), platform.credentials
    # Calls cost money, so each of them uses Valkey.
    platform.run("prices", "set", "smollm2-135m-instruct", "--prompt", "1", "--completion", "1")
    platform.run("budgets", "set", "1000", "--desk", "research", "--period", "day")
    try:
        async with mixed_load(credentials["url"], credentials["api_key"], store.id) as load:
            await load.until_each_kind_succeeds(set(kinds("")), 0.0, TIMEOUT_SECONDS)
            await kill_one_after_the_other(platform, load)
            await freeze_all(platform, load, (*PROCESSES, "agent"))
            assert undocumented_outcomes(load.outcomes) == {}
            envoy = time.monotonic()
            await freeze_all(platform, load, ("envoy",))
            assert {status for _, status, *_ in undocumented_outcomes(load.since(envoy))} <= {0}
    finally:
        platform.run("budgets", "remove", "--desk", "research", "--period", "day")
    lease_message = "returned the lease of a dead process"
    assert lease_message in (platform.data / "logs" / "models.log").read_text()


@pytest.mark.timeout(400)
async def test_counter_rebuild_does_not_wait_for_an_abandoned_lease(platform: Platform, client: openai.OpenAI) -> None:
    """Valkey dies together with model serving, then freezes before the new model serving takes a lease."""
    platform.run("prices", "set", MODEL, "--prompt", "1", "--completion", "1")
    platform.run("budgets", "set", "1000", "--desk", "research", "--period", "day")
    try:
        await wait_for_chat(client)
        before = await process_states(platform)
        for name in ("valkey", "models"):
            send_signal(before[name]["pid"], signal.SIGKILL)
        await wait_until_replaced(platform, before, ("valkey", "models"))
        await wait_for_chat(client)
        before = await process_states(platform)
        send_signal(before["models"]["pid"], signal.SIGKILL)
        await wait_until_replaced(platform, before, ("models",))
        send_signal(before["valkey"]["pid"], signal.SIGSTOP)
        with pytest.raises(openai.InternalServerError):
            await asyncio.to_thread(send_chat, client)
        await wait_until_replaced(platform, before, ("valkey",))
        await wait_for_chat(client)
    finally:
        platform.run("budgets", "remove", "--desk", "research", "--period", "day")
    log = (platform.data / "logs" / "gateway.log").read_text().splitlines()
    rebuild_lines = [json.loads(line) for line in log if "the counters are rebuilt" in line]
    assert [line["lost"] for line in rebuild_lines[-2:]] == [0, 0]


def send_chat(client: openai.OpenAI) -> bool:
    messages: Json = [{"role": "user", "content": "Say hello."}]
    return bool(client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2).choices)


async def wait_for_chat(client: openai.OpenAI) -> None:
    """Wait until a call that costs money succeeds."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            with suppress(openai.InternalServerError):
                if await asyncio.to_thread(send_chat, client):
                    return
            await asyncio.sleep(0.1)


async def kill_one_after_the_other(platform: Platform, load: Load) -> None:
    """Kill each process while the previous ones still restart."""
    before = await process_states(platform)
    for name in PROCESSES:
        pid = (await process_states(platform))[name]["pid"] or before[name]["pid"]
        send_signal(pid, signal.SIGKILL)
        await load.until_each_kind_ended(TIMEOUT_SECONDS)
    await wait_until_replaced(platform, before, PROCESSES)
    await load.until_each_kind_succeeds(set(kinds("")), time.monotonic(), TIMEOUT_SECONDS)


async def freeze_all(platform: Platform, load: Load, names: tuple[str, ...]) -> None:
    before = await process_states(platform)
    for name in names:
        send_signal(before[name]["pid"], signal.SIGSTOP)
    await wait_until_replaced(platform, before, names)
    await load.until_each_kind_succeeds(set(kinds("")), time.monotonic(), TIMEOUT_SECONDS)


def undocumented_outcomes(outcomes: list[Outcome]) -> Counter[tuple[object, ...]]:
    undocumented = [outcome for outcome in outcomes if not is_documented(outcome)]
    return Counter((o.kind, o.status, o.code, o.message, o.retry_after) for o in undocumented)


def is_documented(outcome: Outcome) -> bool:
    """Return whether the documentation allows this outcome: an answer, or a named failure with a retry time."""
    if outcome.status == 503:
        return bool(outcome.code and outcome.message) and int(outcome.retry_after or 0) >= 1
    # A stream that had begun may end without a complete response.
    return outcome.status == 200 or (outcome.kind == "stream" and outcome.status == 0)


async def process_states(platform: Platform) -> JsonObject:
    status = await asyncio.to_thread(_send_command, PlatformPaths.of(platform.data), "status")
    assert status is not None
    return {process["name"]: process for process in status["processes"]} | {"healthy": status["healthy"]}


async def wait_until_replaced(platform: Platform, before: JsonObject, names: tuple[str, ...]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            now = await process_states(platform)
            if now["healthy"] and all(now[name]["restarts"] > before[name]["restarts"] for name in names):
                return
            await asyncio.sleep(0.1)


def send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it already exited because another process was missing
        os.kill(pid, number)
