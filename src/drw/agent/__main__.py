"""Runs the agent until it is told to stop: `python -m drw.agent FILE...`, with the files of the profile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from drw.agent.agent import Agent
from drw.agent.envoy import plane
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel import telemetry
from drw.kernel.errors import DrwError
from drw.kernel.rpc import Channels
from drw.kernel.settings import Layers, Profile


def main(files: Sequence[Path]) -> int:
    """Run the agent of the profile in these files; return the exit code."""
    try:
        profile = Layers(files).profile()
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # Envoy is run to check files; it never comes back here
        telemetry.set_up("agent", profile.otlp_endpoint)
        uvloop.run(_run(profile))
    except DrwError as error:
        print(f"drw agent: {error.message}", file=sys.stderr)
        return 1
    finally:
        telemetry.flush()
    return 0


async def _run(profile: Profile) -> None:
    plane(profile)  # without one there is nothing to do here
    channels = Channels()
    router = channels.client(RequestRouterClient, profile.place("request_router").grpc)
    work = asyncio.create_task(Agent(profile, router).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await asyncio.wait({work})
        if not work.cancelled():
            work.result()
    finally:
        await channels.close()


if __name__ == "__main__":
    sys.exit(main([Path(file) for file in sys.argv[1:]]))
