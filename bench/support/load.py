"""Closed-loop load generator with keep-alive connections; measures from first byte sent to last byte received."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.support.upstream import PACED_WORDS

WORD = re.compile(rb'"content": ?"(\d{9,}) "')


@dataclass(frozen=True, slots=True)
class Load:
    """Throughput in requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int

    @classmethod
    def of(cls, times: list[float], seconds: float, failed: int) -> Load:
        """Return the statistics of request durations in seconds."""
        ordered = sorted(times) or [float("nan")]
        return cls(
            len(times) / seconds,
            ordered[len(ordered) // 2] * 1000,
            ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
            failed,
        )


async def run(
    url: str,
    headers: dict[str, str],
    body: bytes,
    *,
    clients: int,
    seconds: float,
    warm_up: float = 0.5,
    status: int = 200,
) -> Load:
    """POST the body with concurrent clients for a time; requests during the warm-up do not count.

    A response with another status than `status` counts as failed.
    """
    parts = urlsplit(url)
    data = _request(url, headers, body)
    started_at = time.perf_counter()
    times: list[float] = []
    failures = [0]
    await asyncio.gather(
        *(
            _client(
                parts.hostname or "",
                parts.port or 80,
                data,
                times,
                failures,
                started_at + warm_up,
                started_at + warm_up + seconds,
                status,
            )
            for _ in range(clients)
        )
    )
    return Load.of(times, seconds, failures[0])


@dataclass(frozen=True, slots=True)
class StreamLatency:
    """Median and p99 in milliseconds: of the first word, and of the delay of each word since it was sent."""

    first_p50: float
    first_p99: float
    late_p50: float
    late_p99: float
    failed: int


async def stream(url: str, headers: dict[str, str], body: bytes, *, clients: int, answers: int) -> StreamLatency:
    """Read streamed responses with concurrent clients. Each word of the mock is the time at which it was sent."""
    first_word_times: list[float] = []
    delays: list[float] = []
    failures = [0]
    await asyncio.gather(
        *(_reader(url, headers, body, answers, first_word_times, delays, failures) for _ in range(clients))
    )
    return StreamLatency(*_percentiles(first_word_times), *_percentiles(delays), failures[0])


async def _reader(
    url: str,
    headers: dict[str, str],
    body: bytes,
    answers: int,
    first_word_times: list[float],
    delays: list[float],
    failures: list[int],
) -> None:
    data, parts = _request(url, headers, body), urlsplit(url)
    for _ in range(answers):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        started_at = time.monotonic_ns()
        writer.write(data)
        words = [(received_at, int(word)) async for received_at, word in _words(reader)]
        writer.close()
        if len(words) != PACED_WORDS:
            failures[0] += 1
            continue
        first_word_times.append(words[0][0] - started_at)
        delays.extend(received_at - sent for received_at, sent in words)


async def _words(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """Yield each word of a streamed response with its arrival time, in nanoseconds of the monotonic clock."""
    while line := await reader.readline():
        received_at = time.monotonic_ns()
        if match := WORD.search(line):
            yield received_at, match[1]
        if b"[DONE]" in line or b'"error"' in line:
            return


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times) or [float("nan")]
    return ordered[len(ordered) // 2] / 1e6, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1e6


def _request(url: str, headers: dict[str, str], body: bytes) -> bytes:
    parts = urlsplit(url)
    request_headers = {
        "host": parts.netloc,
        "content-type": "application/json",
        "content-length": str(len(body)),
        **headers,
    }
    lines = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in request_headers.items()) + "\r\n"
    return lines.encode() + body


async def _client(
    host: str,
    port: int,
    data: bytes,
    times: list[float],
    failures: list[int],
    start: float,
    end: float,
    expected_status: int,
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while (sent := time.perf_counter()) < end:
        try:
            writer.write(data)
            status, keep_alive = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            status, keep_alive = 0, False
        done = time.perf_counter()
        if not keep_alive:
            writer.close()
            reader, writer = await asyncio.open_connection(host, port)
        if status != expected_status:
            failures[0] += 1  # also during the warm-up
        elif sent >= start and done <= end:
            times.append(done - sent)
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read a response; return its status, and whether the connection stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if (at := lower.find(b"content-length:")) >= 0:
        await reader.readexactly(int(lower[at + 15 : lower.index(b"\r\n", at)]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head[9:12]), b"connection: close" not in lower
