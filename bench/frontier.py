"""Throughput of each gateway with a p99 latency under 5, 10 and 50 ms, and the latency of streams.

`python -m bench.frontier [--no-money] [--without litellm,...] [--rounds N]`. All gateways use the same mock and are
measured in turn, in one run. The platform has three paths, from the least to the most work. Envoy's chain checks key,
scope and limits. Pass-through also reads the model and the usage, which are charged afterwards. The managed path
reserves, settles and records each call before its response ends. With --no-money nothing has a price or a budget.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from bench.support import targets
from bench.support.load import Load, StreamLatency, run, stream

LATENCY_LIMITS_MS = (5, 10, 50, inf)
"""Limits of the 99th percentile, in milliseconds; the last one is unlimited."""
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
SECONDS, WARM_UP = 1.5, 0.3
ROUNDS = 3
STREAMS, READERS = 10, 4
PATH = "/v1/chat/completions"
MOCK, BARE, CHAIN, PASS, MANAGED = "mock alone", "bare Envoy", "Envoy's chain", "pass-through", "managed path"

OTHER_GATEWAYS: dict[str, tuple[Callable[[int], AbstractContextManager[str]], dict[str, str]]] = {
    "vllm-router": (targets.vllm_router, {}),
    "smg": (targets.smg, {}),
    "litellm": (targets.litellm, {"authorization": f"Bearer {targets.LITELLM_KEY}"}),
}
"""Other gateways with their request headers. The first two check no key and count nothing."""


def body(**options: Any) -> bytes:
    """Return the body of a request."""
    messages = [{"role": "user", "content": ("paced " if options else "") + "How did the spread move today? " * 8}]
    return json.dumps({"model": "mock", "messages": messages, "max_tokens": 64, **options}).encode()


@dataclass
class Target:
    """A gateway with its measurements: in each round, the load by number of clients."""

    url: str
    headers: dict[str, str]
    rounds: list[dict[int, Load]] = field(default_factory=list)
    streams: list[StreamLatency] = field(default_factory=list)
    wait_until_idle: Callable[[], object] = lambda: None
    """Called after each round; returns once the gateway has finished its background work."""

    def max_rate(self, limit: float) -> float:
        """Return the maximum requests per second under a latency limit, as the median of the rounds, or 0."""
        return median(_max_rate(loads.values(), limit) for loads in self.rounds)

    @property
    def failed(self) -> int:
        """The total number of failed requests."""
        loads = [load.failed for loads in self.rounds for load in loads.values()]
        return sum(loads) + sum(stream_latency.failed for stream_latency in self.streams)

    def measure_load(self) -> None:
        """Add clients until the p99 latency exceeds the largest limit."""
        loads_by_clients: dict[int, Load] = {}
        self.rounds.append(loads_by_clients)
        for clients in CLIENTS:
            load = run(self.url, self.headers, body(), clients=clients, seconds=SECONDS, warm_up=WARM_UP)
            loads_by_clients[clients] = uvloop.run(load)
            if not loads_by_clients[clients].p99 <= LATENCY_LIMITS_MS[-2]:
                return

    def measure_streams(self) -> None:
        """Measure the latency of streamed responses."""
        measurement = stream(self.url, self.headers, body(stream=True), clients=READERS, answers=STREAMS)
        self.streams.append(uvloop.run(measurement))


def main(*, money: bool, without: tuple[str, ...] = (), rounds: int = ROUNDS) -> dict[str, Target]:
    """Measure, print the tables, and return the targets with their measurements."""
    with ExitStack() as stack:
        lags: list[float] = []
        targets_by_name = _start_targets(stack, lags, money=money, without=without)
        for number in range(rounds):
            for target in list(targets_by_name.values()) if number % 2 == 0 else reversed(targets_by_name.values()):
                target.measure_load()
                target.measure_streams()
                target.wait_until_idle()
    print(f"\nOurs with {'prices and a budget' if money else 'no money'}. Median of {rounds} rounds in changing order;")
    print(f"closed loops of 1 to {CLIENTS[-1]} clients on the machine that everything else runs on: read the ratios.")
    _print_rates(targets_by_name)
    _print_streams(targets_by_name)
    print(f"\nWhat had passed through was counted {max(lags):.1f} s after the last of it, at the most.")
    return targets_by_name


def _start_targets(stack: ExitStack, lags: list[float], *, money: bool, without: tuple[str, ...]) -> dict[str, Target]:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
    upstream = stack.enter_context(targets.mock())
    url, key = stack.enter_context(targets.platform(upstream, folder, money=money))
    bearer = {"authorization": f"Bearer {key}"}
    targets_by_name = {
        MOCK: Target(f"http://127.0.0.1:{upstream}{PATH}", {}),
        BARE: Target(stack.enter_context(targets.bare_envoy(upstream)) + PATH, {}),
        CHAIN: Target(f"{url}/bench{PATH}", bearer),
        PASS: Target(
            f"{url}/through{PATH}", bearer, wait_until_idle=lambda: lags.append(targets.wait_until_counted(folder))
        ),
        MANAGED: Target(url + PATH, bearer),
    }
    for name, (start, headers) in OTHER_GATEWAYS.items():
        if name not in without:
            targets_by_name[name] = Target(stack.enter_context(start(upstream)) + PATH, headers)
    return targets_by_name


def _max_rate(loads: Iterable[Load], limit: float) -> float:
    return max((load.rate for load in loads if load.p99 <= limit), default=0)


def _print_rates(targets_by_name: dict[str, Target]) -> None:
    headings = [f"<{limit} ms" if limit < inf else "at all" for limit in LATENCY_LIMITS_MS]
    heading_line = "".join(f"{head:>8}" for head in headings)
    print(f"\n{'':30}{'requests/s with p99':32}{'of bare Envoy':>32}\n{'':30}{heading_line}{heading_line}  failed")
    for name, target in targets_by_name.items():
        rates = "".join(f"{target.max_rate(limit):8.0f}" for limit in LATENCY_LIMITS_MS)
        print(f"{name:30}{rates}{_ratios(target, targets_by_name[BARE])}{target.failed:8}")
    for ours in (CHAIN, PASS, MANAGED):
        for other in OTHER_GATEWAYS:
            if other in targets_by_name:
                print(f"{f'{ours} / {other}':30}{_ratios(targets_by_name[ours], targets_by_name[other])}")


def _ratios(ours: Target, theirs: Target) -> str:
    """Return the ratio under each latency limit, or a dash if the other has no rate under it."""
    pairs = [(ours.max_rate(limit), theirs.max_rate(limit)) for limit in LATENCY_LIMITS_MS]
    return "".join(
        f"{ours_rate / theirs_rate:8.2f}" if theirs_rate else f"{'-':>8}" for ours_rate, theirs_rate in pairs
    )


def _print_streams(targets_by_name: dict[str, Target]) -> None:
    print(f"\nStreams, {READERS} at once, ms:  first word           each word late")
    print(f"{'':16}" + "".join(f"{head:>9}" for head in ("p50", "added", "p99", "p50", "added", "p99")))
    base = targets_by_name[MOCK].streams
    for name, target in targets_by_name.items():
        first, late = (median(getattr(s, n) for s in target.streams) for n in ("first_p50", "late_p50"))
        firsts, lates = (median(getattr(s, n) for s in target.streams) for n in ("first_p99", "late_p99"))
        added = first - median(s.first_p50 for s in base), late - median(s.late_p50 for s in base)
        print(f"{name:16}{first:9.2f}{added[0]:9.2f}{firsts:9.2f}{late:9.2f}{added[1]:9.2f}{lates:9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-money", action="store_true", help="measure without prices, budgets and limits")
    parser.add_argument("--without", default="", help=f"leave out: {', '.join(OTHER_GATEWAYS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    main(
        money=not arguments.no_money,
        without=tuple(arguments.without.split(",")),
        rounds=arguments.rounds,
    )
