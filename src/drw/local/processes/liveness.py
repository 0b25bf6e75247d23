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
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROBE_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0
"""Time-out of one probe."""
GRACE_SECONDS = 0.2
"""Extra time, because the supervisor itself may have been delayed, with the response in its buffer."""
LOCAL_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
BUSY_SHARE = 0.05
"""Share of one processor above which a process counts as busy; waiting threads use less for their timers."""
STOPPED, RUNNABLE = "T", "RD"
"""Process states in /proc: stopped by a signal; running or runnable, or in disk wait.

A process stopped by a debugger (`t`) does not count as stopped.
"""

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Seconds without an answer after which a process is replaced."""

    stopped: float = 3.0
    idle: float = 7.5
    """Neither using processor time nor runnable."""
    busy: float = 60.0


class ProcessStats(NamedTuple):
    """Parent, state and processor time of a process, from /proc."""

    parent: int
    state: str
    seconds: float
    """Processor time."""


EXITED = ProcessStats(0, "", 0.0)


class LivenessState:
    """Liveness state of one process across probes."""

    def __init__(self, pid: int, policy: LivenessPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self.pid = pid
        self._policy = policy
        self._clock = clock
        self._last_check = clock()
        self._cpu_seconds = 0.0
        self._stopped = self._idle = self.unresponsive_seconds = 0.0

    async def check(self, probe: Probe | None) -> str:
        """Probe once, and return why the process must be replaced, or an empty string.

        A probe that took longer than its time-out means that the supervisor itself was not scheduled. The excess
        time does not count.
        """
        stopped = (_read_stats(PROC / str(self.pid)) or EXITED).state == STOPPED
        answered = not stopped and (probe is None or await _succeeds_in_time(probe))
        now, cpu_before = self._clock(), self._cpu_seconds
        elapsed, self._last_check = min(now - self._last_check, PROBE_SECONDS + TIMEOUT_SECONDS), now
        self._cpu_seconds = (_read_stats(PROC / str(self.pid)) or EXITED).seconds
        if answered:
            self._stopped = self._idle = self.unresponsive_seconds = 0.0
            return ""
        self.unresponsive_seconds += elapsed
        self._stopped = self._stopped + elapsed if stopped else 0.0
        working = self._cpu_seconds - cpu_before > BUSY_SHARE * elapsed or await asyncio.to_thread(
            _has_runnable_thread, self.pid
        )
        self._idle += 0.0 if working else elapsed
        if self._stopped >= self._policy.stopped:
            return "was stopped by a signal"
        if self._idle >= self._policy.idle or self.unresponsive_seconds >= self._policy.busy:
            return f"has not answered for {self.unresponsive_seconds:.0f} s"
        return ""


def process_tree(pid: int) -> dict[int, ProcessStats]:
    """Return a process and all its descendants."""
    processes = {
        int(path.name): stats for path in PROC.iterdir() if path.name.isdigit() and (stats := _read_stats(path))
    }
    members = {pid: processes[pid]} if pid in processes else {}
    while children := {p: stats for p, stats in processes.items() if stats.parent in members and p not in members}:
        members |= children
    return members


async def replies(address: str, request: bytes) -> bool:
    """Return whether a server at `unix:/path` or `host:port` sends any response to a request.

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
        if error.errno in LOCAL_LIMITS:
            raise
        return False
    try:
        writer.write(request)
        return bool(await reader.read(1))
    except OSError:
        return False
    finally:
        writer.close()


async def _succeeds_in_time(probe: Probe) -> bool:
    """Return whether a probe succeeds in time.

    If the supervisor was not scheduled when the time-out passed, a response that has arrived is read first.
    """
    task = asyncio.ensure_future(probe())
    try:
        for seconds in (TIMEOUT_SECONDS, GRACE_SECONDS):
            await asyncio.wait([task], timeout=seconds)
        return task.done() and task.result()
    finally:
        task.cancel()


def _has_runnable_thread(pid: int) -> bool:
    """Return whether a thread of the process or of a descendant is running, runnable or in disk wait."""
    return any(
        stats is not None and stats.state in RUNNABLE for member in process_tree(pid) for stats in _threads(member)
    )


def _threads(pid: int) -> list[ProcessStats | None]:
    try:
        return [_read_stats(thread) for thread in (PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def _read_stats(folder: Path) -> ProcessStats | None:
    """Read the state of a process or thread. The second field is a name that may contain any character."""
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # the process is gone
        return None
    return ProcessStats(int(fields[1]), fields[0].decode(), (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND)
