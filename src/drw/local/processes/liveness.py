"""Liveness of a child process: probes, and process state from /proc.

A process that is stopped (SIGSTOP), or neither answers nor uses the processor, is replaced soon. A process that
is running, runnable, or waiting for a disk may answer late on a loaded machine, and gets much more time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""How long one probe may take."""
GRACE_SECONDS = 0.2
"""How much longer the supervisor waits: it may be the one that was held up, with the answer in its buffer."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
WORKING = 0.05
"""A process that uses more than this share of one processor works; below are timers of threads that wait."""
STOPPED, ON_ITS_WAY = "T", "RD"
"""States in /proc: stopped by a signal; running or waiting for a processor, waiting for a disk.

A process that a debugger holds (`t`) is not stopped.
"""

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Seconds without an answer after which a process is replaced."""

    stopped: float = 3.0
    idle: float = 7.5
    """One that uses no processor time and waits for none."""
    busy: float = 60.0


class ProcessStats(NamedTuple):
    """A process as listed in /proc."""

    parent: int
    state: str
    seconds: float
    """Processor time."""


GONE = ProcessStats(0, "", 0.0)


class LivenessState:
    """Liveness state of one process across probes."""

    def __init__(self, pid: int, patience: LivenessPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self.pid = pid
        self._patience = patience
        self._clock = clock
        self._last = clock()
        self._seconds = 0.0
        self._stopped = self._idle = self.silent = 0.0

    async def look(self, probe: Probe | None) -> str:
        """Probe once, and return why the process must be replaced, or an empty string.

        A probe that took longer than its time-out means that the supervisor itself was not scheduled. The excess
        time does not count.
        """
        stopped = (_seen(PROC / str(self.pid)) or GONE).state == STOPPED
        answered = not stopped and (probe is None or await _in_time(probe))
        now, before = self._clock(), self._seconds
        passed, self._last = min(now - self._last, LOOK_SECONDS + ANSWER_SECONDS), now
        self._seconds = (_seen(PROC / str(self.pid)) or GONE).seconds
        if answered:
            self._stopped = self._idle = self.silent = 0.0
            return ""
        self.silent += passed
        self._stopped = self._stopped + passed if stopped else 0.0
        works = self._seconds - before > WORKING * passed or await asyncio.to_thread(_is_on_its_way, self.pid)
        self._idle += 0.0 if works else passed
        if self._stopped >= self._patience.stopped:
            return "was stopped by a signal"
        if self._idle >= self._patience.idle or self.silent >= self._patience.busy:
            return f"has not answered for {self.silent:.0f} s"
        return ""


def tree(pid: int) -> dict[int, ProcessStats]:
    """Return a process and all its descendants."""
    every = {int(path.name): seen for path in PROC.iterdir() if path.name.isdigit() and (seen := _seen(path))}
    members = {pid: every[pid]} if pid in every else {}
    while children := {p: seen for p, seen in every.items() if seen.parent in members and p not in members}:
        members |= children
    return members


async def replies(address: str, request: bytes) -> bool:
    """Tell whether a server at `unix:/path` or `host:port` sends any response to a request.

    Raises:
        OSError: this process cannot open a connection.
    """
    host, _, port = address.rpartition(":")
    path = address.removeprefix("unix:")
    try:
        reader, writer = await (
            asyncio.open_connection(host, int(port)) if path == address else asyncio.open_unix_connection(path)
        )
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        return False
    try:
        writer.write(request)
        return bool(await reader.read(1))
    except OSError:
        return False
    finally:
        writer.close()


async def _in_time(probe: Probe) -> bool:
    """Return whether a probe succeeds in time.

    A deadline that passed while this process had no processor says nothing of the other one: what has arrived by then
    is read first.
    """
    asked = asyncio.ensure_future(probe())
    try:
        for seconds in (ANSWER_SECONDS, GRACE_SECONDS):
            await asyncio.wait([asked], timeout=seconds)
        return asked.done() and asked.result()
    finally:
        asked.cancel()


def _is_on_its_way(pid: int) -> bool:
    """Tell whether a thread of the process or of a descendant is running, runnable or in disk wait."""
    return any(seen is not None and seen.state in ON_ITS_WAY for one in tree(pid) for seen in _threads(one))


def _threads(pid: int) -> list[ProcessStats | None]:
    try:
        return [_seen(thread) for thread in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def _seen(folder: Path) -> ProcessStats | None:
    """Read the state of a process or thread. The second field is a name that may contain any character."""
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # the process is gone
        return None
    return ProcessStats(int(fields[1]), fields[0].decode(), (int(fields[11]) + int(fields[12])) / TICKS)
