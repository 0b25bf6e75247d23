"""Holds the engine's process to a limit of memory: it ends before the machine runs short, and is started again."""

from __future__ import annotations

import logging
import os
import resource
import threading
from pathlib import Path

EXIT_CODE = 9
"""The process ends with it when it is over its limit."""
LOOK_SECONDS = 0.1
STATUS = Path("/proc/self/status")
MIB = 1 << 20

log = logging.getLogger(__name__)


def limit(mib: int) -> None:
    """End this process when its own memory is over `mib`, weights that are mapped from their file not counted.

    The kernel gives out twice as much and no more, so that the process cannot outrun the look at it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (2 * mib * MIB, 2 * mib * MIB))
    threading.Thread(target=_watch, name="memory", daemon=True).start()


def _watch() -> None:
    pause = threading.Event()
    while (used := _own()) <= (
        limit := resource.getrlimit(resource.RLIMIT_DATA)[0] // 2
    ):  # may be lowered from outside
        pause.wait(LOOK_SECONDS)
    log.error(
        "over the limit of memory; ending", extra={"fields": {"held_mib": used // MIB, "limit_mib": limit // MIB}}
    )
    os._exit(EXIT_CODE)


def _own() -> int:
    """Return the bytes of memory that are this process's own."""
    lines = STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024
