"""OpenAI's API as a client: one request, its answer as server-sent events, every way in which that can fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from drw.kernel.errors import DrwError
from drw.kernel.observability import telemetry
from drw.kernel.observability.overhead import waiting
from drw.models.serving.engines.http_client import HttpClient
from drw.models.serving.engines.http_connection import Response
from drw.models.serving.engines.upstream_errors import in_band, refusal
from drw.models.serving.errors import (
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
    RequestTimedOut,
    ResponseTruncated,
)
from drw.models.serving.openai.chunks import BESIDES, TEXT, has_token
from drw.models.serving.openai.usage import without_cache
from drw.models.serving.ports import UNLIMITED, Body, Chunk, EngineLimits, EngineTarget
from drw.models.serving.settings import ClientSettings

T = TypeVar("T")

MAX_EVENT_BYTES = 4 << 20
MAX_ERROR_BYTES = 64 << 10
CHECK_SECONDS = 1.0
TAIL_SECONDS = 0.2
FIELDS = (b"event:", b"id:", b"retry:", b":")
"""What may stand in an event besides its data (HTML standard, "Server-sent events")."""
SAID = (*TEXT, *BESIDES)
LIST, DICT, STRING = (list, type(None)), (dict, type(None)), (str, type(None))
JSON_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}


class OpenAIClient:
    """Connections to engines that speak OpenAI's API.

    `reuse` keeps connections for further requests; without it each answer ends its connection.
    """

    def __init__(self, settings: ClientSettings, *, reuse: bool) -> None:
        self._settings = settings
        self._reuse = reuse
        self._plain = HttpClient(settings.connect_seconds)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._urls: dict[tuple[str, str], URL] = {}

    async def stream(
        self,
        target: EngineTarget,
        path: str,
        body: Body,
        headers: Mapping[str, str],
        limits: EngineLimits = UNLIMITED,
        *,
        hides_cache: bool = False,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the events of an answer up to `[DONE]`; see `ChatEngine.stream` for what is raised.

        With `hides_cache` usage says nothing of a cache: it may be of another tenant's prompt.
        """
        clock, end = asyncio.get_running_loop().time, limits.end
        first = target.deadlines.first_token or self._settings.first_token_seconds
        between = target.deadlines.between_tokens or self._settings.between_tokens_seconds
        limit = min(clock() + first, limits.first_token, end)
        with waiting("upstream"):
            response = await self._post(target, path, orjson.dumps(body), _headers(headers), limit, end)
        try:
            if response.status != 200:
                raise await _refused(target, response)
            reader = _Events(response.content, target, end)
            while (events := await reader.next(limit)) is not None:
                for event in events:
                    chunk = _decoded(target, event)
                    if hides_cache and (usage := chunk.get("usage")):
                        chunk["usage"] = without_cache(usage)
                    goes_on = has_token(chunk)  # an empty event is a sign of life of the connection only
                    yield chunk
                    if goes_on:
                        limit = min(clock() + between, end)
            await self._finish(response)
        finally:
            response.close()

    async def ask(
        self,
        target: EngineTarget,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
        name: str,
        kind: type[T],
        max_bytes: int = MAX_EVENT_BYTES,
    ) -> T:
        """Return the field of this name and type in the JSON, of at most so many bytes, that answers one question.

        Without a body it is a GET.

        Raises:
            EngineUnavailable: no answer came in time.
            ResponseTruncated: it is not what was asked for.
            DrwError: it is a refusal; see `upstream_errors.refusal`.
        """
        try:
            async with (
                asyncio.timeout(self._settings.connect_seconds),
                self._session(target.base_url).request(
                    "GET" if body is None else "POST",
                    self._url(target.base_url, path),
                    data=None if body is None else orjson.dumps(body),
                    headers=_headers(headers),
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise await _refused(target, response)
                raw = b"".join([data async for data in _parts(response, max_bytes)])
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _gone(target) from error
        return _field(target, raw, name, kind)

    async def reach(self, target: EngineTarget, path: str, headers: Mapping[str, str]) -> int:
        """Return the status of a GET; raise `EngineUnavailable` where nothing answers within a second."""
        try:
            async with (
                asyncio.timeout(CHECK_SECONDS),
                self._session(target.base_url).get(
                    self._url(target.base_url, path), headers=headers, allow_redirects=False
                ) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _gone(target) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._plain.close()
        for session in self._sessions.values():
            await session.close()

    async def _post(
        self, target: EngineTarget, path: str, data: bytes, headers: Mapping[str, str], limit: float, end: float
    ) -> aiohttp.ClientResponse | Response:
        url = self._url(target.base_url, path)
        if self._reuse and url.scheme == "http" and url.raw_user is None and url.raw_password is None:
            try:
                async with asyncio.timeout_at(limit):
                    path, seconds = _socket(target.base_url), target.deadlines.connect
                    return await self._plain.post(url, headers, data, path=path, connect_seconds=seconds)
            except TimeoutError as error:
                raise stalled(target, end) from error
            except ConnectionError as error:
                raise _gone(target) from error
        session = self._session(target.base_url)
        options: dict[str, Any] = {"data": data, "headers": headers, "allow_redirects": False}
        if seconds := target.deadlines.connect:
            options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=seconds)
        opened_before = _connections(session)
        try:
            async with asyncio.timeout_at(limit):
                try:
                    return await session.post(url, **options)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    if _connections(session) != opened_before:
                        raise
                    # A kept connection that the upstream closed while nobody used it: once more, on a new one.
                    return await session.post(url, **options)
        except aiohttp.ServerTimeoutError as error:
            raise _gone(target) from error  # no connection in time
        except TimeoutError as error:
            raise stalled(target, end) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _gone(target) from error

    async def _finish(self, response: aiohttp.ClientResponse | Response) -> None:
        """Read the last bytes after `[DONE]`, which frees the connection for the next request."""
        if self._reuse and not response.content.at_eof():
            with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
                async with asyncio.timeout(TAIL_SECONDS):
                    while await response.content.readany():
                        pass

    def _session(self, base_url: str) -> aiohttp.ClientSession:
        socket = base_url if base_url.startswith("unix:") else ""
        if socket not in self._sessions:
            options: dict[str, Any] = {"limit": 0, "force_close": not self._reuse}
            connector: aiohttp.BaseConnector
            if socket:
                connector = _UnixConnector(_socket(socket), **options)
            else:
                connector = _TcpConnector(ttl_dns_cache=30, **options)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_seconds)
            self._sessions[socket] = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        return self._sessions[socket]

    def _url(self, base_url: str, path: str) -> URL:
        """Return the address of a path; a leading slash leaves the base's own path (as in `/v1`) out."""
        if (url := self._urls.get((base_url, path))) is None:
            base = URL("http://engine/v1" if base_url.startswith("unix:") else base_url)
            url = base.with_path(path) if path.startswith("/") else base / path
            self._urls[base_url, path] = url
        return url


def _socket(base_url: str) -> str:
    """Return the path of the Unix socket where an engine answers; empty where it is not on one."""
    return base_url.removeprefix("unix:") if base_url.startswith("unix:") else ""


class _TcpConnector(aiohttp.TCPConnector):
    """Counts the connections that it makes: none made since means that a request went over a kept one."""

    made = 0

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.made += 1
        return await super()._create_connection(*args, **kwargs)


class _UnixConnector(aiohttp.UnixConnector):
    """The same on a Unix socket."""

    made = 0

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.made += 1
        return await super()._create_connection(*args, **kwargs)


def _connections(session: aiohttp.ClientSession) -> int:
    connector = session.connector
    return connector.made if isinstance(connector, _TcpConnector | _UnixConnector) else 0


class _Events:
    """Takes server-sent events out of a body as it comes."""

    def __init__(self, content: aiohttp.StreamReader | Response, target: EngineTarget, end: float) -> None:
        self._content = content
        self._target = target
        self._end = end
        self._rest = b""
        self._done = False

    async def next(self, limit: float) -> list[bytes] | None:
        """Return the data of what has come, perhaps nothing yet; None after `[DONE]`."""
        if self._done:
            return None
        try:
            if not (data := self._content.read_nowait()):  # what is there needs no timer
                async with asyncio.timeout_at(limit):
                    with waiting("upstream"):
                        data = await self._content.readany()
        except TimeoutError as error:
            raise stalled(self._target, self._end) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _cut(self._target) from error
        if not data:
            raise _cut(self._target)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineUnavailable(f"the engine of {self._target.model!r} sent an event over {MAX_EVENT_BYTES} bytes")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                events.append(line[5:].strip())
            elif (line := line.strip()) and not line.startswith(FIELDS):
                raise _garbled(self._target)  # to pass it by might leave out a word
        if b"[DONE]" in events:
            self._done = True
            events = events[: events.index(b"[DONE]")]
        return events


def bearer(target: EngineTarget) -> dict[str, str]:
    """Return the header with the upstream's key, out of the environment.

    Raises:
        EngineMisconfigured: the variable that should hold it is not set.
    """
    if not target.api_key_variable:
        return {}
    if not (key := os.environ.get(target.api_key_variable)):
        raise EngineMisconfigured(
            f"the key for {target.model!r} is missing: set {target.api_key_variable} in serving's environment"
        )
    return {"authorization": f"Bearer {key}"}


def _headers(own: Mapping[str, str]) -> dict[str, str]:
    """Return what goes with every request: the trace, so that an engine's own spans are part of it."""
    return {**JSON_HEADERS, **telemetry.outgoing_headers(), **own}


def _decoded(target: EngineTarget, event: bytes) -> Chunk:
    try:
        chunk = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        raise _garbled(target) from error
    if not isinstance(chunk, dict):
        raise _garbled(target)
    if problem := chunk.get("error"):
        raise in_band(target, problem)
    if not _well_formed(chunk):
        raise _garbled(target)
    return chunk


def _well_formed(chunk: Chunk) -> bool:
    """Tell whether what is read of a chunk has the types that it is read with."""
    choices = chunk.get("choices")
    if not isinstance(choices, LIST) or not isinstance(chunk.get("usage"), DICT):
        return False
    for choice in choices or ():
        if not isinstance(choice, dict) or not isinstance(choice.get("index", 0), int):
            return False
        if not isinstance(choice.get("delta"), DICT) or not isinstance(choice.get("finish_reason"), STRING):
            return False
        delta = choice.get("delta") or choice
        for name in SAID:  # of each of a stream's chunks: a generator would cost more than the rest
            if not isinstance(delta.get(name), STRING):
                return False
        if not isinstance(calls := delta.get("tool_calls"), LIST) or (calls and not all(map(_is_call, calls))):
            return False
        if not isinstance(choice.get("logprobs"), DICT):
            return False
    return True


def _is_call(part: Any) -> bool:
    """Tell whether this is a part of a tool call."""
    if not isinstance(part, dict) or not isinstance(part.get("index"), int | None):
        return False
    function = part.get("function") or {}
    return isinstance(function, dict) and all(
        isinstance(text, STRING) for text in (part.get("id"), function.get("name"), function.get("arguments"))
    )


async def _refused(target: EngineTarget, response: aiohttp.ClientResponse | Response) -> DrwError:
    raw = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
        async with asyncio.timeout(CHECK_SECONDS):
            async for data in _parts(response, MAX_ERROR_BYTES):
                raw += data
    return refusal(target, response.status, bytes(raw), response.headers.get("retry-after"))


async def _parts(response: aiohttp.ClientResponse | Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body up to so many bytes as it comes: one read returns only what has arrived."""
    while max_bytes > 0 and (data := await response.content.read(max_bytes)):
        max_bytes -= len(data)
        yield data


def _field(target: EngineTarget, raw: bytes, name: str, kind: type[T]) -> T:
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _garbled(target) from error
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise _garbled(target)
    return value


def _gone(target: EngineTarget) -> EngineUnavailable:
    return EngineUnavailable(
        f"the engine of {target.model!r} does not answer; it may be starting again: try again", **_part(target)
    )


def _cut(target: EngineTarget) -> ResponseTruncated:
    return ResponseTruncated(
        f"the engine of {target.model!r} ended in the middle of the answer: try again", **_part(target)
    )


def _part(target: EngineTarget) -> dict[str, str]:
    """Return what an error says of a machine's own engine, whose start is measured."""
    return {"part": "engine"} if target.base_url.startswith("unix:") else {}


def _garbled(target: EngineTarget) -> ResponseTruncated:
    return ResponseTruncated(f"the engine of {target.model!r} sent what is no part of an answer: try again")


def stalled(target: EngineTarget, end: float) -> DrwError:
    """Return the error for an engine that gave no token in time: its fault, or the end of the request's own time."""
    if asyncio.get_running_loop().time() >= end:
        return RequestTimedOut(f"the time for this request ran out while {target.model!r} was answering")
    return EngineStalled(f"the engine of {target.model!r} gave no token within the time set for it")
