"""Runs all short benchmarks, or those named: `python -m bench [gateway] [engine] [frontier]`.

The longer ones have commands of their own: `python -m bench.soak`, `python -m bench.fuzz`.
"""

from __future__ import annotations

import argparse

from bench import engine, frontier, gateway

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench", description="The short benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="gateway, engine or frontier; default: gateway engine")
    names = parser.parse_args().names or ["gateway", "engine"]
    if unknown := set(names) - {"gateway", "engine", "frontier"}:
        parser.error(f"there is no benchmark {min(unknown)!r}; there are: gateway, engine, frontier")
    if "gateway" in names:
        gateway.main()
    if "engine" in names:
        engine.main()
    if "frontier" in names:
        frontier.main(money=True)
