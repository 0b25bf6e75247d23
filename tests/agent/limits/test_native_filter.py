"""The native filter in a double of Envoy: malformed lists, split chunks and concurrent workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drw.agent.native_filter import filter_config
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.generate.protos import ROOT

INCLUDE = Path("src/drw/agent/native_filter")
SOURCES = (
    *sorted(str(source.relative_to(ROOT)) for source in (ROOT / INCLUDE).glob("*.c")),
    "tests/agent/limits/double_envoy.c",
)


def test_native_filter_passes_its_checks_without_undefined_behaviour(tmp_path: Path) -> None:
    program = tmp_path / "double_envoy"
    checks = ("-fsanitize=undefined", "-fsanitize-trap=undefined", "-Wall", "-Wextra", "-Werror")
    command = [sys.executable, "-m", "ziglang", "cc", "-g", "-O1", "-std=gnu11", *checks]
    subprocess.run([*command, f"-I{INCLUDE}", *SOURCES, "-lpthread", "-o", str(program)], check=True, cwd=ROOT)
    killed = Configuration(blocks=[Block(subject="KEY", org="here", name="bad", reason="KILLED")])
    limits = [Limit(subject="KEY", org="here", key=k, requests_per_minute=n) for k, n in (("few", 2), ("others", 9))]
    states = (killed, Configuration(limits=Limits(limits=limits)))
    completed = subprocess.run(
        [str(program), *(filter_config(state)["filter_config"]["value"] for state in states)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (completed.returncode, completed.stdout) == (0, "")
