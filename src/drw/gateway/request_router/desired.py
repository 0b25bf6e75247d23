"""Puts the newest credentials, limits, upstreams and kills together with the routes, and numbers what comes out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.api.gateway.v1.load_balancer_pb2 import Upstreams
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limits
from drw.api.gateway.v1.request_router_pb2 import Configuration, Kills, Routes
from drw.gateway.request_router.kills import block
from drw.gateway.request_router.table import More, table

Part = Credentials | Limits | Upstreams | Kills


def assemble(
    credentials: Credentials, limits: Limits, upstreams: Upstreams, more: Sequence[More], kills: Kills | None = None
) -> Configuration:
    """Return the whole desired state; equal parts give an equal version."""
    found = Configuration(
        credentials=credentials,
        limits=limits,
        upstreams=upstreams,
        routes=Routes(routes=table([upstream.name for upstream in upstreams.upstreams], more)),
        blocks=_blocks(limits, kills or Kills()),
    )
    refused = Configuration(credentials=Credentials(revoked=credentials.revoked), blocks=found.blocks)
    found.refusals = _digest(refused)
    found.version = _digest(found)
    return found


def _blocks(limits: Limits, kills: Kills) -> list[Block]:
    killed = [refused for kill in kills.kills if (refused := block(kill)) is not None]
    return sorted((*limits.blocks, *killed), key=lambda b: (b.subject, b.org, b.name, b.reason))


def _digest(state: Configuration) -> str:
    return hashlib.sha256(state.SerializeToString(deterministic=True)).hexdigest()[:16]


class Desired:
    """The desired state as it is now, for any number of watchers."""

    def __init__(self, more: Sequence[More]) -> None:
        self._more = more
        self._parts: dict[type[Part], Part] = {}
        self._changed = asyncio.Condition()
        self.configuration: Configuration | None = None
        """None until every part has come once."""

    async def put(self, part: Part) -> None:
        """Take the newest of one part."""
        self._parts[type(part)] = part
        if self.missing():
            return
        async with self._changed:
            self.configuration = self._assembled()
            self._changed.notify_all()

    def missing(self) -> list[str]:
        """Return the services that have not said anything yet."""
        sources = {
            Credentials: "authentication",
            Limits: "rate_limiting",
            Upstreams: "load_balancer",
            Kills: "the kill switch",
        }
        return [name for part, name in sources.items() if part not in self._parts]

    async def versions(self) -> AsyncIterator[Configuration]:
        """Yield the state as soon as it is there, and whenever its version changes; states between may be left out."""
        newest = await self._other_than("")
        while True:
            yield newest
            newest = await self._other_than(newest.version)

    async def _other_than(self, version: str) -> Configuration:
        async with self._changed:
            while self.configuration is None or self.configuration.version == version:
                await self._changed.wait()
            return self.configuration

    def _assembled(self) -> Configuration:
        credentials, limits, upstreams = (self._parts[part] for part in (Credentials, Limits, Upstreams))
        assert isinstance(credentials, Credentials) and isinstance(limits, Limits) and isinstance(upstreams, Upstreams)
        kills = self._parts[Kills]
        assert isinstance(kills, Kills)
        return assemble(credentials, limits, upstreams, self._more, kills)
