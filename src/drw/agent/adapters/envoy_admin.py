"""Client of Envoy's admin interface: active versions, rejected updates, hosts, statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import orjson

from drw.agent import clients
from drw.agent.xds import listener, routes
from drw.agent.xds.translation import FILTER_KINDS
from drw.kernel.errors import Unavailable

STAT_PREFIXES = {
    "clusters": "cluster_manager.cds",
    "listeners": "listener_manager.lds",
    "routes": f"http.{listener.NAME}.rds.{routes.NAME}",
    **{kind: f"extension_config_discovery.http_filter.{name}" for name, kind in FILTER_KINDS.items()},
}
"""Prefix of Envoy's statistics about the updates of each kind."""

ACTIVE_REQUESTS = f"http.{listener.NAME}.downstream_rq_active"
OPEN_CONNECTIONS = f"http.{listener.NAME}.downstream_cx_active"
TIMEOUT_SECONDS = 2.0
POLL_SECONDS = 0.02
CONFIRM_SECONDS = 10.0


class NotRunning(Unavailable):
    """Nothing listens on the admin interface, so no Envoy is forwarding requests."""


class EnvoyAdmin:
    """The admin interface of one Envoy."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def rejections(self, kinds: Iterable[str] = tuple(STAT_PREFIXES)) -> dict[str, int]:
        """Return the number of rejected updates of each of these kinds.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return _rejections(await self._stats(), kinds)

    async def rejections_so_far(self, kinds: Sequence[str]) -> dict[str, int]:
        """Return the number of rejected updates of each of these kinds, 0 if Envoy does not run yet."""
        try:
            return await self.rejections(kinds)
        except Unavailable:
            return dict.fromkeys(kinds, 0)

    async def wait_until_active(
        self, versions: Mapping[str, str], rejections_before: Mapping[str, int]
    ) -> tuple[str, ...]:
        """Wait until these versions are active; return the kinds that were rejected since then.

        Raises:
            Unavailable: Envoy does not answer, or neither accepts nor rejects in time.
        """
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                while True:
                    stats = await self._stats()
                    rejected = tuple(
                        k for k, count in _rejections(stats, versions).items() if count > rejections_before.get(k, 0)
                    )
                    if rejected or all(stats.get(f"{STAT_PREFIXES[k]}.version_text") == v for k, v in versions.items()):
                        return rejected
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise Unavailable(f"Envoy at {self._address!r} has not applied the configuration yet") from error

    async def hosts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all hosts with their clusters, as in Envoy's `/clusters?format=json`.

        Raises:
            Unavailable: Envoy does not answer.
        """
        document = orjson.loads(await self._request("GET", "/clusters?format=json"))
        clusters = document.get("cluster_statuses", ())
        return [(cluster["name"], host) for cluster in clusters for host in cluster.get("host_statuses", ())]

    async def reopen_logs(self) -> None:
        """Reopen the logs after rotation.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._request("POST", "/reopen_logs")

    async def prometheus(self) -> bytes:
        """Return all statistics in Prometheus' text format.

        Raises:
            Unavailable: Envoy does not answer.
        """
        return (await self._request("GET", "/stats/prometheus")).encode()

    async def drain(self, seconds: float) -> None:
        """Drain: close connections as their requests end, and wait up to a time-out until none is active.

        SIGTERM then cuts nothing. New connections are still accepted meanwhile, so that none is rejected.

        Raises:
            Unavailable: Envoy does not answer.
        """
        await self._request("POST", "/drain_listeners?graceful&skip_exit")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    if not await self.active_requests():
                        return
                    await asyncio.sleep(POLL_SECONDS)

    async def active_requests(self) -> int:
        """Return the number of active requests.

        Raises:
            Unavailable: Envoy does not answer.
        """
        _, _, value = (await self._request("GET", f"/stats?filter=^{ACTIVE_REQUESTS}$")).partition(": ")
        return int(value)

    async def connections(self) -> tuple[int, int]:
        """Return the number of open client connections, and of those rejected since Envoy started.

        Counted are rejections over the limit per client, not over the overall limit.

        Raises:
            Unavailable: Envoy does not answer.
        """
        text = await self._request("GET", f"/stats?filter=^({OPEN_CONNECTIONS}|{clients.REJECTED_STAT})$")
        stats = {name: int(value) for name, _, value in (line.partition(": ") for line in text.splitlines())}
        return stats.get(OPEN_CONNECTIONS, 0), stats.get(clients.REJECTED_STAT, 0)

    async def _stats(self) -> dict[str, str]:
        text = await self._request("GET", "/stats?filter=(version_text|update_rejected)$")
        pairs = (line.partition(": ") for line in text.splitlines())
        return {name: value.strip('"') for name, _, value in pairs}

    async def _request(self, method: str, path: str) -> str:
        try:
            return await self._send(method, path)
        except aiohttp.ClientConnectorError as error:
            raise NotRunning(f"Envoy does not answer at {self._address!r}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"Envoy does not answer at {self._address!r}") from error

    async def _send(self, method: str, path: str) -> str:
        unix = self._address.startswith("unix:")
        connector = aiohttp.UnixConnector(self._address.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
        base = "http://envoy" if unix else f"http://{self._address}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"{base}{path}", raise_for_status=True) as response,
        ):
            return await response.text()


def _rejections(stats: Mapping[str, str], kinds: Iterable[str]) -> dict[str, int]:
    return {kind: int(stats.get(f"{STAT_PREFIXES[kind]}.update_rejected", "0")) for kind in kinds}
