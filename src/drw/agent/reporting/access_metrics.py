"""Metrics from the access log: request counts, outcomes, and latency added by Envoy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import orjson
from prometheus_client import Counter, Histogram

from drw.kernel.observability.overhead import EDGE

REQUESTS = Counter("drw_requests", "Requests that Envoy has answered, by route and status.", ["route", "code"])
SECONDS = Histogram(
    "drw_request_seconds",
    "From the first byte of a request to the last of its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
MODEL_PATHS = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/moderations",
    "/v1/rerank",
    "/v1/responses",
}
"""Envoy's own latency is measured for these only."""
READ_BYTES = 1 << 18
"""Bytes to read before yielding to other tasks."""


def count(line: Mapping[str, Any]) -> None:
    """Count one request. The route label is empty if none matched."""
    route, status = line.get("route") or "", line.get("status")
    _requests(route, str(status)).inc()
    if isinstance(ms := line.get("ms"), int):
        _seconds(route).observe(ms / 1000)
    if line.get("path") not in MODEL_PATHS:
        return
    before_us, after_us = _microseconds(line, "before_us"), _microseconds(line, "after_us")
    if before_us is not None and after_us is not None:
        EDGE.observe((before_us - _upload_us(line, before_us) + after_us) / 1e6)


def _upload_us(line: Mapping[str, Any], before_us: int) -> int:
    """Return the time that Envoy waited for the whole body, if it buffered it."""
    received_us = _microseconds(line, "received_us")
    return received_us if received_us is not None and received_us <= before_us else 0


def _microseconds(line: Mapping[str, Any], name: str) -> int | None:
    """Return an optional number, which the log of verified callers has as a string."""
    value = line.get(name)
    return value if isinstance(value, int) else int(value) if isinstance(value, str) and value.isdigit() else None


@lru_cache(maxsize=4096)
def _requests(route: str, status: str) -> Counter:
    return REQUESTS.labels(route, status)


@lru_cache(maxsize=1024)
def _seconds(route: str) -> Histogram:
    return SECONDS.labels(route)


class LogTail:
    """Follows a log file across rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        self._file: IO[bytes] | None = None
        self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    async def count(self) -> None:
        """Count the lines since the last call."""
        while data := self._read():
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                with suppress(orjson.JSONDecodeError):  # a line truncated by a full disk
                    count(orjson.loads(line))
            await asyncio.sleep(0)

    def _read(self) -> bytes:
        if self._file is None:
            self._open()
        if self._file is None:
            return b""
        rotated = self._rotated()
        if not (data := self._file.read(READ_BYTES)) and rotated:
            self._file.close()
            self._open()
            data = self._file.read(READ_BYTES) if self._file else b""
        return data

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb")
        except OSError:
            self._file = None

    def _rotated(self) -> bool:
        """Return whether Envoy has switched to a new file."""
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except OSError:
            return False  # between rotation and the new file
