"""Runs the measurements, or those that are named: `python -m bench [gateway] [engine]`."""

from __future__ import annotations

import sys

from bench import engine, gateway

if __name__ == "__main__":
    wanted = sys.argv[1:] or ["gateway", "engine"]
    if "gateway" in wanted:
        gateway.main()
    if "engine" in wanted:
        engine.main()
