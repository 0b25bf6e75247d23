"""Fetches the keys of other issuers: over https, from hosts that the world can see or the settings name, bounded."""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from socket import AddressFamily
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from drw.gateway.authentication import jwks
from drw.kernel.errors import InvalidRequest, Unavailable

FETCH_SECONDS = 5.0
MIN_AGE, MAX_AGE = 60, 3600
DEFAULT_AGE = 300
MAX_URI = 500
PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A set of keys, and for how many seconds it need not be fetched again."""

    jwks: str
    max_age: int


class Fetcher:
    """Fetches sets of keys; `hosts` (as "host:port") may be inside the firm's network, and may speak plain http."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = frozenset(hosts)

    def check(self, uri: str) -> None:
        """Raise where nothing may be fetched from this URI."""
        try:
            found = urlsplit(uri)
            where = f"{found.hostname}:{found.port or PORTS.get(found.scheme, 0)}"
        except ValueError as error:
            raise InvalidRequest(f"jwks_uri is {uri[:200]!r}, which is no URI: {error}", param="jwks_uri") from error
        if (
            len(uri) > MAX_URI
            or not uri.isprintable()
            or " " in uri
            or not found.hostname
            or found.username
            or found.password
            or found.fragment
        ):
            raise InvalidRequest(
                f"jwks_uri is {uri[:80]!r}; it is https://host/path, with no user or password in it", param="jwks_uri"
            )
        if where in self._hosts and found.scheme in PORTS:
            return
        if found.scheme != "https":
            raise InvalidRequest(
                f"jwks_uri is {uri[:200]!r}; keys are fetched over https (services.authentication.jwks_hosts can name "
                f"{where!r} as one that may speak http)",
                param="jwks_uri",
            )
        if _is_address(found.hostname) and not ipaddress.ip_address(found.hostname).is_global:
            raise InvalidRequest(
                f"jwks_uri is {uri[:200]!r}, which is inside this network; services.authentication.jwks_hosts can "
                f"allow {where!r}",
                param="jwks_uri",
            )

    async def fetch(self, uri: str) -> Fetched:
        """Return the keys there.

        Raises:
            InvalidRequest: nothing may be fetched from there, or what came is no set of keys.
            Unavailable: nothing came in time.
        """
        self.check(uri)
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        connector = aiohttp.TCPConnector(resolver=_Outside(self._hosts), force_close=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session,
                session.get(uri, allow_redirects=False, headers={"accept": "application/json"}) as answer,
            ):
                if answer.status != 200:
                    raise Unavailable(f"{uri} answered {answer.status}")
                body = await _bounded(answer)
                return Fetched(jwks.read(body), _age(answer.headers.get("cache-control", "")))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{uri} gave no keys: {type(error).__name__}: {str(error)[:200]}") from error


class _Outside(AbstractResolver):
    """Finds hosts; a name that leads into this network counts only where the settings name it."""

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if f"{host}:{port}" not in self._hosts and not all(ipaddress.ip_address(f["host"]).is_global for f in found):
            why = f"{host} is inside this network; services.authentication.jwks_hosts can allow it"
            raise OSError(errno.EACCES, why)
        return found

    async def close(self) -> None:
        await self._inner.close()


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in answer.content.iter_chunked(1 << 16):
        body += piece
        if len(body) > jwks.MAX_BYTES:
            raise InvalidRequest(f"the answer has more than {jwks.MAX_BYTES} bytes", param="jwks_uri")
    return body


def _age(cache_control: str) -> int:
    """Return for how long the keys may be kept: as the issuer says, but neither so short nor so long as it likes."""
    said = re.search(r"max-age=(\d{1,9})", cache_control)
    return min(max(int(said[1]), MIN_AGE), MAX_AGE) if said else DEFAULT_AGE


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
