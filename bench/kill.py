"""Time until a kill has ended all live streams: `python -m bench.kill [ROUNDS]`.

200 endless streams, half through the managed route and half from Envoy directly to an upstream. Each round kills them
by key, desk or model, and measures from the API call (or from the start of the command `drw kill`) to the last byte of
any stream. Then the kill is lifted, and the next round starts once requests pass again.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.support.endless_platform import Platform, make_key, run_platform, summary_line
from bench.support.targets import DRW

STREAMS = 200
ROUNDS = 30
DESK = "research-b"
PATHS = ("/v1/chat/completions", "/endless")
BODY = b'{"model": "endless", "stream": true, "messages": [{"role": "user", "content": "x"}]}'


class Stream:
    """One stream, with the time of its last byte."""

    def __init__(self) -> None:
        self.first_event = asyncio.Event()
        self.last_byte_at = 0.0
        self.has_reason = False

    async def run(self, port: int, path: str, secret: str) -> None:
        """Read the stream to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {secret}\r\ncontent-length: {len(BODY)}\r\n\r\n"
        writer.write(head.encode() + BODY)
        try:
            while data := await reader.read(1 << 16):
                self.last_byte_at = time.perf_counter()
                self.has_reason = self.has_reason or b'"killed"' in data
                if b"data:" in data:
                    self.first_event.set()
                elif data.startswith(b"HTTP/1.1") and data[9:12] != b"200":
                    raise AssertionError(f"{path}: {data[:1000]!r}")
                if data.endswith(b"0\r\n\r\n"):
                    break
        except ConnectionError:
            pass
        writer.close()


async def measure_round(
    platform: Platform, api: httpx.Client, key: tuple[str, str], subject: str, command: bool
) -> float:
    """Return the seconds from the kill to the last byte on any stream."""
    streams = [Stream() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(s.run(platform.port, PATHS[i % 2], key[1])) for i, s in enumerate(streams)]
    async with asyncio.timeout(60):
        all_started = asyncio.gather(*(s.first_event.wait() for s in streams))
        waiting: set[asyncio.Future[Any]] = {all_started, *tasks}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # raises where a stream was refused
        await all_started
    name = {"key": key[0], "desk": DESK, "model": "endless"}[subject]
    started_at = time.perf_counter()
    kill = await asyncio.to_thread(_kill, platform, api, subject, name, command)
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
    if missing := sum(not s.has_reason for s in streams):
        pass_through = sum(not s.has_reason for s in streams[1::2])
        print(
            f"{missing} of {STREAMS} streams ended without an event, {pass_through} of them pass-through",
            flush=True,
        )
    await asyncio.to_thread(_lift, api, kill, key[1])
    return max(s.last_byte_at for s in streams) - started_at


def _kill(platform: Platform, api: httpx.Client, subject: str, name: str, command: bool) -> str:
    if command:
        line = [str(DRW), "kill", f"--{subject}", name, "--reason", "a drill"]
        output = subprocess.run(line, env=platform.env, check=True, capture_output=True, text=True).stdout
        return output.partition(":")[0]
    body = {"subject": subject.upper(), "name": name, "reason": "a drill"}
    return str(api.post("/api/v1/kills", json=body).raise_for_status().json()["id"])


def _lift(api: httpx.Client, kill: str, secret: str) -> None:
    api.post(f"/api/v1/kills/{kill}:lift", json={"reason": "the drill is over"}).raise_for_status()
    _wait_until_accepted(api, secret)


def _wait_until_accepted(api: httpx.Client, secret: str) -> None:
    """Return once both paths accept the key."""
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    for path in PATHS:
        status = 0
        while status != 200:
            with api.stream("POST", path, content=BODY, headers=headers) as response:
                status = response.status_code
            time.sleep(0.05)


async def main(rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="drw-bench-") as folder,
        run_platform(Path(folder)) as platform,
        platform.api() as api,
    ):
        key = make_key(api, DESK, "models:invoke")
        await asyncio.to_thread(_wait_until_accepted, api, key[1])
        for command, count in ((False, rounds), (True, max(5, rounds // 5))):
            durations = []
            for n in range(count):
                durations.append(await measure_round(platform, api, key, ("key", "desk", "model")[n % 3], command))
            start = "from the start of the command" if command else "from the call of the API"
            print(
                summary_line(f"{STREAMS} streams, {start} to the last byte", durations, "(aim: p99 under 1000 ms)"),
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.kill", description="How fast a kill ends live streams.")
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS, help="kills by API; a fifth as many by command")
    asyncio.run(main(parser.parse_args().rounds))
