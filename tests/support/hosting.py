"""Hosts of services for a test: in this process or apart, with the desks that tests act for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drw.api.gateway.v1.authentication_pb2 import PutDeskRequest, PutOrgRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.catalog import BY_NAME
from drw.kernel.rpc.context import SCOPES, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.local.first_key import OPERATOR, ensure_home
from support.json_types import JsonObject
from support.strict_transport import StrictTransport

_numbers = itertools.count()

SECRET = "n3J-u8Zq_t5Xw1Rb7Kd2Fh9Lp4Vc6My0"
"""Secret of the authentication service in tests."""


def with_secret(profile: Profile) -> Profile:
    """Return the profile with a secret for the authentication service, unless it has one."""
    settings = {"secret": SECRET} | profile.services.get("authentication", {})
    return profile.model_copy(update={"services": profile.services | {"authentication": settings}})


@asynccontextmanager
async def hosted(profile: Profile, services: list[str], how: str = "together") -> AsyncIterator[Host]:
    """Run services, and yield a host whose `client(...)` returns their clients.

    together: in this process. strict: in this process, with serialised messages and each idempotent call repeated.
    apart: each service in its own host, over gRPC.

    With the authentication service, the desks of `caller` and of the operator are created.
    """
    hosts: list[Host] = []
    if "authentication" in services:
        profile = with_secret(profile)
    try:
        if how == "apart":
            processes: JsonObject = dict(profile.processes)
            sockets = Path(profile.postgres.split("host=")[1].split()[0])
            for name in services:
                base = f"unix:{sockets}/{next(_numbers)}"
                processes[name] = ServiceAddress(services=(name,), grpc=f"{base}.g", http=f"{base}.h")
            separate_profile = profile.model_copy(update={"processes": processes})
            # Services that are called start first, because gRPC waits before it retries a connection.
            for name in sorted(services, key=lambda name: len(called_services(name))):
                host = Host(separate_profile, name)
                hosts.append(host)
                await host.start()
            client_host = Host(separate_profile, "test", services=[])
            hosts.append(client_host)
            await make_desks(client_host, services)
            yield client_host
        else:
            wrap = StrictTransport if how == "strict" else (lambda transport: transport)
            host = Host(profile, "test", services, wrap)
            hosts.append(host)
            await host.start()
            await make_desks(host, services)
            yield host
    finally:
        await asyncio.gather(*(host.stop(grace=0) for host in hosts))


def called_services(name: str) -> set[str]:
    """Return the services that a service calls, also through other services."""
    calls = BY_NAME[name].calls
    return set(calls).union(*(called_services(called) for called in calls))


async def make_desks(host: Host, services: list[str]) -> None:
    """Create the desks of `caller` and of the operator, if the authentication service is one of the services."""
    if "authentication" not in services:
        return
    client = host.client(AuthenticationClient)
    grants: JsonObject = {"scopes": sorted(SCOPES), "walls": ["m-and-a", "rates"]}
    with acting_for(OPERATOR):
        await ensure_home(client)
        await client.put_org(PutOrgRequest(name="acme", **grants))
        await client.put_desk(PutDeskRequest(org="acme", name="research", **grants))
