"""The HTTP client of steps, with aiohttp."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from drw.egress.ip_ranges import Ip
from drw.kernel.errors import DeadlineExceeded, InternalError, Unavailable
from drw.workflow.orchestration.ports import HttpAnswer, HttpClient, HttpRequest, NotSent, ResponseTooLarge

MAX_CONNECT_SECONDS = 10.0


class AiohttpClient(HttpClient):
    """One session for each request: nothing is shared between tenants."""

    async def exchange(
        self, request: HttpRequest, check_address: Callable[[Ip], None], max_bytes: int, seconds: float
    ) -> HttpAnswer:
        """Implement the port."""
        connection = _Connection()
        host = f"{request.host}:{request.port}"
        try:
            async with asyncio.timeout(seconds):
                return await _send(request, check_address, max_bytes, min(MAX_CONNECT_SECONDS, seconds / 2), connection)
        except TimeoutError:
            message = f"{host!r} did not answer within {seconds:.3g} s"
            raise DeadlineExceeded(message) if connection.established else NotSent(message) from None
        except (aiohttp.ClientError, OSError) as error:
            kind = type(error).__name__
            if not connection.established:
                raise NotSent(f"cannot connect to {host!r}: {kind}") from None
            if isinstance(error, aiohttp.ClientResponseError):
                raise InternalError(f"the answer of {host!r} is not valid HTTP: {kind}") from None
            raise Unavailable(f"the connection to {host!r} was lost: {kind}") from None


class _Connection:
    """Whether there was a connection. Without one, nothing was sent."""

    def __init__(self) -> None:
        self.established = False

    def trace(self) -> aiohttp.TraceConfig:
        """Return the trace that sets it."""
        config = aiohttp.TraceConfig()

        async def mark(*_: Any) -> None:
            self.established = True

        config.on_connection_create_end.append(mark)
        return config


async def _send(
    request: HttpRequest,
    check_address: Callable[[Ip], None],
    max_bytes: int,
    connect_seconds: float,
    connection: _Connection,
) -> HttpAnswer:
    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(check_address), use_dns_cache=False, force_close=True, limit=1
    )
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[connection.trace()],
            trust_env=False,
        ) as session,
        session.request(
            request.method,
            _url(request),
            headers={**request.headers, "Accept-Encoding": "identity"},
            data=request.content,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "Accept"),
        ) as response,
    ):
        content = await _content(response, max_bytes, f"{request.host}:{request.port}")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HttpAnswer(response.status, headers, content)


async def _content(response: aiohttp.ClientResponse, max_bytes: int, host: str) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ResponseTooLarge(f"{host!r} sent a compressed answer, although it was asked not to")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise ResponseTooLarge(f"the answer of {host!r} has more than {max_bytes} bytes")
    return bytes(content)


def _url(request: HttpRequest) -> yarl.URL:
    """Return the URL to request. `encoded`: it is not parsed or changed again."""
    return yarl.URL.build(
        scheme=request.scheme,
        host=request.host,
        port=request.port,
        path=request.path,
        query_string=request.query,
        encoded=True,
    )


class _CheckedResolver(AbstractResolver):
    """Resolves a name, and returns its addresses only if all of them are allowed."""

    def __init__(self, check_address: Callable[[Ip], None]) -> None:
        self._check_address = check_address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Implement the base class."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = [_result(host, port, entry[0], str(entry[4][0]).partition("%")[0]) for entry in found]
        for result in results:
            self._check_address(ipaddress.ip_address(result["host"]))
        return results

    async def close(self) -> None:
        """Implement the base class."""


def _result(name: str, port: int, family: int, address: str) -> ResolveResult:
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=name, host=address, port=port, family=family, proto=0, flags=flags)
