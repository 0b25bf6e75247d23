"""Fetches key sets of issuers over HTTPS, with limits of size and time, from public hosts and hosts of the settings."""

from __future__ import annotations

import logging
import re

import aiohttp
from yarl import URL

from drw.egress.addresses import Url
from drw.gateway.authentication.adapters.outbound_http import FetchTarget, checked_connector
from drw.gateway.authentication.issuers import jwks
from drw.gateway.authentication.issuers.jwks import DEFAULT_CACHE_SECONDS
from drw.gateway.authentication.ports import FetchedKeys, KeySetSource
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.runtime.settings import Settings as Base

log = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
MIN_CACHE_SECONDS, MAX_CACHE_SECONDS = 60, 3600
SETTING = "services.authentication.jwks_hosts"


class JwksFetcher(KeySetSource):
    """Fetches JSON Web Key Sets over HTTP."""

    class Settings(Base):
        """Hosts that are allowed besides public ones."""

        hosts: tuple[str, ...] = ()
        """Hosts inside the firm's network, with or without TLS, as in "login.internal:443"."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = FetchTarget(settings.hosts, SETTING)

    def check(self, uri: str) -> Url:
        """Return the parsed URI.

        Raises:
            InvalidRequest: the URI is not allowed.
        """
        try:
            return self._allowed.check(uri)
        except InvalidRequest as error:
            raise InvalidRequest(f"jwks_uri: {error.message}", param="jwks_uri") from error

    async def fetch(self, uri: str) -> FetchedKeys:
        url = self.check(uri)
        try:
            status, body, age = await self._get(url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            if status == 200:
                return FetchedKeys(jwks.read(body), age)
            reason = f"status {status}"
        log.warning("no keys came from %s:%d: %s", url.target.host, url.target.port, reason)
        raise Unavailable(
            "no keys came from jwks_uri: it must answer with status 200 within "
            f"{FETCH_SECONDS:.0f} s, without a redirect; the log of the gateway has the reason"
        )

    async def _get(self, url: Url) -> tuple[int, bytes, int]:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, connector=checked_connector(self._allowed, url.target), trust_env=False
            ) as session,
            session.get(
                URL(str(url), encoded=True), allow_redirects=False, headers={"accept": "application/json"}
            ) as response,
        ):
            body = await _read_bounded(response) if response.status == 200 else b""
            return response.status, body, _cache_seconds(response.headers.get("cache-control", ""))


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > jwks.MAX_BYTES:
            raise InvalidRequest(f"the answer has more than {jwks.MAX_BYTES} bytes", param="jwks_uri")
    return body


def _cache_seconds(cache_control: str) -> int:
    """Return the cache time from `Cache-Control`, within `MIN_AGE` and `MAX_AGE`."""
    match = re.search(r"max-age=(\d{1,9})", cache_control)
    return min(max(int(match[1]), MIN_CACHE_SECONDS), MAX_CACHE_SECONDS) if match else DEFAULT_CACHE_SECONDS
