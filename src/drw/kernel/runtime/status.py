"""Status report of all services of a profile."""

from __future__ import annotations

import asyncio

from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest, ServiceStatus
from drw.api.kernel.v1.kernel_rpc import ProcessClient
from drw.catalog import BY_NAME
from drw.kernel.errors import DrwError
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile, ServiceAddress

TIMEOUT_SECONDS = 2.0

State = ServiceStatus.State


async def report(profile: Profile, channels: Channels) -> list[ServiceStatus]:
    """Return the status of each service of the profile, in the order of the profile.

    The services of a process that does not respond within two seconds are DOWN.
    """
    requests = [_process_status(name, address, channels) for name, address in profile.processes.items()]
    return [status for statuses in await asyncio.gather(*requests) for status in statuses]


def healthy(services: list[ServiceStatus]) -> bool:
    """Return whether all services are ready, except those that this release does not implement."""
    return all(service.state in (State.READY, State.UNIMPLEMENTED) for service in services)


async def _process_status(name: str, address: ServiceAddress, channels: Channels) -> list[ServiceStatus]:
    try:
        client = channels.client(ProcessClient, address.grpc)
        status = await client.get_status(GetStatusRequest(), timeout=TIMEOUT_SECONDS)
    except DrwError as error:
        detail = f"the process {name!r} does not answer: {error.message}"
        return [_down(service, detail) for service in address.services]
    reported = {service.name: service for service in status.services}
    return [reported.get(s) or _down(s, f"the process {name!r} runs without it") for s in address.services]


def _down(service: str, detail: str) -> ServiceStatus:
    return ServiceStatus(name=service, cluster=BY_NAME[service].cluster, state=State.DOWN, detail=detail)
