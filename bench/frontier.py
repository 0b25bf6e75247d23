"""How many requests a second each gateway answers while 99 of 100 stay under 5, 10 and 50 ms; and what streams cost.

`python -m bench.frontier [--no-money] [--without litellm,...] [--rounds N]`. Everything stands in front of the same
mock, in one run, by turns. Our three ways, from the least to the most: Envoy's chain checks a key, a scope and the
limits; past model serving, it reads the model and the usage too, which are charged and recorded afterwards; managed,
each call is reserved, settled and recorded before its answer ends. Without money nothing has a price or a budget.
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
from bench.support.load import Load, Streamed, run, stream

BOUNDS = (5, 10, 50, inf)
"""Milliseconds, for the 99th percentile; the last is no bound: the most that was seen at all."""
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
SECONDS, WARM_UP = 1.5, 0.3
ROUNDS = 3
STREAMS, READERS = 10, 4
PATH = "/v1/chat/completions"
MOCK, BARE, CHAIN, PASS, MANAGED = "mock alone", "bare Envoy", "Envoy's chain", "pass-through", "managed path"

OTHERS: dict[str, tuple[Callable[[int], AbstractContextManager[str]], dict[str, str]]] = {
    "vllm-router": (targets.vllm_router, {}),
    "smg": (targets.smg, {}),
    "litellm": (targets.litellm, {"authorization": f"Bearer {targets.LITELLM_KEY}"}),
}
"""Other gateways, and the headers that they want: the first two ask for no key, and count nothing."""


def body(**more: Any) -> bytes:
    """Return the body of a request."""
    said = [{"role": "user", "content": ("paced " if more else "") + "How did the spread move today? " * 8}]
    return json.dumps({"model": "mock", "messages": said, "max_tokens": 64, **more}).encode()


@dataclass
class Target:
    """A gateway, and what was measured of it: in each round a load by the number of clients."""

    url: str
    headers: dict[str, str]
    rounds: list[dict[int, Load]] = field(default_factory=list)
    streams: list[Streamed] = field(default_factory=list)
    after: Callable[[], object] = lambda: None
    """What is waited for before the next one's turn."""

    def rate(self, bound: float) -> float:
        """Return the most requests a second under a bound, as the median of the rounds; 0 where none was."""
        return median(_most(loads.values(), bound) for loads in self.rounds)

    @property
    def failed(self) -> int:
        """How many requests failed in all."""
        loads = [load.failed for loads in self.rounds for load in loads.values()]
        return sum(loads) + sum(streamed.failed for streamed in self.streams)

    def climb(self) -> None:
        """Add clients until 99 of 100 requests take longer than the widest bound."""
        found: dict[int, Load] = {}
        self.rounds.append(found)
        for clients in CLIENTS:
            load = run(self.url, self.headers, body(), clients=clients, seconds=SECONDS, warm_up=WARM_UP)
            found[clients] = uvloop.run(load)
            if not found[clients].p99 <= BOUNDS[-2]:
                return

    def read(self) -> None:
        """Read streamed answers."""
        asked = stream(self.url, self.headers, body(stream=True), clients=READERS, answers=STREAMS)
        self.streams.append(uvloop.run(asked))


def main(*, money: bool, without: tuple[str, ...] = (), rounds: int = ROUNDS) -> dict[str, Target]:
    """Measure, print the tables, and return what was measured."""
    with ExitStack() as stack:
        lags: list[float] = []
        found = _started(stack, lags, money=money, without=without)
        for number in range(rounds):
            for target in list(found.values()) if number % 2 == 0 else reversed(found.values()):
                target.climb()
                target.read()
                target.after()
    print(f"\nOurs with {'prices and a budget' if money else 'no money'}. Median of {rounds} rounds in changing order;")
    print(f"closed loops of 1 to {CLIENTS[-1]} clients on the machine that everything else runs on: read the ratios.")
    _print_rates(found)
    _print_streams(found)
    print(f"\nWhat had passed through was counted {max(lags):.1f} s after the last of it, at the most.")
    return found


def _started(stack: ExitStack, lags: list[float], *, money: bool, without: tuple[str, ...]) -> dict[str, Target]:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
    upstream = stack.enter_context(targets.mock())
    url, key = stack.enter_context(targets.platform(upstream, folder, money=money))
    bearer = {"authorization": f"Bearer {key}"}
    found = {
        MOCK: Target(f"http://127.0.0.1:{upstream}{PATH}", {}),
        BARE: Target(stack.enter_context(targets.bare_envoy(upstream)) + PATH, {}),
        CHAIN: Target(f"{url}/bench{PATH}", bearer),
        PASS: Target(f"{url}/through{PATH}", bearer, after=lambda: lags.append(targets.counted(folder))),
        MANAGED: Target(url + PATH, bearer),
    }
    for name, (start, headers) in OTHERS.items():
        if name not in without:
            found[name] = Target(stack.enter_context(start(upstream)) + PATH, headers)
    return found


def _most(loads: Iterable[Load], bound: float) -> float:
    return max((load.rate for load in loads if load.p99 <= bound), default=0)


def _print_rates(found: dict[str, Target]) -> None:
    heads = [f"<{bound} ms" if bound < inf else "at all" for bound in BOUNDS]
    shown = "".join(f"{head:>8}" for head in heads)
    print(f"\n{'':30}{'requests/s with p99':32}{'of bare Envoy':>32}\n{'':30}{shown}{shown}  failed")
    for name, target in found.items():
        rates = "".join(f"{target.rate(bound):8.0f}" for bound in BOUNDS)
        print(f"{name:30}{rates}{_ratios(target, found[BARE])}{target.failed:8}")
    for ours in (CHAIN, PASS, MANAGED):
        for other in OTHERS:
            if other in found:
                print(f"{f'{ours} / {other}':30}{_ratios(found[ours], found[other])}")


def _ratios(ours: Target, theirs: Target) -> str:
    """Return the ratios by bound; a dash where the other reaches nothing under it."""
    pairs = [(ours.rate(bound), theirs.rate(bound)) for bound in BOUNDS]
    return "".join(f"{mine / other:8.2f}" if other else f"{'-':>8}" for mine, other in pairs)


def _print_streams(found: dict[str, Target]) -> None:
    print(f"\nStreams, {READERS} at once, ms:  first word           each word late")
    print(f"{'':16}" + "".join(f"{head:>9}" for head in ("p50", "added", "p99", "p50", "added", "p99")))
    base = found[MOCK].streams
    for name, target in found.items():
        first, late = (median(getattr(s, n) for s in target.streams) for n in ("first_p50", "late_p50"))
        firsts, lates = (median(getattr(s, n) for s in target.streams) for n in ("first_p99", "late_p99"))
        more = first - median(s.first_p50 for s in base), late - median(s.late_p50 for s in base)
        print(f"{name:16}{first:9.2f}{more[0]:9.2f}{firsts:9.2f}{late:9.2f}{more[1]:9.2f}{lates:9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-money", action="store_true", help="measure without prices, budgets and limits")
    parser.add_argument("--without", default="", help=f"leave out: {', '.join(OTHERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    main(
        money=not given.no_money,
        without=tuple(given.without.split(",")),
        rounds=given.rounds,
    )
