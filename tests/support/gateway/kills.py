"""A double of the request router that streams the kills of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drw.api.gateway.v1.request_router_pb2 import Kill, Kills, WatchKillsRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouter
from drw.kernel.rpc.transport import Server
from drw.kernel.runtime.settings import ServiceAddress


class DoubleKills(RequestRouter):
    """Streams the current kills to all watchers."""

    def __init__(self, address: str) -> None:
        self.address = ServiceAddress(services=("request_router",), grpc=address, http="")
        self._kills = Kills()
        self._changed = asyncio.Condition()
        self._server: Server | None = None

    async def kill(self, *kills: Kill) -> None:
        """Replace the active kills."""
        async with self._changed:
            self._kills = Kills(kills=kills)
            self._changed.notify_all()

    async def watch_kills(self, request: WatchKillsRequest, /) -> AsyncIterator[Kills]:
        last_sent = None
        while True:
            async with self._changed:
                while self._kills is last_sent:
                    await self._changed.wait()
                last_sent = self._kills
            yield last_sent

    async def start(self) -> None:
        self._server = Server([self])
        await self._server.start(self.address.grpc)

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)
        self._server = None


@asynccontextmanager
async def double_kills(address: str) -> AsyncIterator[DoubleKills]:
    """Serve a double at an address."""
    double = DoubleKills(address)
    await double.start()
    try:
        yield double
    finally:
        await double.stop()


def kill(subject: str, name: str, org: str = "") -> Kill:
    """Return an active kill."""
    return Kill(id=f"kill_{name}", subject=subject, org=org, name=name, reason="a test", state="ACTIVE")
