"""How soon a part that went away is back, for `Retry-After`: as long as it took to start when it last did.

The supervisor of a machine measures that and keeps it in a file (`Profile.starts`). Where there is none, as on
Kubernetes, callers hear the default of `errors.http_headers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import orjson

from drw.kernel.errors import DrwError

_starts: Path | None = None
_process_of: Mapping[str, str] = {}


def use(starts: Path | None, process_of: Mapping[str, str]) -> None:
    """Set the file with the measured start times, and the process of each service, for this process."""
    global _starts, _process_of
    _starts, _process_of = starts, process_of


def seconds(error: DrwError) -> int | None:
    """Return how long the part takes to start whose absence this error is about; None where that is not known."""
    if _starts is None:
        return None
    part = error.metadata.get("part") or _process_of.get(error.metadata.get("service", ""), "")
    try:
        measured = orjson.loads(_starts.read_bytes()).get(part)
    except (OSError, ValueError):
        return None
    return max(1, math.ceil(measured)) if measured else None


def write(file: Path, measured: dict[str, float]) -> None:
    """Write how many seconds each part took to start."""
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps({name: round(taken, 2) for name, taken in measured.items()}))
    new.replace(file)
