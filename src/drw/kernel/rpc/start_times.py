"""`Retry-After` for unavailable processes: the duration of their last start.

The supervisor measures start times and stores them in a file (`Profile.starts`). Without the file, as on Kubernetes,
the default of `errors.http_headers` applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import orjson

from drw.kernel.errors import DrwError

_starts: Path | None = None
_process_of: Mapping[str, str] = {}


def configure(starts: Path | None, process_of: Mapping[str, str]) -> None:
    """Set the file with the measured start times, and the process of each service, for this process."""
    global _starts, _process_of
    _starts = starts
    _process_of = process_of


def start_seconds(error: DrwError) -> int | None:
    """Return the start time of the process that the error is about; None: unknown."""
    if _starts is None:
        return None
    part = error.metadata.get("part") or _process_of.get(error.metadata.get("service", ""), "")
    try:
        measured = orjson.loads(_starts.read_bytes()).get(part)
    except (OSError, ValueError):
        return None
    return max(1, math.ceil(measured)) if measured else None


def write_start_times(file: Path, measured: dict[str, float]) -> None:
    """Write the start time of each process in seconds."""
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps({name: round(taken, 2) for name, taken in measured.items()}))
    new.replace(file)
