"""A hundred changes of routes, weights, upstreams and limits under load: duration of each, and failed requests."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from bench.support import targets
from bench.support.load import Load, run

CHANGES = 100
CLIENTS = 8
APPLY_SECONDS = 30.0
BODY = json.dumps({"model": "passed", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}).encode()
PATH = "/v1/chat/completions"


def main(changes: int = CHANGES) -> None:
    """Measure, and print the results."""
    with (
        TemporaryDirectory(prefix="drw-", dir="/tmp") as folder,
        targets.mock() as first_port,
        targets.mock() as second_port,
    ):
        scopes = ("models:invoke", "platform:admin", "platform:read", "keys:write", "models:read")
        with targets.platform(first_port, Path(folder), scopes) as (url, key):
            asyncio.run(_measure(url, key, first_port, second_port, changes))


async def _measure(url: str, key: str, first_port: int, second_port: int, changes: int) -> None:
    bearer = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=bearer, timeout=30) as client:
        for number in range(2):
            await _change(client, number, first_port, second_port)
        stop = asyncio.Event()
        load_task = asyncio.create_task(_load_until(stop, url, bearer))
        durations = [await _change(client, number, first_port, second_port) for number in range(2, changes + 2)]
        stop.set()
        loads = await load_task
    _print(sorted(durations), loads)


async def _load_until(stop: asyncio.Event, url: str, headers: dict[str, str]) -> list[Load]:
    loads = []
    while not stop.is_set():
        loads.append(await run(url + PATH, headers, BODY, clients=CLIENTS, seconds=2.0, warm_up=0.0))
    return loads


async def _change(client: httpx.AsyncClient, number: int, first_port: int, second_port: int) -> float:
    """Make one change, and wait until the data plane has applied it; return the seconds."""
    before, started_at = await _version(client), time.perf_counter()
    kind = number % 4
    if kind == 3:
        body: dict[str, Any] = {"name": "bench", "scopes": ["models:read"], "requests_per_minute": 100 + number}
        response = await client.post("/api/v1/keys", json=body)
    elif kind == 2:
        body = {"path": f"/v1/spare{number}", "upstream": "models", "scopes": ["models:read"]}
        response = await client.put("/api/v1/routes/spare", json=body)
    elif kind == 1:
        shares = [{"upstream": "a", "weight": 1 + number % 7}, {"upstream": "b", "weight": 1 + number % 5}]
        body = {"path": PATH, "models": ["passed"], "pass_through": True, "split": shares}
        response = await client.put("/api/v1/routes/passed", json=body)
    else:
        for name, port in (("a", first_port), ("b", second_port)):
            body = {"addresses": [f"127.0.0.1:{port}"], "max_requests": 1000 + number}
            response = await client.put(f"/api/v1/upstreams/{name}", json=body)
            response.raise_for_status()
    response.raise_for_status()
    while await _version(client) in (before, ""):
        if time.perf_counter() - started_at > APPLY_SECONDS:
            raise TimeoutError(f"the change {number} was not taken within {APPLY_SECONDS} s")
        await asyncio.sleep(0.01)
    return time.perf_counter() - started_at


async def _version(client: httpx.AsyncClient) -> str:
    """Return the desired version if the data plane runs it, or an empty string."""
    rollout = (await client.get("/api/v1/rollout")).json()
    (plane,) = rollout["data_planes"]
    if plane["error"]:
        raise RuntimeError(plane["error"])
    return str(rollout["version"]) if plane["version"] == rollout["version"] else ""


def _print(durations: list[float], loads: list[Load]) -> None:
    requests = sum(load.rate * 2.0 for load in loads)
    p50, p99 = durations[len(durations) // 2], durations[min(len(durations) - 1, int(len(durations) * 0.99))]
    print(f"\n{len(durations)} changes of weights, routes, upstreams and limits, each taken before the next")
    print(f"a change takes {p50 * 1000:.0f} ms at the median, {p99 * 1000:.0f} ms at p99, Envoy's own check included")
    failed = sum(load.failed for load in loads)
    print(f"meanwhile {CLIENTS} clients sent {requests:.0f} requests; failed: {failed} (aim: 0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.reload", description="Changes of the configuration under load.")
    parser.add_argument("changes", nargs="?", type=int, default=CHANGES)
    main(parser.parse_args().changes)
