"""Envoy's admin interface: which version of each kind it runs, and what it refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from drw.agent import listener, routes
from drw.agent.translation import FILTER_KINDS
from drw.kernel.errors import Unavailable

STATS = {
    "clusters": "cluster_manager.cds",
    "listeners": "listener_manager.lds",
    "routes": f"http.{listener.NAME}.rds.{routes.NAME}",
    **{kind: f"extension_config_discovery.http_filter.{name}" for name, kind in FILTER_KINDS.items()},
}
"""Where Envoy counts what it took and refused of each kind."""

ASK_SECONDS = 2.0
PAUSE_SECONDS = 0.02
TAKE_SECONDS = 10.0


class Admin:
    """Asks one Envoy."""

    def __init__(self, where: str) -> None:
        self._where = where

    async def refusals(self) -> dict[str, int]:
        """Return how many updates of each kind it has refused so far.

        Raises:
            Unavailable: it does not answer.
        """
        return _refusals(await self._stats())

    async def taken(self, versions: Mapping[str, str], before: Mapping[str, int]) -> tuple[str, ...]:
        """Wait until it runs these versions; return the kinds that it refused since `before`.

        Raises:
            Unavailable: it does not answer, or does neither in time.
        """
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while True:
                    stats = await self._stats()
                    refused = tuple(kind for kind, count in _refusals(stats).items() if count > before[kind])
                    if refused or all(stats.get(f"{STATS[k]}.version_text") == v for k, v in versions.items()):
                        return refused
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError as error:
            raise Unavailable(f"Envoy at {self._where!r} has not taken the configuration yet") from error

    async def _stats(self) -> dict[str, str]:
        try:
            text = await self._get("/stats?filter=(version_text|update_rejected)$")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"Envoy does not answer at {self._where!r}") from error
        pairs = (line.partition(": ") for line in text.splitlines())
        return {name: value.strip('"') for name, _, value in pairs}

    async def _get(self, path: str) -> str:
        unix = self._where.startswith("unix:")
        connector = aiohttp.UnixConnector(self._where.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
        base = "http://envoy" if unix else f"http://{self._where}"
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"{base}{path}", raise_for_status=True) as answer,
        ):
            return await answer.text()


def _refusals(stats: Mapping[str, str]) -> dict[str, int]:
    return {kind: int(stats.get(f"{stat}.update_rejected", "0")) for kind, stat in STATS.items()}
