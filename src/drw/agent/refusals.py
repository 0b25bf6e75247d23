"""Brings who is refused to Envoy ahead of everything else: a revoked key must not wait for a trial run of routes.

What is written has been generated from names alone, so Envoy's own check at taking it is enough; where it does
refuse, the last good comes back.
"""

from __future__ import annotations

import asyncio

from drw.agent.admin import Admin
from drw.agent.files import Files
from drw.agent.translation import REFUSALS, BadConfiguration, Edge, refusals
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.kernel.errors import Unavailable


class Refusals:
    """The refusals of one data plane: written as soon as they are known, by whoever comes first."""

    def __init__(self, edge: Edge, files: Files, admin: Admin) -> None:
        self._edge = edge
        self._files = files
        self._admin = admin
        self._turn = asyncio.Lock()
        self._copy: dict[str, bytes] = {}
        self._before: dict[str, int] = {}
        self._written = ""
        self.in_force = ""
        """What Envoy has said that it enforces."""

    async def take(self, wanted: Configuration) -> None:
        """Return when Envoy enforces these.

        Raises:
            BadConfiguration: it refuses them; those before stay in force.
            Unavailable: it does not say.
        """
        async with self._turn:
            await self._write(wanted)
            versions = self._files.versions(REFUSALS)
            if refused := await self._admin.taken(versions, self._before):
                self._files.put_back(self._copy)
                self._written = ""
                raise BadConfiguration(f"Envoy refuses the {' and '.join(refused)} of the configuration")
            self.in_force = wanted.refusals

    async def write(self, wanted: Configuration) -> None:
        """Put them on disk, for an Envoy that does not run yet."""
        async with self._turn:
            await self._write(wanted)

    async def _write(self, wanted: Configuration) -> None:
        if wanted.refusals == self._written:
            return
        resources = refusals(wanted, self._edge)
        self._copy, self._before = self._files.copy(REFUSALS), await self._refused_so_far()
        self._files.write(resources, wanted.refusals, REFUSALS)
        self._written = wanted.refusals

    async def _refused_so_far(self) -> dict[str, int]:
        try:
            return await self._admin.refusals(REFUSALS)
        except Unavailable:
            return dict.fromkeys(REFUSALS, 0)  # it does not run yet, so it counts from here
