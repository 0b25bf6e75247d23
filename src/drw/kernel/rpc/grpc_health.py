"""The gRPC health checking protocol, `grpc.health.v1.Health`: one entry per service, and "" for the process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse, HealthListResponse

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
PROCESS = ""
"""The entry of the whole process."""
MAX_WATCHERS = 256


class HealthServicer:
    """Serves the status of services.

    The servicer of grpcio-health-checking is not used: a client that does not read its watch blocks each change there,
    and it has no List.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {PROCESS: NOT_SERVING}
        self._changed = asyncio.Event()
        self._watchers = 0

    def replace(self, statuses: Mapping[str, bool]) -> None:
        """Replace the entries by whether each serves, and notify the watchers of changes."""
        entries = {name: SERVING if serves else NOT_SERVING for name, serves in statuses.items()}
        if entries != self._statuses:
            self._statuses = entries
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> HealthCheckResponse:
        """Return the status of a service; NOT_FOUND for an unknown one."""
        if (status := self._statuses.get(request.service)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:200]!r}")
            raise AssertionError("unreachable: aborting raises")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> None:
        """Send the status of a service now and after each change; SERVICE_UNKNOWN while it is unknown."""
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {self._watchers} watches already")
        self._watchers += 1
        sent: int | None = None
        try:
            while True:
                changed = self._changed
                if (status := self._statuses.get(request.service, UNKNOWN)) != sent:
                    await context.write(HealthCheckResponse(status=status))
                    sent = status
                await changed.wait()
        finally:
            self._watchers -= 1

    async def List(self, request: Any, context: Any) -> HealthListResponse:
        """Return all entries."""
        return HealthListResponse(
            statuses={name: HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        )


def add_to(servicer: HealthServicer, server: grpc.aio.Server) -> None:
    """Serve the protocol."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


async def is_serving(channel: grpc.aio.Channel, service: str, seconds: float) -> bool:
    """Return whether the process at a channel reports a service, by its full name, as serving in time."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    try:
        response: HealthCheckResponse = await check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
    except grpc.aio.AioRpcError:
        return False
    return bool(response.status == SERVING)
