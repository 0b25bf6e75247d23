"""Probe over HTTP: the list of models of OpenAI's API, and the health endpoint of llama.cpp."""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import orjson
from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base
from drw.models.discovery.ports import EndpointProbe, ProbeAnswer, ProbeFailed, ReplicaAddress

MAX_BYTES = 4 << 20
"""Maximum size of a list of models."""
MAX_MODELS = 10_000
MAX_ID = 256
PATHS = {"llama_cpp": "health"}


class ProbeSettings(Base):
    """`[services.discovery.http_probe]`."""

    seconds: float = Field(5.0, gt=0, le=60)
    """Time limit of one probe, in seconds."""


class HttpProbe(EndpointProbe):
    """Sends GET requests. It follows no redirects and sends the key of the upstream only to its configured address."""

    Settings = ProbeSettings

    def __init__(self, settings: ProbeSettings) -> None:
        self._timeout = aiohttp.ClientTimeout(total=settings.seconds)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def ask(self, replica: ReplicaAddress) -> ProbeAnswer:
        """Ask for the list of models; a status of 400 and above comes without a list."""
        session, base = self._session(replica.base_url)
        key = os.environ.get(replica.api_key_variable, "") if replica.api_key_variable else ""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            url = f"{base}/{PATHS.get(replica.engine, 'models')}"
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200 or replica.engine == "llama_cpp":
                    return ProbeAnswer(answer.status, None)
                return ProbeAnswer(answer.status, _models(await _read(answer)))
        except TimeoutError as error:
            raise ProbeFailed(f"no answer within {self._timeout.total:g} s") from error
        # Its text can contain the address and headers.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProbeFailed(f"cannot be reached ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()

    def _session(self, base_url: str) -> tuple[aiohttp.ClientSession, str]:
        """Return a session and the base URL; each Unix socket has its own session."""
        path = base_url.removeprefix("unix:") if base_url.startswith("unix:") else ""
        if path not in self._sessions:
            connector = aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector(limit_per_host=4)
            self._sessions[path] = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._sessions[path], "http://engine" if path else base_url


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for block in answer.content.iter_chunked(1 << 16):
        body += block
        if len(body) > MAX_BYTES:
            raise ProbeFailed(f"its list of models has more than {MAX_BYTES:,} bytes")
    return bytes(body)


def _models(body: bytes) -> tuple[str, ...] | None:
    """Return the ids of OpenAI's list of models; None: it is something else."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    listed = value.get("data") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        return None
    ids = [each.get("id") for each in listed[:MAX_MODELS] if isinstance(each, dict)]
    return tuple(each[:MAX_ID] for each in ids if isinstance(each, str))
