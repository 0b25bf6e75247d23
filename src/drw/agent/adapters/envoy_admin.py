"""Client of Envoy's admin interface: active versions, rejected updates, hosts, statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import orjson

from drw.agent import clients
from drw.agent.xds import listener, routes
from drw.agent.xds.translation import FILTER_KINDS
from drw.kernel.errors import Unavailable

STATS = {
    "clusters": "cluster_manager.cds",
    "listeners": "listener_manager.lds",
    "routes": f"http.{listener.NAME}.rds.{routes.NAME}",
    **{kind: f"extension_config_discovery.http_filter.{name}" for name, kind in FILTER_KINDS.items()},
}
"""Envoy's counters of accepted and rejected updates of each kind."""

ACTIVE = f"http.{listener.NAME}.downstream_rq_active"
CONNECTIONS = f"http.{listener.NAME}.downstream_cx_active"
ASK_SECONDS = 2.0
PAUSE_SECONDS = 0.02
TAKE_SECONDS = 10.0


class NotRunning(Unavailable):
    """Nothing listens on the admin interface, so no Envoy is forwarding requests."""


class EnvoyAdmin:
    """The admin interface of one Envoy."""

    def __init__(self, where: str) -> None:
        self._where = where

    async def refusals(self, kinds: Iterable[str] = tuple(STATS)) -> dict[str, int]:
        """Return the number of rejected updates of each of these kinds.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return _refusals(await self._stats(), kinds)

    async def taken(self, versions: Mapping[str, str], before: Mapping[str, int]) -> tuple[str, ...]:
        """Wait until these versions are active; return the kinds that were rejected since `before`.

        Raises:
            Unavailable: Envoy does not answer, or neither accepts nor rejects in time.
        """
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while True:
                    stats = await self._stats()
                    refused = tuple(k for k, count in _refusals(stats, versions).items() if count > before.get(k, 0))
                    if refused or all(stats.get(f"{STATS[k]}.version_text") == v for k, v in versions.items()):
                        return refused
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError as error:
            raise Unavailable(f"Envoy at {self._where!r} has not taken the configuration yet") from error

    async def hosts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all hosts with their clusters, as in Envoy's `/clusters?format=json`.

        Raises:
            Unavailable: Envoy does not answer.
        """
        document = orjson.loads(await self._ask("GET", "/clusters?format=json"))
        clusters = document.get("cluster_statuses", ())
        return [(cluster["name"], host) for cluster in clusters for host in cluster.get("host_statuses", ())]

    async def reopen_logs(self) -> None:
        """Reopen the logs after rotation.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._ask("POST", "/reopen_logs")

    async def prometheus(self) -> bytes:
        """Return all statistics in Prometheus' text format.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return (await self._ask("GET", "/stats/prometheus")).encode()

    async def drain(self, seconds: float) -> None:
        """Drain: close connections as their requests end, and wait up to a time-out until none is active.

        SIGTERM then cuts nothing. New connections are still accepted meanwhile, so that none is refused.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    if not await self.active():
                        return
                    await asyncio.sleep(PAUSE_SECONDS)

    async def active(self) -> int:
        """Return the number of active requests.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return await self._stat(ACTIVE)

    async def connections(self) -> tuple[int, int]:
        """Return the number of open client connections, and of those refused since Envoy started.

        Refused means over the limit per client, not over the overall limit.

        Raises:
            Unavailable: Envoy does not answer.
        """
        text = await self._ask("GET", f"/stats?filter=^({CONNECTIONS}|{clients.REFUSED})$")
        stats = {name: int(value) for name, _, value in (line.partition(": ") for line in text.splitlines())}
        return stats.get(CONNECTIONS, 0), stats.get(clients.REFUSED, 0)

    async def _stat(self, name: str) -> int:
        _, _, value = (await self._ask("GET", f"/stats?filter=^{name}$")).partition(": ")
        return int(value)

    async def _stats(self) -> dict[str, str]:
        text = await self._ask("GET", "/stats?filter=(version_text|update_rejected)$")
        pairs = (line.partition(": ") for line in text.splitlines())
        return {name: value.strip('"') for name, _, value in pairs}

    async def _ask(self, verb: str, path: str) -> str:
        try:
            return await self._send(verb, path)
        except aiohttp.ClientConnectorError as error:
            raise NotRunning(f"Envoy does not answer at {self._where!r}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"Envoy does not answer at {self._where!r}") from error

    async def _send(self, verb: str, path: str) -> str:
        unix = self._where.startswith("unix:")
        connector = aiohttp.UnixConnector(self._where.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
        base = "http://envoy" if unix else f"http://{self._where}"
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(verb, f"{base}{path}", raise_for_status=True) as answer,
        ):
            return await answer.text()


def _refusals(stats: Mapping[str, str], kinds: Iterable[str]) -> dict[str, int]:
    return {kind: int(stats.get(f"{STATS[kind]}.update_rejected", "0")) for kind in kinds}
