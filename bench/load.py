"""Sends requests in closed loops over kept connections, and measures each from first byte out to last byte in."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


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
    url: str, headers: dict[str, str], body: bytes, *, clients: int, seconds: float, warm_up: float = 0.5
) -> Load:
    """POST the body from so many clients at once for so long; what comes before `warm_up` does not count."""
    parts = urlsplit(url)
    head = {"host": parts.netloc, "content-type": "application/json", "content-length": str(len(body)), **headers}
    request = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in head.items()) + "\r\n"
    data = request.encode() + body
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
            )
            for _ in range(clients)
        )
    )
    return Load.of(times, seconds, failures[0])


async def _client(
    host: str, port: int, data: bytes, times: list[float], failures: list[int], start: float, end: float
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while (sent := time.perf_counter()) < end:
        try:
            writer.write(data)
            status = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
            writer.close()
            reader, writer = await asyncio.open_connection(host, port)
        done = time.perf_counter()
        if sent >= start and done <= end:
            if status == 200:
                times.append(done - sent)
            else:
                failures[0] += 1
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if (at := lower.find(b"content-length:")) >= 0:
        await reader.readexactly(int(lower[at + 15 : lower.index(b"\r\n", at)]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head[9:12])
