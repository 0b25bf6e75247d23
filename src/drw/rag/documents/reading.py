"""Reads files in worker processes: some are kept for the next file, and let go when none comes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from drw.kernel import call, settings
from drw.kernel.errors import Unavailable
from drw.kernel.fair_slots import FairSlots
from drw.rag.documents.ports import Limits, Refused

LONGEST_ANSWER = 32 << 20
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
"""What a worker gets of the environment: no secrets."""
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
IDLE_SECONDS = 30.0


class Settings(settings.Settings):
    """Bounds of reading one file, and how many are read at once."""

    most_pages: int = 3000
    most_characters: int = 20_000_000
    most_unpacked_bytes: int = 256 << 20
    memory_mebibytes: int = 1536
    seconds: int = 300
    """The longest that one file may take, in seconds."""
    base_cpu_seconds: int = 20
    cpu_seconds_per_mebibyte: int = 15
    """The processor time for a file: the base, and so much for each mebibyte of it, but at most `seconds`."""
    workers: int = 3
    """Files that are read at once, and as many that are checked while they are uploaded. One org has all but one."""

    @property
    def limits(self) -> Limits:
        """The limits that a parser sees."""
        return Limits(self.most_pages, self.most_characters, self.most_unpacked_bytes)


class Reader:
    """Gives the text of files; a file that breaks its worker breaks nothing else."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = {do: FairSlots(settings.workers) for do in ("check", "pages")}
        self._idle: list[tuple[asyncio.subprocess.Process, asyncio.TimerHandle]] = []

    async def check(self, file: Path, kind: str) -> None:
        """Look whether the file can be read.

        Raises:
            Refused: it cannot.
        """
        await self._ask(do="check", file=str(file), kind=kind, enough=0)

    async def pages(self, file: Path, kind: str, enough: int = 0) -> list[str]:
        """Return the text of each page; with `enough` no more pages once there are so many characters.

        Raises:
            Refused: the file cannot be read, or is over a limit.
        """
        return await self._ask(do="pages", file=str(file), kind=kind, enough=enough)

    async def stop(self) -> None:
        """End all workers that wait."""
        for worker, timer in self._idle:
            timer.cancel()
            await _end(worker)
        self._idle.clear()

    async def _ask(self, **request: Any) -> list[str]:
        own = self._settings
        cpu_seconds = self._cpu_seconds(Path(request["file"]))
        request |= {"limits": asdict(own.limits), "seconds": cpu_seconds}
        who = call.caller_or_none()
        async with self._slots[request["do"]].held(who.org if who else ""), self._worker() as worker:
            try:
                async with asyncio.timeout(own.seconds):
                    return await _answers(worker, request)
            except TimeoutError:
                raise _Broken(f"reading this file takes more than {own.seconds} seconds") from None
            except _Died:
                most = f"{own.memory_mebibytes} MiB and {cpu_seconds} seconds of processor time"
                raise _Broken(f"this file cannot be read: it breaks its parser, or takes more than {most}") from None

    def _cpu_seconds(self, file: Path) -> int:
        own = self._settings
        size = file.stat().st_size if file.exists() else 0
        return min(own.seconds, own.base_cpu_seconds + own.cpu_seconds_per_mebibyte * (size >> 20))

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Give a worker; it is kept only where it stands at the end of a file."""
        worker = self._take() or await self._start()
        try:
            yield worker
        except BaseException as error:
            if type(error) is Refused:
                self._keep(worker)
            else:
                await _end(worker)
            raise
        self._keep(worker)

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | ONE_THREAD
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "drw.rag.documents.worker", str(self._settings.memory_mebibytes)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LONGEST_ANSWER,
                env=environment,
            )
        except OSError as error:
            raise Unavailable(f"no parser can be started: {error.strerror}") from error

    def _take(self) -> asyncio.subprocess.Process | None:
        while self._idle:
            worker, timer = self._idle.pop()
            timer.cancel()
            if worker.returncode is None:
                return worker
        return None

    def _keep(self, worker: asyncio.subprocess.Process) -> None:
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go, worker)
        self._idle.append((worker, timer))

    def _let_go(self, worker: asyncio.subprocess.Process) -> None:
        self._idle = [(other, timer) for other, timer in self._idle if other is not worker]
        if worker.stdin:
            worker.stdin.close()  # it ends by itself


class _Broken(Refused):
    """The worker is of no more use after this file."""


class _Died(Exception):
    """The worker ended in the middle of a file."""


async def _answers(worker: asyncio.subprocess.Process, request: dict[str, Any]) -> list[str]:
    assert worker.stdin and worker.stdout
    pages: list[str] = []
    try:
        worker.stdin.write(orjson.dumps(request) + b"\n")
        await worker.stdin.drain()
        while line := await worker.stdout.readline():
            answer = orjson.loads(line)
            if "refused" in answer:
                raise Refused(answer["refused"], answer["code"])
            if "end" in answer:
                return pages
            pages.append(answer["page"])
    except (ConnectionError, ValueError) as error:  # readline: an answer longer than may be
        raise _Died from error
    raise _Died


async def _end(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
