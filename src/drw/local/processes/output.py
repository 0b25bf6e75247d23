"""Captures the output of a process in a log file, with rotation.

The output comes through a pipe, because rotating a file under a running process would lose lines.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

MAX_BYTES = 16 << 20
BACKUPS = 3
READ_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
"""Size of the pipe, so that a process does not block while its output is not read."""
GATHER_SECONDS = 0.02
"""Pause between reads, so that one read returns many lines. Output in the pipe survives its process."""
DRAIN_SECONDS = 5.0


class ProcessOutput:
    """The log of one process: `NAME.log`, and `NAME.1.log` (newest) to `NAME.3.log`."""

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        self.file = file
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._reader: Thread | None = None

    def pipe(self) -> int:
        """Return the write end for the process. Close it here once the process has inherited it."""
        read_end, write_end = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
            with suppress(OSError):  # over this user's quota: the pipe keeps its default size
                fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # A thread, so that no process blocks on other work of the supervisor.
        self._reader = Thread(target=self._read, args=(read_end,), daemon=True)
        self._reader.start()
        return write_end

    def drain(self) -> None:
        """Wait until all output of an exited process is in the log, for at most DRAIN_SECONDS."""
        if self._reader is not None:
            self._reader.join(DRAIN_SECONDS)  # a grandchild may survive and keep the pipe open

    def last_line(self) -> str:
        """Return the last line of output."""
        self.drain()
        if not self.file.exists():
            return ""
        lines = self.file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def append(self, data: bytes) -> None:
        """Write to the log, and rotate it between two lines when it is full."""
        with self._lock:
            complete, newline, partial = data.rpartition(b"\n")
            if newline and self._write(complete + newline) >= self._max_bytes:
                self._rotate()
            if partial:
                self._write(partial)

    def _read(self, pipe: int) -> None:
        with open(pipe, "rb", buffering=0) as stream:
            while data := stream.read(READ_BYTES):
                with suppress(OSError):  # the disk is full: losing lines is better than stopping the process
                    self.append(data)
                if len(data) < READ_BYTES:
                    time.sleep(GATHER_SECONDS)

    def _write(self, data: bytes) -> int:
        with self.file.open("ab") as out:
            out.write(data)
            return out.tell()

    def _rotate(self) -> None:
        for number in range(BACKUPS, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.file.with_suffix(f".{number}.log") if number else self.file
