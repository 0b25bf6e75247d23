"""Requests of the `http` activity: only to listed hosts and allowed addresses, also after redirects."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin

from drw.egress.addresses import Url, parse_url
from drw.egress.http_hosts import HttpHosts, Origin, origin_of
from drw.kernel.errors import InvalidRequest
from drw.workflow.orchestration.ports import HttpAnswer, HttpClient, HttpRequest

MAX_REDIRECTS = 3
MAX_QUERY_CHARACTERS = 4000
REDIRECTS = (301, 302, 303, 307, 308)
IN_TIME = 0.98
"""The part of an attempt's time for its requests: they end first, since they know whether anything was sent."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL on the list, with the query of the request."""

    url: Url
    query: str = ""

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return origin_of(self.url)

    @property
    def shown(self) -> str:
        """The part of the URL that errors name."""
        return f"{self.url.target.host}:{self.url.target.port}"

    def request(self, method: str, headers: Mapping[str, str], content: bytes | None) -> HttpRequest:
        """Return a request to it."""
        query = "&".join(filter(None, [self.url.query.removeprefix("?"), self.query]))
        scheme, host, port = self.origin
        return HttpRequest(method, scheme, host, port, self.url.path, query, headers, content)


class HttpRequests:
    """Sends requests to listed hosts. `check_lease` raises if this process may not act for its runs any more."""

    def __init__(
        self, client: HttpClient, hosts: HttpHosts, max_bytes: int, check_lease: Callable[[], None] = lambda: None
    ) -> None:
        self._client = client
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._check_lease = check_lease

    def parse(self, text: str, query: Mapping[str, Any] | None = None) -> Target:
        """Return a URL with a query.

        Raises:
            InvalidAddress: it is not a URL.
            AddressNotAllowed: its host is not on the list.
        """
        encoded = urlencode({name: _query_value(value) for name, value in (query or {}).items()})
        if len(encoded) > MAX_QUERY_CHARACTERS:
            raise InvalidRequest(f"the query has {len(encoded)} characters; at most {MAX_QUERY_CHARACTERS}")
        url = parse_url(text)
        self._hosts.check(url)
        return Target(url, encoded)

    async def send(
        self, target: Target, method: str, headers: Mapping[str, str], content: bytes | None, seconds: float
    ) -> HttpAnswer:
        """Send a request and return its answer, whatever its status. Redirects of GET and HEAD are followed.

        Raises:
            AddressNotAllowed: a redirect leads to a host that is not listed, or a name to a forbidden address.
            DrwError: there is no answer; see `HttpClient.exchange`.
        """
        end = time.monotonic() + seconds * IN_TIME
        request = target.request(method, headers, content)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._exchange(request, end - time.monotonic())
            location = answer.headers.get("location", "")
            if answer.status not in REDIRECTS or not location or method not in ("GET", "HEAD"):
                return answer
            following = self.parse(urljoin(str(target.url), location))
            if following.origin != target.origin:
                headers = {}  # credentials stay with their host
            target, request = following, following.request(method, headers, None)
        raise InvalidRequest(f"{target.shown!r} redirects more than {MAX_REDIRECTS} times")

    async def _exchange(self, request: HttpRequest, seconds: float) -> HttpAnswer:
        self._check_lease()
        return await self._client.exchange(
            request,
            lambda ip: self._hosts.check_address(request.host, request.port, ip),
            self._max_bytes,
            max(0.001, seconds),
        )


def _query_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
