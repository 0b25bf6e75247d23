"""Memory limit of the engine process: it exits before the machine runs out of memory, and is restarted."""

from __future__ import annotations

import logging
import os
import resource
import threading
from pathlib import Path

EXIT_CODE = 9
"""The exit code of a process above its limit."""
CHECK_SECONDS = 0.1
STATUS = Path("/proc/self/status")
MIB = 1 << 20

log = logging.getLogger(__name__)


def limit(mib: int) -> None:
    """Exit when the anonymous memory of this process exceeds `mib`; memory-mapped weights do not count.

    The kernel limits allocations to twice as much, in case the process allocates faster than the checks run.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (2 * mib * MIB, 2 * mib * MIB))
    threading.Thread(target=_watch, name="memory", daemon=True).start()


def _watch() -> None:
    timer = threading.Event()
    while (used := _anonymous_bytes()) <= (
        limit := resource.getrlimit(resource.RLIMIT_DATA)[0] // 2
    ):  # can be lowered from outside
        timer.wait(CHECK_SECONDS)
    log.error("over the memory limit; exiting", extra={"fields": {"used_mib": used // MIB, "limit_mib": limit // MIB}})
    os._exit(EXIT_CODE)


def _anonymous_bytes() -> int:
    """Return the bytes of anonymous memory of this process."""
    lines = STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024
