"""Compiles the modules that run inside Envoy from their C sources, with the compiler of Zig."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from drw.generate.protos import ROOT

CLIENTS = "src/drw/agent/clients/clients"
NATIVE_FILTER = "src/drw/agent/native_filter"
SOURCES = ("boundary", "filter", "limiter", "log_line", "route", "token_header")
WASM = "wasm32-freestanding"
PLATFORMS = {"x86_64-linux": "x86_64-linux-gnu", "aarch64-linux": "aarch64-linux-gnu", "aarch64-macos": "aarch64-macos"}
"""Target platforms of the Envoy package, and their names in Zig."""

COMMON_FLAGS = ("-nostdlib", "-Wall", "-Wextra", "-Werror")
WASM_FLAGS = (
    "-Oz",
    "-fno-builtin",
    "-Wno-unused-parameter",
    "-Wl,--no-entry",
    "-Wl,--export-memory",
    "-Wl,--strip-all",
)
NATIVE_FLAGS = ("-O2", "-std=c11", "-shared", "-fPIC", "-ffreestanding", "-fvisibility=hidden", "-s")
LINKER_FLAGS = {
    "linux": "-Wl,--allow-shlib-undefined",
    "macos": "-Wl,-undefined,dynamic_lookup,-install_name,native_filter",
}
"""Envoy defines the undefined symbols when it loads the library."""


class NativeModule(NamedTuple):
    """Target, compiler flags and sources of a module."""

    target: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]


MODULES = {
    f"{CLIENTS}.wasm": NativeModule(WASM, WASM_FLAGS, (f"{CLIENTS}.c",)),
    **{
        f"{NATIVE_FILTER}/native_filter.{platform}.so": NativeModule(
            target,
            (*NATIVE_FLAGS, LINKER_FLAGS[platform.partition("-")[2]]),
            tuple(f"{NATIVE_FILTER}/{name}.c" for name in SOURCES),
        )
        for platform, target in PLATFORMS.items()
    },
}


def compile_module(module: NativeModule) -> bytes:
    """Compile a module, and return the binary."""
    with tempfile.TemporaryDirectory(prefix="drw-") as folder:
        out = Path(folder) / "module"
        command = [sys.executable, "-m", "ziglang", "cc", "-target", module.target, *COMMON_FLAGS, *module.flags]
        # From the checkout, so that no path of this machine is in the binary.
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
    """Return a message for each module that is out of date."""
    return [f"{file} is not up to date: run `drw generate`" for file in _stale()]


def _stale() -> dict[str, bytes]:
    compiled = {file: compile_module(module) for file, module in MODULES.items()}
    return {
        file: new for file, new in compiled.items() if not (ROOT / file).is_file() or (ROOT / file).read_bytes() != new
    }
