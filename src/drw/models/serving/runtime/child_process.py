"""Processes of loaded models: start with a minimal environment, and a certain end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from drw.kernel.errors import Unavailable

INHERITED_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
"""The environment variables that a model process inherits: no secrets."""
LEAN = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
LAST_LINES = 20
MAX_LINE_BYTES = 1 << 16


class ModelProcess:
    """One running process. It ends with this process, as the kernel signals the death of the parent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = asyncio.create_task(self._read_errors())

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str], file_descriptors: Sequence[int] = ()) -> ModelProcess:
        """Run `python -m MODULE`.

        Raises:
            Unavailable: the process cannot be started.
        """
        environment = {name: os.environ[name] for name in INHERITED_ENVIRONMENT if name in os.environ} | LEAN
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
                env=environment,
                pass_fds=tuple(file_descriptors),
            )
        except OSError as error:
            raise Unavailable(f"the process of the model cannot be started: {error.strerror}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None

    async def wait(self) -> str:
        """Wait for the end of the process; return why it ended."""
        code = await self._process.wait()
        await asyncio.wait([self._reader], timeout=1)
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{reason}{f': {self._lines[-1]}' if self._lines else ''}"

    async def kill(self) -> None:
        """End the process and wait for its end, also if the caller is cancelled meanwhile."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.shield(self._process.wait())
        self._reader.cancel()

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the limit; its rest follows
                continue
            if not line:
                return
            self._lines.append(line.decode(errors="replace").strip()[:500])
