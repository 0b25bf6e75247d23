"""Makes the modules that run inside Envoy from their sources, with the C compiler of Zig."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from drw.generate.protos import ROOT

CLIENTS = "src/drw/agent/clients/clients"
CUTTER = "src/drw/agent/cutter"
WASM = "wasm32-freestanding"
PLATFORMS = {"x86_64-linux": "x86_64-linux-gnu", "aarch64-linux": "aarch64-linux-gnu", "aarch64-macos": "aarch64-macos"}
"""Target platforms of the Envoy package, and their names in Zig."""

CHECKED = ("-nostdlib", "-Wall", "-Wextra", "-Werror")
WEB = ("-Oz", "-fno-builtin", "-Wno-unused-parameter", "-Wl,--no-entry", "-Wl,--export-memory", "-Wl,--strip-all")
NATIVE = ("-O2", "-std=c11", "-shared", "-fPIC", "-ffreestanding", "-fvisibility=hidden", "-s")
LATER = {"linux": "-Wl,--allow-shlib-undefined", "macos": "-Wl,-undefined,dynamic_lookup,-install_name,cutter"}
"""What is not defined is found in Envoy's process when it loads the library."""


class NativeModule(NamedTuple):
    """How one is made."""

    target: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]


MODULES = {
    f"{CLIENTS}.wasm": NativeModule(WASM, WEB, (f"{CLIENTS}.c",)),
    **{
        f"{CUTTER}/cutter.{platform}.so": NativeModule(
            target,
            (*NATIVE, LATER[platform.partition("-")[2]]),
            tuple(
                f"{CUTTER}/{name}.c" for name in ("boundary", "cutter", "limiter", "log_line", "route", "token_header")
            ),
        )
        for platform, target in PLATFORMS.items()
    },
}


def compiled_source(module: NativeModule) -> bytes:
    """Return the module as it would be made."""
    with tempfile.TemporaryDirectory(prefix="drw-") as folder:
        out = Path(folder) / "made"
        command = [sys.executable, "-m", "ziglang", "cc", "-target", module.target, *CHECKED, *module.flags]
        # From here, so that no path of this machine is in it.
        subprocess.run([*command, "-o", str(out), *module.sources], check=True, cwd=ROOT)
        return out.read_bytes()


def write() -> list[str]:
    """Write changed modules, and return the changes."""
    stale = _stale()
    for file, content in stale.items():
        draft = ROOT / f"{file}.new"
        draft.write_bytes(content)
        draft.replace(ROOT / file)  # never changed in place: an Envoy may run it
    return [f"wrote {file}" for file in stale]


def problems() -> list[str]:
    """Return a sentence for each module that is out of date."""
    return [f"{file} is not up to date: run `drw generate`" for file in _stale()]


def _stale() -> dict[str, bytes]:
    compiled = {file: compiled_source(module) for file, module in MODULES.items()}
    return {
        file: new for file, new in compiled.items() if not (ROOT / file).is_file() or (ROOT / file).read_bytes() != new
    }
