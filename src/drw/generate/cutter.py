"""Makes the module that refuses, limits and cuts inside Envoy from its sources, with the C compiler of Zig."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from drw.generate.protos import ROOT

SOURCES = ("src/drw/agent/cutter/cutter.c", "src/drw/agent/cutter/limiter.c")
MODULE = "src/drw/agent/cutter/cutter.wasm"
FLAGS = ("-target", "wasm32-freestanding", "-Oz", "-nostdlib", "-fno-builtin", "-Wall", "-Werror")
LINKER = ("-Wl,--no-entry", "-Wl,--export-memory", "-Wl,--strip-all")


def module() -> bytes:
    """Return the module as it would be made."""
    with tempfile.TemporaryDirectory(prefix="drw-") as folder:
        out = Path(folder) / "cutter.wasm"
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *LINKER, "-o", str(out), *SOURCES]
        subprocess.run(command, check=True, cwd=ROOT)  # from here, so that no path of this machine is in it
        return out.read_bytes()


def write() -> list[str]:
    """Write the module where it differs, and return what was done."""
    if not problems():
        return []
    (ROOT / MODULE).write_bytes(module())
    return [f"wrote {MODULE}"]


def problems() -> list[str]:
    """Return a sentence where the module is not what its sources make."""
    file = ROOT / MODULE
    same = file.is_file() and file.read_bytes() == module()
    return [] if same else [f"{MODULE} is not up to date: run `drw generate`"]
