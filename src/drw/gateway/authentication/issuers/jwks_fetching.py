"""Fetches the keys of other issuers: over https, from hosts that the world can see or the settings name, bounded."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from drw.gateway.authentication.issuers import jwks
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.routing.egress_allowlist import Url
from drw.routing.outbound import FetchTarget, connector

log = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
MIN_AGE, MAX_AGE = 60, 3600
DEFAULT_AGE = 300
SETTING = "services.authentication.jwks_hosts"


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A set of keys, and for how many seconds it need not be fetched again."""

    jwks: str
    max_age: int


class JwksFetcher:
    """Fetches sets of keys; `hosts` (as "host:port") may be inside the firm's network, and may speak plain http."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._allowed = FetchTarget(hosts, SETTING)

    def check(self, uri: str) -> Url:
        """Return the URI, read.

        Raises:
            InvalidRequest: nothing may be fetched from there.
        """
        try:
            return self._allowed.check(uri)
        except InvalidRequest as error:
            raise InvalidRequest(f"jwks_uri: {error.message}", param="jwks_uri") from error

    async def fetch(self, uri: str) -> FetchedKeys:
        """Return the keys there.

        Raises:
            InvalidRequest: nothing may be fetched from there, or what came is no set of keys.
            Unavailable: nothing came in time. Why is in the log alone: who may name a URI must not learn from it
                which hosts and ports there are.
        """
        url = self.check(uri)
        try:
            status, body, age = await self._get(url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            if status == 200:
                return FetchedKeys(jwks.read(body), age)
            why = f"it answered {status}"
        log.warning("no keys came from %s:%d: %s", url.target.host, url.target.port, why)
        raise Unavailable(
            "no keys came from jwks_uri: it must answer with status 200 within "
            f"{FETCH_SECONDS:.0f} s, without a redirect; the log of the gateway says more"
        )

    async def _get(self, url: Url) -> tuple[int, bytes, int]:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(
                timeout=timeout, connector=connector(self._allowed, url.target), trust_env=False
            ) as session,
            session.get(
                URL(str(url), encoded=True), allow_redirects=False, headers={"accept": "application/json"}
            ) as answer,
        ):
            body = await _bounded(answer) if answer.status == 200 else b""
            return answer.status, body, _age(answer.headers.get("cache-control", ""))


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
