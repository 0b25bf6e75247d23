"""How soon a part that went away is back, for `Retry-After`: as long as it took to start when it last did.

The supervisor of a machine measures that and keeps it in a file (`Profile.starts`). Where there is none, as on
Kubernetes, callers hear the default of `errors.http_headers`.
"""

from __future__ import annotations

import math
from pathlib import Path

import orjson

from drw.kernel.errors import DrwError
from drw.kernel.runtime.settings import Profile

_profile: Profile | None = None


def use(profile: Profile) -> None:
    """Take this profile's file and places, for the whole process."""
    global _profile
    _profile = profile


def seconds(error: DrwError) -> int | None:
    """Return how long the part takes to start whose absence this error is about; None where that is not known."""
    if _profile is None or _profile.starts is None:
        return None
    service = error.metadata.get("service")
    processes = (name for name, place in _profile.processes.items() if service in place.services)
    part = error.metadata.get("part") or next(processes, "")
    try:
        measured = orjson.loads(_profile.starts.read_bytes()).get(part)
    except (OSError, ValueError):
        return None
    return max(1, math.ceil(measured)) if measured else None


def write(file: Path, measured: dict[str, float]) -> None:
    """Write how many seconds each part took to start."""
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps({name: round(taken, 2) for name, taken in measured.items()}))
    new.replace(file)
