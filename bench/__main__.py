"""Runs all short benchmarks, or those named: `python -m bench [gateway] [engine] [frontier]`.

The longer ones have commands of their own: `python -m bench.soak`, `python -m bench.fuzz`.
"""

from __future__ import annotations

import sys

from bench import engine, frontier, gateway

if __name__ == "__main__":
    names = sys.argv[1:] or ["gateway", "engine"]
    if "gateway" in names:
        gateway.main()
    if "engine" in names:
        engine.main()
    if "frontier" in names:
        frontier.main(money=True)
