"""Compiles JSON schemas in processes of their own, before the engine sees them."""

from __future__ import annotations

import asyncio
import signal
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
SECONDS = 5.0
"""For one schema, and for the wait before it. A process that is short of processor time is no fault of the schema."""
START_SECONDS = 30.0
REMEMBERED = 4096
REFUSED = f"it takes over {MEMORY_MIB} MiB or {CPU_SECONDS} s to compile: make it simpler"
SPENT = {-signal.SIGXCPU, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL}
"""How a process ends that a schema has cost its memory, its time or its stack."""


class SchemaCompilers:
    """Says which schemas compile; at most one of a tenant at a time, the results remembered for each tenant."""

    def __init__(self, command: tuple[str, ...] = COMMAND, processes: int = PROCESSES) -> None:
        self._command = (*command, str(MEMORY_MIB), str(CPU_SECONDS))
        self._idle: list[_Process | None] = [None] * processes
        self._busy: set[str] = set()
        self._changed = asyncio.Condition()
        self._cache: OrderedDict[bytes, str | None] = OrderedDict()

    async def check(self, schema: dict[str, Any], param: str) -> None:
        """Return where a schema compiles.

        Raises:
            InvalidRequest: it does not, or takes too much to find out.
            EngineBusy: too many others wait.
        """
        tenant = cache_salt(caller_or_none())
        key = sha256(tenant.encode() + orjson.dumps(schema)).digest()
        if key not in self._cache:
            self._cache[key] = await self._compiled(schema, tenant)
            while len(self._cache) > REMEMBERED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        if fault := self._cache[key]:
            raise InvalidRequest(f"{param}: the JSON schema does not compile: {fault}", param=param)

    async def close(self) -> None:
        """End the processes."""
        for process in self._idle:
            if process:
                await process.end()

    async def _compiled(self, schema: dict[str, Any], tenant: str) -> str | None:
        async with self._turn(tenant):
            process, reusable = self._idle.pop(), None
            try:
                process = process or await _Process.start(self._command)
                async with asyncio.timeout(SECONDS):
                    fault = await process.fault(schema)
                reusable = process
            except _Spent:
                fault = REFUSED
            except TimeoutError:
                raise _busy("a schema could not be compiled in time") from None
            finally:
                self._idle.append(reusable)
                if process and process is not reusable:
                    await process.end()
        return fault

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._idle and tenant not in self._busy)
                self._busy.add(tenant)
        except TimeoutError:
            raise _busy("other schemas are being compiled") from None
        try:
            yield
        finally:
            self._busy.discard(tenant)
            async with self._changed:
                self._changed.notify_all()


class _Spent(Exception):
    """The process died of a schema."""


class _Process:
    """One running compiler."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: tuple[str, ...]) -> _Process:
        pipe = asyncio.subprocess.PIPE
        process = cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                if await process._line() == b"ready\n":
                    return process
        except BaseException as error:
            await process.end()
            if not isinstance(error, TimeoutError):
                raise
        await process.end()
        raise EngineMisconfigured(f"the compiler of JSON schemas does not start: run {' '.join(command)} to see why")

    async def fault(self, schema: dict[str, Any]) -> str | None:
        assert self._process.stdin is not None, "asked for"
        self._process.stdin.write(orjson.dumps(schema) + b"\n")
        if not (line := await self._line()):
            if await self._process.wait() in SPENT:
                raise _Spent
            raise _busy("the compiler of JSON schemas ended")
        fault: str | None = orjson.loads(line)
        return fault

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None, "asked for"
        return await self._process.stdout.readline()


def _busy(why: str) -> EngineBusy:
    return EngineBusy(f"{why}: try again", code="model_overloaded", retry_after="1")
