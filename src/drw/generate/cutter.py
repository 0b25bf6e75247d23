"""Makes the modules that run inside Envoy from their sources, with the C compiler of Zig."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drw.generate.protos import ROOT

MODULES = {
    "src/drw/agent/clients/clients.wasm": ("src/drw/agent/clients/clients.c",),
    "src/drw/agent/cutter/cutter.wasm": ("src/drw/agent/cutter/cutter.c", "src/drw/agent/cutter/limiter.c"),
}
"""The sources of each module."""
FLAGS = ("-target", "wasm32-freestanding", "-Oz", "-nostdlib", "-fno-builtin", "-Wall", "-Werror")
LINKER = ("-Wl,--no-entry", "-Wl,--export-memory", "-Wl,--strip-all")


def module(sources: Sequence[str]) -> bytes:
    """Return the module as it would be made."""
    with tempfile.TemporaryDirectory(prefix="drw-") as folder:
        out = Path(folder) / "made.wasm"
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *LINKER, "-o", str(out), *sources]
        subprocess.run(command, check=True, cwd=ROOT)  # from here, so that no path of this machine is in it
        return out.read_bytes()


def write() -> list[str]:
    """Write the modules that differ, and return what was done."""
    stale = _stale()
    for file, made in stale.items():
        (ROOT / file).write_bytes(made)
    return [f"wrote {file}" for file in stale]


def problems() -> list[str]:
    """Return a sentence for each module that is not what its source makes."""
    return [f"{file} is not up to date: run `drw generate`" for file in _stale()]


def _stale() -> dict[str, bytes]:
    made = {file: module(sources) for file, sources in MODULES.items()}
    return {file: new for file, new in made.items() if not (ROOT / file).is_file() or (ROOT / file).read_bytes() != new}
