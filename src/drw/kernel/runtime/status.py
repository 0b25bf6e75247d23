"""Status report of all services of a profile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from drw.api.kernel.v1.kernel_pb2 import GetStatusRequest, ProcessStatus, ServiceStatus
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
    return services_of(profile, await process_statuses(profile, channels))


async def process_statuses(profile: Profile, channels: Channels) -> dict[str, ProcessStatus | DrwError]:
    """Return the answer of each process, or the error of one that does not respond within two seconds."""
    answers = await asyncio.gather(*(_process_status(address, channels) for address in profile.processes.values()))
    return dict(zip(profile.processes, answers, strict=True))


def services_of(profile: Profile, answers: Mapping[str, ProcessStatus | DrwError]) -> list[ServiceStatus]:
    """Return the status of each service of the profile from the answers of its processes."""
    return [
        status
        for name, address in profile.processes.items()
        for status in _service_statuses(name, address, answers[name])
    ]


def healthy(services: list[ServiceStatus]) -> bool:
    """Return whether all services are ready, except those that this release does not implement."""
    return all(service.state in (State.READY, State.UNIMPLEMENTED) for service in services)


async def _process_status(address: ServiceAddress, channels: Channels) -> ProcessStatus | DrwError:
    try:
        return await channels.client(ProcessClient, address.grpc).get_status(
            GetStatusRequest(), timeout=TIMEOUT_SECONDS
        )
    except DrwError as error:
        return error


def _service_statuses(name: str, address: ServiceAddress, answer: ProcessStatus | DrwError) -> list[ServiceStatus]:
    if isinstance(answer, DrwError):
        detail = f"the process {name!r} does not answer: {answer.message}"
        return [_down(service, detail) for service in address.services]
    reported = {service.name: service for service in answer.services}
    return [reported.get(s) or _down(s, f"the process {name!r} runs without it") for s in address.services]


def _down(service: str, detail: str) -> ServiceStatus:
    return ServiceStatus(name=service, cluster=BY_NAME[service].cluster, state=State.DOWN, detail=detail)
