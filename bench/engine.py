"""Tokens per second through the platform and directly from the engine, in one run.

`--rounds 40` measures in more rounds. The interval is the 95 % confidence interval of the ratio, from the logarithm of
the ratio of each round (bootstrap). Rounds alternate both paths, so a change of the machine's speed affects both.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp
import numpy as np

from bench.support.targets import DRW
from drw.local.paths import PlatformPaths

ROUNDS = 5
CONCURRENCY = (1, 4, 8)
TOKENS = 64
RESAMPLES = 10_000
MODEL = "smollm2-135m-instruct"


def main(rounds: int = ROUNDS, concurrency: Sequence[int] = CONCURRENCY) -> None:
    """Measure, and print the table."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
        subprocess.run(
            [DRW, "up", "--detach", "--port", "0", "--data-dir", data], check=True, stdout=subprocess.DEVNULL
        )
        stack.callback(lambda: subprocess.run([DRW, "down", "--data-dir", data], stdout=subprocess.DEVNULL))
        credentials = json.loads((data / "credentials.json").read_text())
        engine = PlatformPaths.of(data).engine
        asyncio.run(_compare(credentials["url"], credentials["api_key"], str(engine), rounds, concurrency))


async def _compare(url: str, key: str, engine: str, rounds: int, concurrency: Sequence[int]) -> None:
    print(f"\nTokens a second, {TOKENS} tokens an answer; median of {rounds} rounds in changing order.\n")
    print(f"{'at once':>8} {'bare engine':>12} {'platform':>10} {'ratio':>7}   95 % interval")
    for clients in concurrency:
        rates: dict[str, list[float]] = {"bare": [], "platform": []}
        for number in range(rounds):
            for name in ("bare", "platform") if number % 2 == 0 else ("platform", "bare"):
                rates[name].append(await _rate(name, url, key, engine, clients))
        bare, platform = median(rates["bare"]), median(rates["platform"])
        ratio, low, high = _ratio([b / a for a, b in zip(rates["bare"], rates["platform"], strict=True)])
        print(f"{clients:8} {bare:12.1f} {platform:10.1f} {ratio:7.3f}   {low:.3f} to {high:.3f}")


def _ratio(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios with its confidence interval."""
    logs = np.log(ratios)
    means = np.random.default_rng(1).choice(logs, (RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.exp(np.percentile(means, (2.5, 97.5)))
    return float(np.exp(logs.mean())), float(low), float(high)


async def _rate(name: str, url: str, key: str, engine: str, clients: int) -> float:
    connector = aiohttp.UnixConnector(engine, force_close=True) if name == "bare" else None
    base_url = "http://engine" if name == "bare" else url
    async with aiohttp.ClientSession(connector=connector, headers={"authorization": f"Bearer {key}"}) as session:
        started_at = time.perf_counter()
        tokens = await asyncio.gather(
            *(_count_tokens(session, base_url, f"{number} {started_at}") for number in range(clients))
        )
        return sum(tokens) / (time.perf_counter() - started_at)


async def _count_tokens(session: aiohttp.ClientSession, base: str, prompt_prefix: str) -> int:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{prompt_prefix}: describe the sea in many words."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tokens = 0
    async with session.post(f"{base}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
                tokens = usage["completion_tokens"]
    return tokens


if __name__ == "__main__":
    parser = ArgumentParser(prog="bench.engine", description="Tokens a second beside the bare engine.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least 2")
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY, help="concurrent requests")
    options = parser.parse_args()
    main(options.rounds, options.concurrency)
