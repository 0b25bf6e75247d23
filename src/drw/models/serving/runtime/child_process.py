"""Processes of loaded models: start with a minimal environment, and a certain end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

from drw.kernel.errors import Unavailable

INHERITED_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
"""The environment variables that a model process inherits: no secrets."""
LEAN = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
LAST_LINES = 20
MAX_LINE_BYTES = 1 << 16


class ModelProcess:
    """One running process. It ends with this process, as the kernel signals the death of the parent."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = asyncio.create_task(self._read_errors())
        self._exited = asyncio.Event()
        self._descriptor = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_exit)

    @classmethod
    def start(cls, module: str, arguments: Sequence[str], file_descriptors: Sequence[int] = ()) -> ModelProcess:
        """Run `python -m MODULE`. It blocks for the few milliseconds that the kernel needs.

        Not through the event loop: it forks, and two children crashed at their start, perhaps by gRPC's fork handlers.
        Not in another thread: the kernel would end the child together with that thread.

        Raises:
            Unavailable: the process cannot be started.
        """
        environment = {name: os.environ[name] for name in INHERITED_ENVIRONMENT if name in os.environ} | LEAN
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
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
        return not self._exited.is_set()

    async def wait(self) -> str:
        """Wait for the end of the process; return why it ended."""
        await self._exited.wait()
        await asyncio.wait([self._reader], timeout=1)
        code = self._process.returncode
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{reason}{f': {self._lines[-1]}' if self._lines else ''}"

    async def kill(self) -> None:
        """End the process and wait for its end, also if the caller is cancelled meanwhile."""
        self._process.kill()  # does nothing after its end
        await asyncio.shield(self._exited.wait())
        self._reader.cancel()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._process.wait()
        self._exited.set()

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stderr
        )
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than the limit; its rest follows
                    continue
                if not line:
                    return
                self._lines.append(line.decode(errors="replace").strip()[:500])
        finally:
            transport.close()
