"""Desired state: assembles credentials, limits, upstreams, kills and routes, and versions the result."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from drw.api.gateway.v1.authentication_pb2 import Credentials
from drw.api.gateway.v1.load_balancer_pb2 import Upstreams
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limits
from drw.api.gateway.v1.request_router_pb2 import Configuration, Kills, Route, Routes
from drw.gateway.request_router.kills.switch import as_block
from drw.gateway.request_router.routes.table import RouteSettings, route_table
from drw.routing.request_matching import is_platform_process

Part = Credentials | Limits | Upstreams | Kills | Routes
"""A part of the desired state. `Routes` contains the routes that operators created."""


def assemble(
    credentials: Credentials,
    limits: Limits,
    upstreams: Upstreams,
    settings: Sequence[RouteSettings],
    kills: Kills | None = None,
    records: Routes | None = None,
) -> Configuration:
    """Return the complete desired state; equal parts give the same version."""
    routes, _ = _routes(upstreams, settings, records or Routes())
    configuration = Configuration(
        credentials=credentials,
        limits=limits,
        upstreams=upstreams,
        routes=Routes(routes=routes),
        blocks=_blocks(limits, kills or Kills()),
    )
    refusals = Configuration(
        credentials=Credentials(revoked=credentials.revoked), blocks=configuration.blocks, limits=limits
    )
    configuration.refusals = _digest(refusals)
    configuration.version = _digest(configuration)
    return configuration


def _blocks(limits: Limits, kills: Kills) -> list[Block]:
    kill_blocks = [block for kill in kills.kills if (block := as_block(kill)) is not None]
    return sorted((*limits.blocks, *kill_blocks), key=lambda b: (b.subject, b.org, b.name, b.reason))


def _digest(state: Configuration) -> str:
    return hashlib.sha256(state.SerializeToString(deterministic=True)).hexdigest()[:16]


class DesiredState:
    """The current desired state, for any number of watchers."""

    def __init__(self, settings: Sequence[RouteSettings]) -> None:
        self._settings = settings
        self._parts: dict[type[Part], Part] = {}
        self._changed = asyncio.Condition()
        self.configuration: Configuration | None = None
        """None until all parts have been received."""

    async def put(self, part: Part) -> None:
        """Replace a part and notify watchers."""
        self._parts[type(part)] = part
        if self.missing():
            return
        async with self._changed:
            self.configuration = self._assemble_parts()
            self._changed.notify_all()

    def missing(self) -> list[str]:
        """Return the sources of parts that have not been received."""
        sources = {
            Credentials: "authentication",
            Limits: "rate_limiting",
            Upstreams: "load_balancer",
            Kills: "the kill switch",
            Routes: "the routes in the database",
        }
        return [name for part, name in sources.items() if part not in self._parts]

    async def versions(self) -> AsyncIterator[Configuration]:
        """Yield the state when it is complete, and after each change of its version; it can skip some versions."""
        newest = await self._wait_for_other_version("")
        while True:
            yield newest
            newest = await self._wait_for_other_version(newest.version)

    async def _wait_for_other_version(self, version: str) -> Configuration:
        async with self._changed:
            while self.configuration is None or self.configuration.version == version:
                await self._changed.wait()
            return self.configuration

    def _assemble_parts(self) -> Configuration:
        credentials, limits, upstreams = (self._parts[part] for part in (Credentials, Limits, Upstreams))
        assert isinstance(credentials, Credentials) and isinstance(limits, Limits) and isinstance(upstreams, Upstreams)
        kills = self._parts[Kills]
        records = self._parts[Routes]
        assert isinstance(kills, Kills) and isinstance(records, Routes)
        return assemble(credentials, limits, upstreams, self._settings, kills, records)

    def unusable_routes(self) -> list[str]:
        """Return stored routes that cannot be used, with the reason."""
        upstreams = self._parts.get(Upstreams)
        records = self._parts.get(Routes)
        if not isinstance(upstreams, Upstreams) or not isinstance(records, Routes):
            return []
        return _routes(upstreams, self._settings, records)[1]


def _routes(upstreams: Upstreams, settings: Sequence[RouteSettings], records: Routes) -> tuple[list[Route], list[str]]:
    credentials = {upstream.name: upstream.credential for upstream in upstreams.upstreams}
    processes = [upstream for upstream in upstreams.upstreams if is_platform_process(upstream) and not upstream.http2]
    # An upstream of the settings with services of a process does not take their routes.
    by_origin = sorted(processes, key=lambda process: process.origin == "profile")
    homes = {service: process.name for process in by_origin for service in process.services}
    names = [process.name for process in processes]
    return route_table(credentials, settings, records.routes, credentials, names, homes)
