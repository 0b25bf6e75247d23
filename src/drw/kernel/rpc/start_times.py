"""`Retry-After` for unavailable processes: the duration of their last start.

The supervisor measures start times and stores them in a file (`Profile.file`). Without the file, as on Kubernetes,
the default of `errors.http_headers` applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import orjson

from drw.kernel.errors import DrwError

_file: Path | None = None
_process_of: Mapping[str, str] = {}


def configure(file: Path | None, process_of: Mapping[str, str]) -> None:
    """Set the file with the measured start times, and the process of each service."""
    global _file, _process_of
    _file = file
    _process_of = process_of


def start_seconds(error: DrwError) -> int | None:
    """Return the start time of the process that caused the error, in seconds; None: unknown."""
    if _file is None:
        return None
    process = error.metadata.get("part") or _process_of.get(error.metadata.get("service", ""), "")
    try:
        measured = orjson.loads(_file.read_bytes()).get(process)
    except (OSError, ValueError):
        return None
    return max(1, math.ceil(measured)) if measured else None


def write_start_times(file: Path, measured: dict[str, float]) -> None:
    """Write the start time of each process in seconds."""
    temporary = file.with_suffix(".new")
    temporary.write_bytes(orjson.dumps({name: round(seconds, 2) for name, seconds in measured.items()}))
    temporary.replace(file)
