"""How fast a kill switch acts on live streams: `python -m bench.kill [ROUNDS]`.

200 streams without an end, half through the managed route and half straight from Envoy to an upstream; each round
kills them by key, desk or model, and measures from the call (or from the start of the command `drw kill`) to the last
byte that any of them got. Then the kill is lifted, and a new round begins once calls pass again.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.support.stopping import Stand, make_key, stand, told
from bench.support.targets import DRW

STREAMS = 200
ROUNDS = 30
DESK = "research-b"
PATHS = ("/v1/chat/completions", "/endless")
BODY = b'{"model": "endless", "stream": true, "messages": [{"role": "user", "content": "x"}]}'


class Stream:
    """One stream, and when its last byte came."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.last = 0.0
        self.said_why = False

    async def run(self, port: int, path: str, secret: str) -> None:
        """Read it to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {secret}\r\ncontent-length: {len(BODY)}\r\n\r\n"
        writer.write(head.encode() + BODY)
        try:
            while data := await reader.read(1 << 16):
                self.last = time.perf_counter()
                self.said_why = self.said_why or b'"killed"' in data
                if b"data:" in data:
                    self.first.set()
                elif data.startswith(b"HTTP/1.1") and data[9:12] != b"200":
                    raise AssertionError(f"{path}: {data[:1000]!r}")
                if data.endswith(b"0\r\n\r\n"):
                    break
        except ConnectionError:
            pass
        writer.close()


async def one_round(at: Stand, api: httpx.Client, key: tuple[str, str], subject: str, command: bool) -> float:
    """Return the seconds from the kill to the last byte on any stream."""
    streams = [Stream() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(s.run(at.port, PATHS[i % 2], key[1])) for i, s in enumerate(streams)]
    async with asyncio.timeout(60):
        begun = asyncio.gather(*(s.first.wait() for s in streams))
        waiting: set[asyncio.Future[Any]] = {begun, *tasks}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # raises where a stream was refused
        await begun
    name = {"key": key[0], "desk": DESK, "model": "endless"}[subject]
    began = time.perf_counter()
    kill = await asyncio.to_thread(_kill, at, api, subject, name, command)
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
    if missing := sum(not s.said_why for s in streams):
        ways = sum(not s.said_why for s in streams[1::2])
        print(f"{missing} of {STREAMS} streams ended without saying why, {ways} of them past serving", flush=True)
    await asyncio.to_thread(_lift, api, kill, key[1])
    return max(s.last for s in streams) - began


def _kill(at: Stand, api: httpx.Client, subject: str, name: str, command: bool) -> str:
    if command:
        line = [str(DRW), "kill", f"--{subject}", name, "--reason", "a drill"]
        said = subprocess.run(line, env=at.env, check=True, capture_output=True, text=True).stdout
        return said.partition(":")[0]
    body = {"subject": subject.upper(), "name": name, "reason": "a drill"}
    return str(api.post("/api/v1/kills", json=body).raise_for_status().json()["id"])


def _lift(api: httpx.Client, kill: str, secret: str) -> None:
    api.post(f"/api/v1/kills/{kill}:lift", json={"reason": "the drill is over"}).raise_for_status()
    _passes(api, secret)


def _passes(api: httpx.Client, secret: str) -> None:
    """Return once both ways let the key through."""
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    for path in PATHS:
        status = 0
        while status != 200:
            with api.stream("POST", path, content=BODY, headers=headers) as answer:
                status = answer.status_code
            time.sleep(0.05)


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="drw-bench-") as folder, stand(Path(folder)) as at, at.api() as api:
        key = make_key(api, DESK, "models:invoke")
        await asyncio.to_thread(_passes, api, key[1])
        for command, number in ((False, rounds), (True, max(5, rounds // 5))):
            took = []
            for n in range(number):
                took.append(await one_round(at, api, key, ("key", "desk", "model")[n % 3], command))
            what = "from the start of the command" if command else "from the call of the API"
            print(told(f"{STREAMS} streams, {what} to the last byte", took, "(aim: p99 under 1000 ms)"), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
