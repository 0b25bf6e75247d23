"""Requests per second and added latency of Envoy's chain, the managed path, a bare Envoy and LiteLLM, in one run."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop

from bench.support import targets
from bench.support.load import Load, run

ROUNDS = 5
BODY = json.dumps(
    {
        "model": "mock",
        "messages": [{"role": "user", "content": "How did the spread move today? " * 8}],
        "max_tokens": 16,
    }
).encode()
MOCK, BARE, CHAIN, MANAGED, LITELLM = "mock alone", "bare Envoy", "Envoy's chain", "managed path", "LiteLLM"


def main(seconds: float = 2.0, *, with_litellm: bool = True) -> dict[str, dict[int, list[Load]]]:
    """Measure, print the table, and return the loads by target and number of clients."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="drw-", dir="/tmp")))
        upstream = stack.enter_context(targets.mock())
        url, key = stack.enter_context(targets.platform(upstream, folder))
        bearer = {"authorization": f"Bearer {key}"}
        path = "/v1/chat/completions"
        targets_by_name = {
            MOCK: (f"http://127.0.0.1:{upstream}{path}", {}),
            BARE: (stack.enter_context(targets.bare_envoy(upstream)) + path, {}),
            CHAIN: (f"{url}/bench{path}", bearer),
            MANAGED: (f"{url}{path}", bearer),
        }
        if with_litellm:
            address = stack.enter_context(targets.litellm(upstream))
            targets_by_name[LITELLM] = (address + path, {"authorization": f"Bearer {targets.LITELLM_KEY}"})
        loads: dict[str, dict[int, list[Load]]] = {name: {1: [], 16: []} for name in targets_by_name}
        for number in range(ROUNDS):
            order = list(targets_by_name) if number % 2 == 0 else list(reversed(targets_by_name))
            for clients in (1, 16):
                for name in order:
                    load = uvloop.run(
                        run(targets_by_name[name][0], targets_by_name[name][1], BODY, clients=clients, seconds=seconds)
                    )
                    loads[name][clients].append(load)
    _print(loads)
    return loads


def _print(loads: dict[str, dict[int, list[Load]]]) -> None:
    def median_of(name: str, clients: int, field: str) -> float:
        return median(getattr(load, field) for load in loads[name][clients])

    print(f"\nMedian of {ROUNDS} rounds in changing order; one process sends, on the same machine.\n")
    headings = ("p50 ms", "added", "p99 ms", "added", "req/s 1", "req/s 16", "p99 16")
    print(f"{'':14}" + "".join(f"{head:>9}" for head in headings) + " failed")
    for name in loads:
        p50, p99 = median_of(name, 1, "p50"), median_of(name, 1, "p99")
        added50, added99 = p50 - median_of(MOCK, 1, "p50"), p99 - median_of(MOCK, 1, "p99")
        failed = sum(load.failed for repeated in loads[name].values() for load in repeated)
        print(
            f"{name:14}{p50:9.2f}{added50:9.2f}{p99:9.2f}{added99:9.2f}{median_of(name, 1, 'rate'):9.0f}"
            f"{median_of(name, 16, 'rate'):9.0f}{median_of(name, 16, 'p99'):9.1f}{failed:7}"
        )
    base = median_of(MOCK, 1, "p50")
    ratio = (median_of(CHAIN, 1, "p50") - base) / (median_of(BARE, 1, "p50") - base)
    print(f"\nEnvoy's chain adds {ratio:.2f} times what a bare Envoy adds, at one client (aim: at most 1.4)")
    print(f"the managed path adds {median_of(MANAGED, 1, 'p50') - base:.2f} ms at one client (aim: at most 2.5)")
    if LITELLM in loads:
        speedup = median_of(MANAGED, 16, "rate") / median_of(LITELLM, 16, "rate")
        print(f"the managed path makes {speedup:.1f} times LiteLLM's requests/s at 16 clients (aim: at least 20)")


if __name__ == "__main__":
    main()
