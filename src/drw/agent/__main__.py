"""Runs the agent until SIGTERM: `python -m drw.agent FILE...`, with the files of the profile."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from drw.agent.agent import Agent
from drw.agent.delivery.envoy import data_plane_settings
from drw.agent.reporting.usage import UsageLog
from drw.agent.xds.translation import EdgeOptions
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.catalog import AGENT
from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.mutual_tls import identities_of
from drw.kernel.runtime.settings import Profile, SettingLayers


def main(files: Sequence[Path]) -> int:
    """Run the agent of the profile in these files; return the exit code."""
    try:
        return run(SettingLayers(files).profile())
    except DrwError as error:
        print(f"drw agent: {error.message}", file=sys.stderr)
        return 1


def run(profile: Profile) -> int:
    """Run the agent of a profile until SIGTERM; return the exit code."""
    try:
        telemetry.set_up("agent", profile.otlp_endpoint)
        # Not uvloop, whose fork is unsafe with gRPC's threads; asyncio's is safe.
        asyncio.run(_run(profile))
    finally:
        telemetry.flush()
    return 0


async def _run(profile: Profile) -> None:
    data_plane_settings(profile)  # no data plane: nothing to do
    channels = Channels(identities_of(profile), AGENT)
    router = channels.client(RequestRouterClient, profile.address_of("request_router").grpc)
    limiting = channels.client(RateLimitingClient, profile.address_of("rate_limiting").grpc)
    usage = UsageLog(EdgeOptions.of(profile), profile.name, limiting)
    task = asyncio.create_task(_run_all(Agent(profile, router), usage))
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, task.cancel)
    try:
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
    finally:
        await channels.close()


async def _run_all(agent: Agent, usage: UsageLog) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run())
        tasks.create_task(usage.run())


if __name__ == "__main__":
    sys.exit(main([Path(file) for file in sys.argv[1:]]))
