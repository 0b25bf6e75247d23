"""Memory while the platform is under load: `python -m bench.soak [--minutes 20] [--clients 8] [--no-money]`.

Every few seconds the memory of Envoy and of the processes of services is read: RSS; PSS, in which a page that several
processes share counts once; and of that the anonymous part, the memory that a process has asked for as its own: pages
of files become anybody's as soon as another program maps them too. A line is laid through the own memory after the
warm-up. Its slope, with the 95 % confidence interval, is to be about zero: by
the lower end of the interval no part may have gained more than 1 MB, or the command ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from bench.frontier import PATH, body
from bench.support import targets
from bench.support.load import run, stream

MINUTES, CLIENTS = 20.0, 8
EVERY_SECONDS = 5.0
WARM_UP_SHARE = 0.25
"""How much of the time is warm-up: caches fill, pools grow to what the load needs."""
PROCESSES = ("envoy", "agent", "gateway", "models", "rag", "workflow")
TOLERATED_MB = 1.0
"""What a process may have gained since the warm-up, by the lower end of the interval, before it counts as a leak: below
this lies what allocators do."""


@dataclass
class Memory:
    """What one part held, in MB, by the second since the start."""

    at: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    """Anonymous memory, its share: what is allocated. Pages of files come and go with whoever else maps them."""

    def add(self, at: float, pid: int) -> None:
        """Read a process and what it has started."""
        process = psutil.Process(pid)
        found = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
        self.at.append(at)
        self.rss.append(sum(one.rss for one in found) / 1e6)
        self.pss.append(sum(one.pss for one in found) / 1e6)
        self.own.append(sum(_anonymous(one.pid) for one in (process, *process.children(recursive=True))) / 1e6)

    def slope(self, start: float) -> tuple[float, float]:
        """Return the slope of the own memory from `start` on in MB an hour, and half of its 95 % interval.

        Neighbouring readings resemble each other, so the interval is that of as many independent ones as their
        autocorrelation leaves (Bartlett: n (1 - r) / (1 + r)).
        """
        at, own = np.array(self.at), np.array(self.own)
        hours, held = at[at >= start] / 3600, own[at >= start]
        if len(hours) < 4:
            return float("nan"), float("nan")
        slope, base = np.polyfit(hours, held, 1)
        rest = held - (slope * hours + base)
        spread = float(rest @ rest)
        r = min(0.99, max(0.0, float(rest[1:] @ rest[:-1]) / spread)) if spread > 0 else 0.0
        free = max(1.0, len(hours) * (1 - r) / (1 + r) - 2)
        error = np.sqrt(spread / free / ((hours - hours.mean()) @ (hours - hours.mean())))
        return float(slope), float(1.96 * error)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) * 1024


def main(minutes: float = MINUTES, clients: int = CLIENTS, *, money: bool = False) -> int:
    """Load the platform for so long, print the table; return 1 where a part leaks, ends, or does not do its work."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
        upstream = stack.enter_context(targets.mock())
        url, key = stack.enter_context(targets.platform(upstream, data, money=money))
        bearer = {"authorization": f"Bearer {key}"}
        found, sent, failed = asyncio.run(_soak(url, bearer, data, minutes * 60, clients))
    start = minutes * 60 * WARM_UP_SHARE
    print(
        f"\n{minutes:g} minutes, {clients} clients, {sent} requests, {failed} not answered as they should be; "
        f"the first {start / 60:.1f} minutes are warm-up.\n"
    )
    heads = "".join(f"{head:>12}{'last':>8}" for head in ("RSS first", "PSS first", "own first"))
    print(f"{'MB':10}{heads}{'slope, MB an hour':>20}{'95 %':>18}")
    leaks = [name for name, memory in found.items() if _print(name, memory, start)]
    print(f"\n{'grows: ' + ', '.join(leaks) if leaks else 'no part grows'}")
    return 1 if leaks or failed else 0


def _print(name: str, memory: Memory, start: float) -> bool:
    slope, half = memory.slope(start)
    ends = "".join(f"{kind[0]:12.1f}{kind[-1]:8.1f}" for kind in (memory.rss, memory.pss, memory.own))
    print(f"{name:10}{ends}{slope:20.2f}{f'{slope - half:.1f} to {slope + half:.1f}':>18}")
    return (slope - half) * (memory.at[-1] - start) / 3600 > TOLERATED_MB


async def _soak(
    url: str, bearer: dict[str, str], data: Path, seconds: float, clients: int
) -> tuple[dict[str, Memory], int, int]:
    found = {name: Memory() for name in PROCESSES}
    began = time.monotonic()
    load = asyncio.create_task(_load(url, bearer, began + seconds, clients))
    before = await asyncio.to_thread(_pids, data)
    while not load.done():
        pids = await asyncio.to_thread(_pids, data)
        assert pids == before, f"a part has ended and begun anew: {before} are now {pids}"
        for name, memory in found.items():
            memory.add(time.monotonic() - began, pids[name])
        print(f"\r{time.monotonic() - began:6.0f} s", end="", flush=True)
        await asyncio.wait([load], timeout=EVERY_SECONDS)
    return found, *load.result()


async def _load(url: str, bearer: dict[str, str], end: float, clients: int) -> tuple[int, int]:
    """Send what a day has in it, by turns: whole answers, streams, refusals, both ways past model serving.

    Return how many, and how many of them were not answered as they should be.
    """
    sent = failed = 0
    wrong = json.dumps({"model": "none", "messages": [{"role": "user", "content": "x"}]}).encode()
    while time.monotonic() < end:
        for path, asked, headers, status in (
            (PATH, body(), bearer, 200),
            (f"/bench{PATH}", body(), bearer, 200),
            (f"/through{PATH}", body(), bearer, 200),
            (PATH, wrong, bearer, 404),
            (PATH, body(), {"authorization": "Bearer wrong"}, 401),
        ):
            loaded = await run(url + path, headers, asked, clients=clients, seconds=2, warm_up=0, status=status)
            sent += int(loaded.rate * 2) + loaded.failed
            failed += loaded.failed
        streamed = await stream(url + PATH, bearer, body(stream=True), clients=clients, answers=5)
        sent += clients * 5
        failed += streamed.failed
    return sent, failed


def _pids(data: Path) -> dict[str, int]:
    said = subprocess.run(
        [targets.DRW, "status", "--json", "--data-dir", data], capture_output=True, text=True, check=False
    )
    return {part["name"]: part["pid"] for part in json.loads(said.stdout)["processes"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--no-money", action="store_true", help="without prices, budgets and limits")
    given = parser.parse_args()
    sys.exit(main(given.minutes, given.clients, money=not given.no_money))
