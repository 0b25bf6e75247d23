"""Runs one process of a profile until SIGTERM: `python -m drw.kernel.runtime.process NAME FILE...`."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry
from drw.kernel.rpc import start_times
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, SettingLayers

YOUNG_OBJECTS = 7_000
"""Threshold of the garbage collector's youngest generation. Python's default of 700 makes it traverse the objects of
calls in flight repeatedly. Calls leave no reference cycles, even if they fail."""


def main(name: str, files: Sequence[Path]) -> int:
    """Run the process `name` of the profile in these files; return the exit code."""
    try:
        return run(SettingLayers(files).profile(), name)
    except DrwError as error:
        print(f"drw {name}: {error.message}", file=sys.stderr)
        return 1


def run(profile: Profile, name: str) -> int:
    """Run the process `name` of the profile until SIGTERM; return the exit code.

    Raises:
        DrwError: the process could not start.
    """
    try:
        start_times.configure(
            profile.starts, {service: name for name, each in profile.processes.items() for service in each.services}
        )
        telemetry.set_up(name, profile.otlp_endpoint)
        uvloop.run(_run(profile, name))
    finally:
        telemetry.flush()
    return 0


async def _run(profile: Profile, name: str) -> None:
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_requested.set)
    host = Host(profile, name)
    try:
        await host.start()
        gc.collect()
        gc.freeze()  # these objects live until the end: exclude them from collections
        gc.set_threshold(YOUNG_OBJECTS)
        await stop_requested.wait()
    finally:
        await host.stop(profile.drain_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], [Path(file) for file in sys.argv[2:]]))
