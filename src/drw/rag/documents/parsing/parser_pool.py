"""Pool of parser processes: parses files outside this process, and keeps idle processes for the next file."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from drw.kernel.errors import Unavailable
from drw.kernel.rpc import context
from drw.rag.documents.parsing.fair_slots import FairSlots
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings as Settings

LONGEST_ANSWER = 32 << 20
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
"""The environment variables of a parser process: no secrets."""
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
IDLE_SECONDS = 30.0
START_TRIES = 3


@dataclass(slots=True)
class ParsedText:
    """The text of a file."""

    pages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Parts that are damaged or hidden and were left out."""
    encoding: str = ""

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take the next answer of a worker."""
        if "page" in answer:
            self.pages.append(answer["page"])
        elif "end" in answer:
            self.warnings = answer["warnings"]
            self.encoding = answer["encoding"]


class ParserPool:
    """Parses files; a file that crashes or exhausts its parser process affects no other file."""

    def __init__(self, settings: Settings) -> None:
        self.settings = self._settings = settings
        self._reading = FairSlots(settings.workers)
        self._receiving = FairSlots(settings.workers)
        self._idle: list[tuple[asyncio.subprocess.Process, asyncio.TimerHandle]] = []

    async def check(self, file: Path, kind: str) -> str:
        """Check that a file can be parsed; return the encoding of a text file, otherwise an empty string.

        Raises:
            ParseFailed: it cannot.
        """
        parsed = ParsedText()
        async for answer in self._ask(do="check", file=str(file), kind=kind):
            parsed.take(answer)
        return parsed.encoding

    async def text(self, file: Path, kind: str, enough: int = 0) -> ParsedText:
        """Return the text of each page; with `enough`, stop once there are so many characters.

        Raises:
            ParseFailed: the file cannot be read, or is over a limit.
        """
        parsed = ParsedText()
        async for answer in self._ask(do="pages", file=str(file), kind=kind, enough=enough):
            parsed.take(answer)
        return parsed

    async def pages(self, file: Path, kind: str, enough: int = 0) -> list[str]:
        """Return only the pages of the text."""
        return (await self.text(file, kind, enough)).pages

    async def embedded(self, file: Path, kind: str) -> AsyncGenerator[tuple[str, int] | bytes, None]:
        """Yield the name and the size of each file that is attached to this one, then its bytes in pieces.

        Raises:
            ParseFailed: the file cannot be read.
        """
        async with aclosing(self._ask(do="embedded", file=str(file), kind=kind)) as answers:
            async for answer in answers:
                if "file" in answer:
                    yield answer["file"], answer["size"]
                elif "bytes" in answer:
                    yield base64.b64decode(answer["bytes"])

    async def decrypted(self, file: Path, kind: str, password: str) -> AsyncGenerator[bytes, None]:
        """Yield an encrypted file without its encryption, in pieces.

        Raises:
            ParseFailed: the password is missing or wrong.
        """
        async with aclosing(self._ask(do="decrypted", file=str(file), kind=kind, password=password)) as answers:
            async for answer in answers:
                if "bytes" in answer:
                    yield base64.b64decode(answer["bytes"])

    async def stop(self) -> None:
        """End all idle parser processes."""
        for worker, timer in self._idle:
            timer.cancel()
            await _end(worker)
        self._idle.clear()

    async def _ask(self, **request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the answers to a request; the time that the caller takes with them counts too."""
        own = self._settings
        cpu_seconds = self._cpu_seconds(Path(request["file"]))
        request = {"enough": 0, **request, "limits": asdict(own.limits), "seconds": cpu_seconds}
        slots = self._reading if request["do"] == "pages" else self._receiving
        caller = context.caller_or_none()
        async with slots.held(caller.org if caller else ""), self._worker() as worker:
            try:
                async with asyncio.timeout(own.seconds):
                    async for answer in _answers(worker, request):
                        yield answer
            except TimeoutError:
                raise _WorkerBroken(f"reading this file takes more than {own.seconds} seconds") from None
            except _WorkerDied:
                most = f"{own.memory_mebibytes} MiB and {cpu_seconds} seconds of processor time"
                raise _WorkerBroken(
                    f"this file cannot be read: it breaks its parser, or takes more than {most}"
                ) from None

    def _cpu_seconds(self, file: Path) -> int:
        own = self._settings
        size = file.stat().st_size if file.exists() else 0
        return min(own.seconds, own.base_cpu_seconds + own.cpu_seconds_per_mebibyte * (size >> 20))

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Yield a parser process; keep it for the next file only if it has finished this one."""
        worker = self._take() or await self._started()
        try:
            yield worker
        except BaseException as error:
            if type(error) is ParseFailed:
                self._keep(worker)
            else:
                await _end(worker)
            raise
        self._keep(worker)

    async def _started(self) -> asyncio.subprocess.Process:
        """Start a parser process; retry if it ends before its first request, which is no fault of the file."""
        for _ in range(START_TRIES):
            worker = await self._start()
            if _is_alive(worker):
                return worker
            await _end(worker)
        raise Unavailable("no parser can be started: each one ends at once")

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | ONE_THREAD
        try:
            return await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "drw.rag.documents.parsing.parser_process",
                    str(self._settings.memory_mebibytes),
                ),
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
            if _is_alive(worker):
                return worker
        return None

    def _keep(self, worker: asyncio.subprocess.Process) -> None:
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go, worker)
        self._idle.append((worker, timer))

    def _let_go(self, worker: asyncio.subprocess.Process) -> None:
        self._idle = [(other, timer) for other, timer in self._idle if other is not worker]
        if worker.stdin:
            worker.stdin.close()  # it ends by itself


class _WorkerBroken(ParseFailed):
    """The parser process cannot be used again."""


class _WorkerDied(Exception):
    """The parser process ended while it read a file."""


async def _answers(worker: asyncio.subprocess.Process, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    assert worker.stdin and worker.stdout
    try:
        worker.stdin.write(orjson.dumps(request) + b"\n")
        await worker.stdin.drain()
        while line := await worker.stdout.readline():
            answer = orjson.loads(line)
            if "refused" in answer:
                raise ParseFailed(answer["refused"], answer["code"])
            yield answer
            if "end" in answer:
                return
    # readline: the answer exceeds the limit; a write to a pipe that has just closed is a RuntimeError in uvloop.
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _WorkerDied from error
    raise _WorkerDied


def _is_alive(worker: asyncio.subprocess.Process) -> bool:
    """Return whether the process runs and takes requests: its end is known later than that of its pipe."""
    return worker.returncode is None and worker.stdin is not None and not worker.stdin.is_closing()


async def _end(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
