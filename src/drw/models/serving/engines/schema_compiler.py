"""Compiles JSON schemas in separate processes before a request goes to the engine."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import orjson

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.errors import EngineBusy, EngineMisconfigured

COMMAND = (sys.executable, "-m", "drw.models.engine.schema_compiler")
PROCESSES = 2
MEMORY_MIB = 768
CPU_SECONDS = 1
TIMEOUT_SECONDS = 5.0
"""Timeout of one compilation, and of the wait for it. A busy machine is not an error of the schema."""
START_SECONDS = 30.0
MAX_CACHED_RESULTS = 4096
LIMIT_MESSAGE = f"it takes over {MEMORY_MIB} MiB or {CPU_SECONDS} s to compile: make it simpler"
LIMIT_EXIT_CODES = {-signal.SIGXCPU, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL}
"""Exit codes of a process that exceeded its memory, CPU time or stack."""


class SchemaCompilers:
    """Pool of compiler processes: one compilation per tenant at a time, results cached per tenant."""

    def __init__(self, command: tuple[str, ...] = COMMAND, processes: int = PROCESSES) -> None:
        self._command = (*command, str(MEMORY_MIB), str(CPU_SECONDS))
        self._idle: list[_Process | None] = [None] * processes
        self._busy: set[str] = set()
        self._released = asyncio.Condition()
        self._cache: OrderedDict[bytes, str | None] = OrderedDict()

    async def check(self, schema: dict[str, Any], param: str) -> None:
        """Check that a schema compiles.

        Raises:
            InvalidRequest: it does not compile, or exceeds the memory or time limit.
            EngineBusy: no process became available in time.
        """
        tenant = cache_salt(caller_or_none())
        key = sha256(tenant.encode() + orjson.dumps(schema)).digest()
        if key not in self._cache:
            self._cache[key] = await self._compile(schema, tenant)
            while len(self._cache) > MAX_CACHED_RESULTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        if compile_error := self._cache[key]:
            raise InvalidRequest(f"{param}: the JSON schema does not compile: {compile_error}", param=param)

    async def close(self) -> None:
        """End the processes."""
        for process in self._idle:
            if process:
                await process.end()

    async def _compile(self, schema: dict[str, Any], tenant: str) -> str | None:
        async with self._reserve_process(tenant):
            process, reusable = self._idle.pop(), None
            try:
                process = process or await _Process.start(self._command)
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    compile_error = await process.compile_error(schema)
                reusable = process
            except _LimitExceeded:
                compile_error = LIMIT_MESSAGE
            except TimeoutError:
                raise _busy("a schema could not be compiled in time") from None
            finally:
                self._idle.append(reusable)
                if process and process is not reusable:
                    await process.end()
        return compile_error

    @asynccontextmanager
    async def _reserve_process(self, tenant: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._released:
                await self._released.wait_for(lambda: self._idle and tenant not in self._busy)
                self._busy.add(tenant)
        except TimeoutError:
            raise _busy("other schemas are being compiled") from None
        try:
            yield
        finally:
            self._busy.discard(tenant)
            async with self._released:
                self._released.notify_all()


class _LimitExceeded(Exception):
    """A schema exceeded the limits of the process."""


class _Process:
    """A compiler process.

    The event loop does not start it: uvloop forks, and processes crashed at their start by the fork handlers of gRPC.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: asyncio.StreamReader) -> None:
        self._process = process
        self._output = output
        self._input: asyncio.WriteTransport | None = None
        self._transports: list[asyncio.BaseTransport] = []

    @classmethod
    async def start(cls, command: tuple[str, ...]) -> _Process:
        process = cls(_spawn(command), asyncio.StreamReader())
        try:
            async with asyncio.timeout(START_SECONDS):
                await process._connect()
                if await process._read_line() == b"ready\n":
                    return process
        except BaseException as error:
            await process.end()
            if not isinstance(error, TimeoutError):
                raise
        await process.end()
        raise EngineMisconfigured(f"the compiler of JSON schemas does not start: run {' '.join(command)} to see why")

    async def compile_error(self, schema: dict[str, Any]) -> str | None:
        assert self._input is not None
        self._input.write(orjson.dumps(schema) + b"\n")
        if not (line := await self._read_line()):
            if await asyncio.to_thread(self._process.wait) in LIMIT_EXIT_CODES:
                raise _LimitExceeded
            raise _busy("the compiler of JSON schemas ended")
        compile_error: str | None = orjson.loads(line)
        return compile_error

    async def end(self) -> None:
        self._process.kill()  # does nothing after its end
        for transport in self._transports:
            transport.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:  # of a cancelled start: no transport closes it
                pipe.close()
        await asyncio.to_thread(self._process.wait)

    async def _connect(self) -> None:
        loop, process = asyncio.get_running_loop(), self._process
        reader, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._output), process.stdout)
        self._transports.append(reader)
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        self._transports.append(self._input)

    async def _read_line(self) -> bytes:
        return await self._output.readline()


def _spawn(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True)


def _busy(reason: str) -> EngineBusy:
    return EngineBusy(f"{reason}: try again", code="model_overloaded", retry_after="1")
