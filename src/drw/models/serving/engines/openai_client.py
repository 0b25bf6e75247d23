"""Client of OpenAI's API: requests, responses as server-sent events, and the mapping of failures to errors."""

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
from drw.models.serving.engines.upstream_errors import stream_error, upstream_error
from drw.models.serving.errors import (
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
    RequestTimedOut,
    ResponseTruncated,
)
from drw.models.serving.openai.chunks import EXTRA_TEXT_FIELDS, TEXT_FIELDS, has_token
from drw.models.serving.openai.usage import ONE_PIECE, usage_update, without_cache_counts
from drw.models.serving.ports import UNLIMITED, Body, Chunk, EngineEvent, EngineLimits, EngineTarget
from drw.models.serving.settings import ClientSettings

T = TypeVar("T")

MAX_EVENT_BYTES = 4 << 20
MAX_ERROR_BYTES = 64 << 10
PROBE_SECONDS = 1.0
DRAIN_SECONDS = 0.2
EVENT_FIELDS = (b"event:", b"id:", b"retry:", b":")
"""Fields of an event other than `data` (HTML standard, "Server-sent events")."""
DELTA_TEXT_FIELDS = (*TEXT_FIELDS, *EXTRA_TEXT_FIELDS)
LIST, DICT, STRING = (list, type(None)), (dict, type(None)), (str, type(None))
JSON_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}


class OpenAIClient:
    """Connections to engines with OpenAI's API.

    `reuse` pools connections; without it each response closes its connection.
    """

    def __init__(self, settings: ClientSettings, *, reuse: bool) -> None:
        self._settings = settings
        self._reuse = reuse
        self._http_client = HttpClient(settings.connect_seconds)
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
        hide_cache_counts: bool = False,
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the events of an answer up to `[DONE]`, each with its usage; raises as `ChatEngine.stream` does.

        `hide_cache_counts` removes counts of cached tokens: the cache can have the prompt of another tenant.
        """
        clock, deadline = asyncio.get_running_loop().time, limits.deadline
        first = target.deadlines.first_token or self._settings.first_token_seconds
        between = target.deadlines.between_tokens or self._settings.between_tokens_seconds
        limit = min(clock() + first, limits.first_token, deadline)
        with waiting("upstream"):
            response = await self._post(target, path, orjson.dumps(body), _headers(headers), limit, deadline)
        try:
            if response.status != 200:
                raise await _response_error(target, response)
            reader = _EventReader(response.content, target, deadline)
            while (events := await reader.next(limit)) is not None:
                for event in events:
                    chunk = _decode(target, event)
                    if hide_cache_counts and (usage := chunk.get("usage")):
                        chunk["usage"] = without_cache_counts(usage)
                    usage_of_chunk = usage_update(chunk)
                    # An event without output is only a keep-alive.
                    is_progress = usage_of_chunk is ONE_PIECE or has_token(chunk)
                    yield chunk, usage_of_chunk
                    if is_progress:
                        limit = min(clock() + between, deadline)
            await self._drain(response)
        finally:
            response.close()

    async def fetch_field(
        self,
        target: EngineTarget,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
        name: str,
        field_type: type[T],
        max_bytes: int = MAX_EVENT_BYTES,
    ) -> T:
        """Return one field of a JSON response of at most `max_bytes`. Without a body the request is a GET.

        Raises as `fetch_json` does, and:
            ResponseTruncated: the field is missing or has another type.
        """
        content = await self.fetch_json(target, path, body, headers, max_bytes)
        value = content.get(name) if isinstance(content, dict) else None
        if not isinstance(value, field_type):
            raise _malformed(target)
        return value

    async def fetch_json(
        self,
        target: EngineTarget,
        path: str,
        body: Body | None,
        headers: Mapping[str, str],
        max_bytes: int = MAX_EVENT_BYTES,
        seconds: float = 0.0,
    ) -> Any:
        """Return a JSON response of at most `max_bytes`. Without a body the request is a GET.

        `seconds` is the timeout of the call. 0: that of a connection attempt.

        Raises:
            EngineUnavailable: no response arrived in time.
            ResponseTruncated: the response is malformed.
            DrwError: the response is an error; see `upstream_errors.upstream_error`.
        """
        try:
            async with (
                asyncio.timeout(seconds or self._settings.connect_seconds),
                self._session(target.base_url).request(
                    "GET" if body is None else "POST",
                    self._url(target.base_url, path),
                    data=None if body is None else orjson.dumps(body),
                    headers=_headers(headers),
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise await _response_error(target, response)
                raw = b"".join([data async for data in _read_body(response, max_bytes)])
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unavailable(target) from error
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise _malformed(target) from error

    async def probe(self, target: EngineTarget, path: str, headers: Mapping[str, str]) -> int:
        """Return the status of a GET; raise `EngineUnavailable` if no response arrives within a second."""
        try:
            async with (
                asyncio.timeout(PROBE_SECONDS),
                self._session(target.base_url).get(
                    self._url(target.base_url, path), headers=headers, allow_redirects=False
                ) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unavailable(target) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._http_client.close()
        for session in self._sessions.values():
            await session.close()

    async def _post(
        self, target: EngineTarget, path: str, data: bytes, headers: Mapping[str, str], limit: float, deadline: float
    ) -> aiohttp.ClientResponse | Response:
        url = self._url(target.base_url, path)
        if self._reuse and url.scheme == "http" and url.raw_user is None and url.raw_password is None:
            try:
                async with asyncio.timeout_at(limit):
                    path, seconds = _socket_path(target.base_url), target.deadlines.connect
                    return await self._http_client.post(url, headers, data, path=path, connect_seconds=seconds)
            except TimeoutError as error:
                raise timeout_error(target, deadline) from error
            except ConnectionError as error:
                raise _unavailable(target) from error
        session = self._session(target.base_url)
        options: dict[str, Any] = {"data": data, "headers": headers, "allow_redirects": False}
        if seconds := target.deadlines.connect:
            options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=seconds)
        opened_before = _connections_created(session)
        try:
            async with asyncio.timeout_at(limit):
                try:
                    return await session.post(url, **options)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    if _connections_created(session) != opened_before:
                        raise
                    # The upstream closed the pooled connection while it was idle: retry on a new one.
                    return await session.post(url, **options)
        except aiohttp.ServerTimeoutError as error:
            raise _unavailable(target) from error  # no connection in time
        except TimeoutError as error:
            raise timeout_error(target, deadline) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable(target) from error

    async def _drain(self, response: aiohttp.ClientResponse | Response) -> None:
        """Read the last bytes after `[DONE]`, so that the connection can be reused."""
        if self._reuse and not response.content.at_eof():
            with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while await response.content.readany():
                        pass

    def _session(self, base_url: str) -> aiohttp.ClientSession:
        socket = base_url if base_url.startswith("unix:") else ""
        if socket not in self._sessions:
            options: dict[str, Any] = {"limit": 0, "force_close": not self._reuse}
            connector: aiohttp.BaseConnector
            if socket:
                connector = _UnixConnector(_socket_path(socket), **options)
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
        """Return the URL of a path; a leading slash replaces the path of the base URL, such as `/v1`."""
        if (url := self._urls.get((base_url, path))) is None:
            base = URL("http://engine/v1" if base_url.startswith("unix:") else base_url)
            url = base.with_path(path) if path.startswith("/") else base / path
            self._urls[base_url, path] = url
        return url


def _socket_path(base_url: str) -> str:
    """Return the path of the Unix socket of an engine; empty for TCP."""
    return base_url.removeprefix("unix:") if base_url.startswith("unix:") else ""


class _TcpConnector(aiohttp.TCPConnector):
    """Counts new connections: an unchanged count means that a request used a pooled connection."""

    created = 0

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.created += 1
        return await super()._create_connection(*args, **kwargs)


class _UnixConnector(aiohttp.UnixConnector):
    """Counts new connections to a Unix socket."""

    created = 0

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.created += 1
        return await super()._create_connection(*args, **kwargs)


def _connections_created(session: aiohttp.ClientSession) -> int:
    connector = session.connector
    return connector.created if isinstance(connector, _TcpConnector | _UnixConnector) else 0


class _EventReader:
    """Parses server-sent events of a body while it arrives."""

    def __init__(self, content: aiohttp.StreamReader | Response, target: EngineTarget, deadline: float) -> None:
        self._content = content
        self._target = target
        self._deadline = deadline
        self._unparsed = b""
        self._done = False

    async def next(self, limit: float) -> list[bytes] | None:
        """Return the data of the events that arrived, possibly none; None after `[DONE]`."""
        if self._done:
            return None
        try:
            if not (data := self._content.read_nowait()):  # data that has arrived needs no timer
                async with asyncio.timeout_at(limit):
                    with waiting("upstream"):
                        data = await self._content.readany()
        except TimeoutError as error:
            raise timeout_error(self._target, self._deadline) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _truncated(self._target) from error
        if not data:
            raise _truncated(self._target)
        *lines, self._unparsed = (self._unparsed + data).split(b"\n")
        if len(self._unparsed) > MAX_EVENT_BYTES:
            raise EngineUnavailable(f"the engine of {self._target.model!r} sent an event over {MAX_EVENT_BYTES} bytes")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                events.append(line[5:].strip())
            elif (line := line.strip()) and not line.startswith(EVENT_FIELDS):
                raise _malformed(self._target)  # a skipped line could be a part of the answer
        if b"[DONE]" in events:
            self._done = True
            events = events[: events.index(b"[DONE]")]
        return events


def authorization_header(target: EngineTarget) -> dict[str, str]:
    """Return the authorization header with the API key of the upstream from the environment.

    Raises:
        EngineMisconfigured: the environment variable is not set.
    """
    if not target.api_key_variable:
        return {}
    if not (key := os.environ.get(target.api_key_variable)):
        raise EngineMisconfigured(
            f"the key for {target.model!r} is missing: set {target.api_key_variable} in serving's environment"
        )
    return {"authorization": f"Bearer {key}"}


def _headers(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request, including the trace context."""
    return {**JSON_HEADERS, **telemetry.outgoing_headers(), **extra}


def _decode(target: EngineTarget, event: bytes) -> Chunk:
    try:
        chunk = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        raise _malformed(target) from error
    if not isinstance(chunk, dict):
        raise _malformed(target)
    if problem := chunk.get("error"):
        raise stream_error(target, problem)
    if not _is_well_formed(chunk):
        raise _malformed(target)
    return chunk


def _is_well_formed(chunk: Chunk) -> bool:
    """Return whether the fields of a chunk that serving reads have the expected types."""
    choices = chunk.get("choices")
    if not isinstance(choices, LIST) or not isinstance(chunk.get("usage"), DICT):
        return False
    for choice in choices or ():
        if not isinstance(choice, dict) or not isinstance(choice.get("index", 0), int):
            return False
        if not isinstance(choice.get("delta"), DICT) or not isinstance(choice.get("finish_reason"), STRING):
            return False
        delta = choice.get("delta") or choice
        for name in DELTA_TEXT_FIELDS:  # hot path: a generator would cost more than the loop
            if not isinstance(delta.get(name), STRING):
                return False
        if not isinstance(calls := delta.get("tool_calls"), LIST) or (calls and not all(map(_is_tool_call, calls))):
            return False
        if not isinstance(choice.get("logprobs"), DICT):
            return False
    return True


def _is_tool_call(call: Any) -> bool:
    """Return whether this is a delta of a tool call."""
    if not isinstance(call, dict) or not isinstance(call.get("index"), int | None):
        return False
    function = call.get("function") or {}
    return isinstance(function, dict) and all(
        isinstance(value, STRING) for value in (call.get("id"), function.get("name"), function.get("arguments"))
    )


async def _response_error(target: EngineTarget, response: aiohttp.ClientResponse | Response) -> DrwError:
    raw = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
        async with asyncio.timeout(PROBE_SECONDS):
            async for data in _read_body(response, MAX_ERROR_BYTES):
                raw += data
    return upstream_error(target, response.status, bytes(raw), response.headers.get("retry-after"))


async def _read_body(response: aiohttp.ClientResponse | Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body up to `max_bytes`; one read returns only the bytes that have arrived."""
    while max_bytes > 0 and (data := await response.content.read(max_bytes)):
        max_bytes -= len(data)
        yield data


def _unavailable(target: EngineTarget) -> EngineUnavailable:
    return EngineUnavailable(
        f"the engine of {target.model!r} does not answer; it may be restarting: try again",
        **_process_metadata(target),
    )


def _truncated(target: EngineTarget) -> ResponseTruncated:
    return ResponseTruncated(
        f"the engine of {target.model!r} ended in the middle of the answer: try again", **_process_metadata(target)
    )


def _process_metadata(target: EngineTarget) -> dict[str, str]:
    """Return the error metadata of the bundled engine, whose start time is measured."""
    return {"part": "engine"} if target.base_url.startswith("unix:") else {}


def malformed_response(target: EngineTarget) -> ResponseTruncated:
    """Return the error for a response that does not have the documented form."""
    return _malformed(target)


def _malformed(target: EngineTarget) -> ResponseTruncated:
    return ResponseTruncated(f"the engine of {target.model!r} sent a malformed response: try again")


def timeout_error(target: EngineTarget, deadline: float) -> DrwError:
    """Return the error for a timeout: of the request if its deadline passed, otherwise of the engine."""
    if asyncio.get_running_loop().time() >= deadline:
        return RequestTimedOut(f"the time limit of this request ended while {target.model!r} was answering")
    return EngineStalled(f"the engine of {target.model!r} sent no token within the time limit")
