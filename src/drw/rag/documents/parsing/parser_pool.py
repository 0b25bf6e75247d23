"""Pool of parser processes: parses files in sandboxed processes, which are reused while they are idle."""

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

MAX_RESPONSE_BYTES = 32 << 20
INHERITED_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
"""The environment variables that a parser process inherits: no secrets."""
SINGLE_THREADED = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
IDLE_SECONDS = 30.0
START_ATTEMPTS = 3


@dataclass(slots=True)
class ParsedText:
    """The text of a file."""

    pages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Parts of the file that were skipped because they are damaged or hidden."""
    encoding: str = ""

    def add(self, response: Mapping[str, Any]) -> None:
        """Add the next response of a worker."""
        if "page" in response:
            self.pages.append(response["page"])
        elif "end" in response:
            self.warnings = response["warnings"]
            self.encoding = response["encoding"]


class ParserPool:
    """Parses files; a file that crashes or exhausts its parser process affects no other file.

    Parsing and the checks of uploads have separate slots, which orgs share fairly.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._parse_slots = FairSlots(settings.workers)
        self._upload_slots = FairSlots(settings.workers)
        self._idle: list[tuple[asyncio.subprocess.Process, asyncio.TimerHandle]] = []

    async def check(self, file: Path, extension: str) -> str:
        """Check that a file can be parsed; return the encoding of a text file, otherwise an empty string.

        Raises:
            ParseFailed: it cannot be parsed.
        """
        return (await self._parsed(do="check", file=str(file), extension=extension)).encoding

    async def text(self, file: Path, extension: str, stop_after: int = 0) -> ParsedText:
        """Return the text of each page; stop after the page that reaches `stop_after` characters, if not 0.

        Raises:
            ParseFailed: the file cannot be parsed, or exceeds a limit.
        """
        return await self._parsed(do="pages", file=str(file), extension=extension, stop_after=stop_after)

    async def attachments(self, file: Path, extension: str) -> AsyncGenerator[tuple[str, int] | bytes, None]:
        """Yield the name and the size of each attachment, followed by its bytes in blocks.

        Raises:
            ParseFailed: the file cannot be parsed.
        """
        async with aclosing(self._request(do="attachments", file=str(file), extension=extension)) as responses:
            async for response in responses:
                if "file" in response:
                    yield response["file"], response["size"]
                elif "bytes" in response:
                    yield base64.b64decode(response["bytes"])

    async def decrypt(self, file: Path, extension: str, password: str) -> AsyncGenerator[bytes, None]:
        """Yield the decrypted bytes of an encrypted file, in blocks.

        Raises:
            ParseFailed: the password is missing or wrong.
        """
        async with aclosing(
            self._request(do="decrypt", file=str(file), extension=extension, password=password)
        ) as responses:
            async for response in responses:
                if "bytes" in response:
                    yield base64.b64decode(response["bytes"])

    async def stop(self) -> None:
        """Kill all idle parser processes."""
        for worker, timer in self._idle:
            timer.cancel()
            await _kill(worker)
        self._idle.clear()

    async def _parsed(self, **request: Any) -> ParsedText:
        parsed = ParsedText()
        async for response in self._request(**request):
            parsed.add(response)
        return parsed

    async def _request(self, **request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the responses to a request; the time limit includes the time of the caller between them."""
        settings = self.settings
        cpu_seconds = self._cpu_seconds(Path(request["file"]))
        request = {"stop_after": 0, **request, "limits": asdict(settings.limits), "seconds": cpu_seconds}
        slots = self._parse_slots if request["do"] == "pages" else self._upload_slots
        caller = context.caller_or_none()
        async with slots.acquired(caller.org if caller else ""), self._worker() as worker:
            try:
                async with asyncio.timeout(settings.seconds):
                    async for response in _responses(worker, request):
                        yield response
            except TimeoutError:
                raise _WorkerUnusable(f"reading this file takes more than {settings.seconds} seconds") from None
            except _WorkerExited:
                limits = f"{settings.memory_mebibytes} MiB and {cpu_seconds} seconds of processor time"
                raise _WorkerUnusable(
                    f"this file cannot be read: it breaks its parser, or takes more than {limits}"
                ) from None

    def _cpu_seconds(self, file: Path) -> int:
        settings = self.settings
        size = file.stat().st_size if file.exists() else 0
        return min(settings.seconds, settings.base_cpu_seconds + settings.cpu_seconds_per_mebibyte * (size >> 20))

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Yield a parser process; return it to the pool only if it has finished the file."""
        worker = self._idle_worker() or await self._start_with_retries()
        try:
            yield worker
        except BaseException as error:
            if type(error) is ParseFailed:
                self._return_worker(worker)
            else:
                await _kill(worker)
            raise
        self._return_worker(worker)

    async def _start_with_retries(self) -> asyncio.subprocess.Process:
        """Start a parser process; retry if it exits before its first request, which is not the fault of the file."""
        for _ in range(START_ATTEMPTS):
            worker = await self._start()
            if _is_alive(worker):
                return worker
            await _kill(worker)
        raise Unavailable("no parser can be started: each one ends at once")

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {name: os.environ[name] for name in INHERITED_ENVIRONMENT if name in os.environ} | SINGLE_THREADED
        try:
            return await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "drw.rag.documents.parsing.parser_process",
                    str(self.settings.memory_mebibytes),
                ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MAX_RESPONSE_BYTES,
                env=environment,
            )
        except OSError as error:
            raise Unavailable(f"no parser can be started: {error.strerror}") from error

    def _idle_worker(self) -> asyncio.subprocess.Process | None:
        while self._idle:
            worker, timer = self._idle.pop()
            timer.cancel()
            if _is_alive(worker):
                return worker
        return None

    def _return_worker(self, worker: asyncio.subprocess.Process) -> None:
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire, worker)
        self._idle.append((worker, timer))

    def _expire(self, worker: asyncio.subprocess.Process) -> None:
        self._idle = [(other, timer) for other, timer in self._idle if other is not worker]
        if worker.stdin:
            worker.stdin.close()  # the process exits at the end of its input


class _WorkerUnusable(ParseFailed):
    """The parser process cannot be used again."""


class _WorkerExited(Exception):
    """The parser process exited while it parsed a file."""


async def _responses(
    worker: asyncio.subprocess.Process, request: dict[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    assert worker.stdin and worker.stdout
    try:
        worker.stdin.write(orjson.dumps(request) + b"\n")
        await worker.stdin.drain()
        while line := await worker.stdout.readline():
            response = orjson.loads(line)
            if "error" in response:
                raise ParseFailed(response["error"], response["code"])
            yield response
            if "end" in response:
                return
    # ValueError: the response exceeds the limit of readline. RuntimeError: uvloop writes to a closed pipe.
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _WorkerExited from error
    raise _WorkerExited


def _is_alive(worker: asyncio.subprocess.Process) -> bool:
    """Return whether the process accepts requests; its pipe is closed before its exit is noticed."""
    return worker.returncode is None and worker.stdin is not None and not worker.stdin.is_closing()


async def _kill(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
