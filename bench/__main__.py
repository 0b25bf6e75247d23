"""Runs the measurements, or those that are named: `python -m bench [gateway] [engine] [frontier]`.

The longer ones are run by themselves: `python -m bench.soak`, `python -m bench.fuzz`.
"""

from __future__ import annotations

import sys

from bench import engine, frontier, gateway

if __name__ == "__main__":
    wanted = sys.argv[1:] or ["gateway", "engine"]
    if "gateway" in wanted:
        gateway.main()
    if "engine" in wanted:
        engine.main()
    if "frontier" in wanted:
        frontier.main(money=True)
