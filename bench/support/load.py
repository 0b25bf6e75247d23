"""Sends requests in closed loops over kept connections, and measures each from first byte out to last byte in."""

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
    """What was measured: requests a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int

    @classmethod
    def of(cls, times: list[float], seconds: float, failed: int) -> Load:
        """Sum up the times of the requests, in seconds."""
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
    """POST the body from so many clients at once for so long; what comes before `warm_up` does not count.

    An answer with another status than this has failed.
    """
    parts = urlsplit(url)
    data = _request(url, headers, body)
    began = time.perf_counter()
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
                began + warm_up,
                began + warm_up + seconds,
                status,
            )
            for _ in range(clients)
        )
    )
    return Load.of(times, seconds, failures[0])


@dataclass(frozen=True, slots=True)
class Streamed:
    """Medians and 99th percentiles in milliseconds: to the first word, and how much later than sent each word came."""

    first_p50: float
    first_p99: float
    late_p50: float
    late_p99: float
    failed: int


async def stream(url: str, headers: dict[str, str], body: bytes, *, clients: int, answers: int) -> Streamed:
    """Have so many clients read so many streamed answers each, whose words are the moments they were sent."""
    firsts: list[float] = []
    lates: list[float] = []
    failures = [0]
    await asyncio.gather(*(_reader(url, headers, body, answers, firsts, lates, failures) for _ in range(clients)))
    return Streamed(*_middle_and_end(firsts), *_middle_and_end(lates), failures[0])


async def _reader(
    url: str,
    headers: dict[str, str],
    body: bytes,
    answers: int,
    firsts: list[float],
    lates: list[float],
    failures: list[int],
) -> None:
    data, parts = _request(url, headers, body), urlsplit(url)
    for _ in range(answers):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        began = time.monotonic_ns()
        writer.write(data)
        words = [(came, int(word)) async for came, word in _words(reader)]
        writer.close()
        if len(words) != PACED_WORDS:
            failures[0] += 1
            continue
        firsts.append(words[0][0] - began)
        lates.extend(came - sent for came, sent in words)


async def _words(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """Yield each word of a streamed answer with the moment it came, in nanoseconds of the machine's clock."""
    while line := await reader.readline():
        came = time.monotonic_ns()
        if found := WORD.search(line):
            yield came, found[1]
        if b"[DONE]" in line or b'"error"' in line:
            return


def _middle_and_end(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times) or [float("nan")]
    return ordered[len(ordered) // 2] / 1e6, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1e6


def _request(url: str, headers: dict[str, str], body: bytes) -> bytes:
    parts = urlsplit(url)
    head = {"host": parts.netloc, "content-type": "application/json", "content-length": str(len(body)), **headers}
    lines = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in head.items()) + "\r\n"
    return lines.encode() + body


async def _client(
    host: str,
    port: int,
    data: bytes,
    times: list[float],
    failures: list[int],
    start: float,
    end: float,
    wanted: int,
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while (sent := time.perf_counter()) < end:
        try:
            writer.write(data)
            status, stays = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            status, stays = 0, False
        done = time.perf_counter()
        if not stays:
            writer.close()
            reader, writer = await asyncio.open_connection(host, port)
        if status != wanted:
            failures[0] += 1  # whenever it was
        elif sent >= start and done <= end:
            times.append(done - sent)
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read an answer; return its status, and whether the connection stays open after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if (at := lower.find(b"content-length:")) >= 0:
        await reader.readexactly(int(lower[at + 15 : lower.index(b"\r\n", at)]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head[9:12]), b"connection: close" not in lower
