"""Takes what a part says into its log, and keeps the log from filling the disk.

Through a pipe: nobody else can put the file aside under a running process without losing a line.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

FULL_BYTES = 16 << 20
KEPT = 3
PORTION = 1 << 16
PIPE_BYTES = 1 << 20
"""What a pipe holds, so that no process waits while its output is not read."""
GATHER_SECONDS = 0.02
"""Output gathers for so long in the pipe, where it survives its process: most of what a line costs is to be read by
itself."""
DRAIN_SECONDS = 5.0


class ProcessOutput:
    """The log of one part: `NAME.log`, and `NAME.1.log` to `NAME.3.log` from new to old."""

    def __init__(self, file: Path, full: int = FULL_BYTES) -> None:
        self.file = file
        self._full = full
        self._lock = Lock()
        self._reader: Thread | None = None

    def pipe(self) -> int:
        """Return what a process is to write to; to be closed here once the process has it."""
        reading, writing = os.pipe()
        with suppress(OSError):  # this user has too many: the pipe stays small
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # A thread, so that no part waits for whatever else this process does.
        self._reader = Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        return writing

    def drain(self) -> None:
        """Return when all that a process said before its end is in the log; not later than after some seconds."""
        if self._reader is not None:
            self._reader.join(DRAIN_SECONDS)  # a child of its own may live on, and hold the pipe

    def last_line(self) -> str:
        """Return what was said last."""
        self.drain()
        if not self.file.exists():
            return ""
        lines = self.file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def take(self, data: bytes) -> None:
        """Write to the log, and put it aside when it is full, between two lines."""
        with self._lock:
            whole, newline, partial = data.rpartition(b"\n")
            if newline and self._append(whole + newline) >= self._full:
                self._turn()
            if partial:
                self._append(partial)

    def _read(self, pipe: int) -> None:
        with open(pipe, "rb", buffering=0) as stream:
            while data := stream.read(PORTION):
                with suppress(OSError):  # the disk is full: better to lose lines than to stop the part
                    self.take(data)
                if len(data) < PORTION:
                    time.sleep(GATHER_SECONDS)

    def _append(self, data: bytes) -> int:
        with self.file.open("ab") as out:
            out.write(data)
            return out.tell()

    def _turn(self) -> None:
        for number in range(KEPT, 0, -1):
            source = self._aside(number - 1)
            if source.exists():
                source.replace(self._aside(number))

    def _aside(self, number: int) -> Path:
        return self.file.with_suffix(f".{number}.log") if number else self.file
