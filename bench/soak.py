"""Memory while the platform is under load: `python -m bench.soak [--minutes 20] [--clients 8] [--no-money]`.

Every few seconds it reads the memory of Envoy and of the service processes: RSS; PSS, in which shared pages count
proportionally; and anonymous PSS, the memory that a process has allocated. It fits a line to the anonymous memory after
the warm-up. The slope, with its 95 % confidence interval, should be about zero: if by the lower end of the interval a
process has gained more than 1 MB, the command exits with 1.
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
INTERVAL_SECONDS = 5.0
WARM_UP_SHARE = 0.25
"""Share of the time that is warm-up, in which caches and pools grow."""
PROCESSES = ("envoy", "agent", "gateway", "models", "rag", "workflow")
TOLERATED_MB = 1.0
"""Tolerated growth since the warm-up, by the lower end of the interval. Allocators cause less than this."""


@dataclass
class Memory:
    """Memory readings of one process in MB, with the seconds since the start."""

    seconds: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)
    anonymous: list[float] = field(default_factory=list)
    """Anonymous PSS: allocated memory, without pages of files."""

    def add(self, seconds: float, pid: int) -> None:
        """Add a reading of a process and its children."""
        process = psutil.Process(pid)
        memory_infos = [info.memory_full_info() for info in (process, *process.children(recursive=True))]
        self.seconds.append(seconds)
        self.rss.append(sum(info.rss for info in memory_infos) / 1e6)
        self.pss.append(sum(info.pss for info in memory_infos) / 1e6)
        self.anonymous.append(sum(_anonymous(info.pid) for info in (process, *process.children(recursive=True))) / 1e6)

    def slope(self, start: float) -> tuple[float, float]:
        """Return the slope of the anonymous memory from `start` on in MB an hour, and half of its 95 % interval.

        Readings are autocorrelated, so the interval uses the effective sample size (Bartlett: n (1 - r) / (1 + r)).
        """
        seconds, anonymous = np.array(self.seconds), np.array(self.anonymous)
        hours, memory = seconds[seconds >= start] / 3600, anonymous[seconds >= start]
        if len(hours) < 4:
            return float("nan"), float("nan")
        slope, base = np.polyfit(hours, memory, 1)
        residuals = memory - (slope * hours + base)
        spread = float(residuals @ residuals)
        r = min(0.99, max(0.0, float(residuals[1:] @ residuals[:-1]) / spread)) if spread > 0 else 0.0
        degrees_of_freedom = max(1.0, len(hours) * (1 - r) / (1 + r) - 2)
        error = np.sqrt(spread / degrees_of_freedom / ((hours - hours.mean()) @ (hours - hours.mean())))
        return float(slope), float(1.96 * error)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) * 1024


def main(minutes: float = MINUTES, clients: int = CLIENTS, *, money: bool = False) -> int:
    """Load the platform, print the table; return 1 if a process leaks memory or requests failed."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
        upstream = stack.enter_context(targets.mock())
        url, key = stack.enter_context(targets.platform(upstream, data, money=money))
        bearer = {"authorization": f"Bearer {key}"}
        memory_by_process, sent, failed = asyncio.run(_soak(url, bearer, data, minutes * 60, clients))
    start = minutes * 60 * WARM_UP_SHARE
    print(
        f"\n{minutes:g} minutes, {clients} clients, {sent} requests, {failed} not answered as they should be; "
        f"the first {start / 60:.1f} minutes are warm-up.\n"
    )
    heads = "".join(f"{head:>12}{'last':>8}" for head in ("RSS first", "PSS first", "own first"))
    print(f"{'MB':10}{heads}{'slope, MB an hour':>20}{'95 %':>18}")
    leaks = [name for name, memory in memory_by_process.items() if _print(name, memory, start)]
    print(f"\n{'grows: ' + ', '.join(leaks) if leaks else 'no part grows'}")
    return 1 if leaks or failed else 0


def _print(name: str, memory: Memory, start: float) -> bool:
    slope, half_width = memory.slope(start)
    readings = "".join(f"{kind[0]:12.1f}{kind[-1]:8.1f}" for kind in (memory.rss, memory.pss, memory.anonymous))
    print(f"{name:10}{readings}{slope:20.2f}{f'{slope - half_width:.1f} to {slope + half_width:.1f}':>18}")
    return (slope - half_width) * (memory.seconds[-1] - start) / 3600 > TOLERATED_MB


async def _soak(
    url: str, bearer: dict[str, str], data: Path, seconds: float, clients: int
) -> tuple[dict[str, Memory], int, int]:
    memory_by_process = {name: Memory() for name in PROCESSES}
    started_at = time.monotonic()
    load = asyncio.create_task(_load(url, bearer, started_at + seconds, clients))
    first_pids = await asyncio.to_thread(_pids, data)
    while not load.done():
        pids = await asyncio.to_thread(_pids, data)
        assert pids == first_pids, f"a process was restarted: {first_pids} are now {pids}"
        for name, memory in memory_by_process.items():
            memory.add(time.monotonic() - started_at, pids[name])
        print(f"\r{time.monotonic() - started_at:6.0f} s", end="", flush=True)
        await asyncio.wait([load], timeout=INTERVAL_SECONDS)
    return memory_by_process, *load.result()


async def _load(url: str, bearer: dict[str, str], deadline: float, clients: int) -> tuple[int, int]:
    """Send a mix of requests: plain, streamed, rejected, and on both paths around model serving.

    Return the number of requests, and of those with an unexpected response.
    """
    sent = failed = 0
    unknown_model = json.dumps({"model": "none", "messages": [{"role": "user", "content": "x"}]}).encode()
    while time.monotonic() < deadline:
        for path, payload, headers, status in (
            (PATH, body(), bearer, 200),
            (f"/bench{PATH}", body(), bearer, 200),
            (f"/through{PATH}", body(), bearer, 200),
            (PATH, unknown_model, bearer, 404),
            (PATH, body(), {"authorization": "Bearer wrong"}, 401),
        ):
            load = await run(url + path, headers, payload, clients=clients, seconds=2, warm_up=0, status=status)
            sent += int(load.rate * 2) + load.failed
            failed += load.failed
        stream_latency = await stream(url + PATH, bearer, body(stream=True), clients=clients, answers=5)
        sent += clients * 5
        failed += stream_latency.failed
    return sent, failed


def _pids(data: Path) -> dict[str, int]:
    status = subprocess.run(
        [targets.DRW, "status", "--json", "--data-dir", data], capture_output=True, text=True, check=False
    )
    return {part["name"]: part["pid"] for part in json.loads(status.stdout)["processes"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--no-money", action="store_true", help="without prices, budgets and limits")
    arguments = parser.parse_args()
    sys.exit(main(arguments.minutes, arguments.clients, money=not arguments.no_money))
