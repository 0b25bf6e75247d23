"""The native filter by itself, in a double of Envoy: what it does with broken lists, odd chunks and many workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drw.agent.cutter import cutter
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.request_router_pb2 import Configuration
from drw.generate.protos import ROOT

INCLUDE = Path("src/drw/agent/cutter")
SOURCES = (
    *sorted(str(source.relative_to(ROOT)) for source in (ROOT / INCLUDE).glob("*.c")),
    "tests/agent/limits/cutter_host.c",
)


def test_it_is_safe_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "host"
    # Behaviour that C does not define ends the program.
    checks = ("-fsanitize=undefined", "-fsanitize-trap=undefined", "-Wall", "-Wextra", "-Werror")
    command = [sys.executable, "-m", "ziglang", "cc", "-g", "-O1", "-std=gnu11", *checks]
    subprocess.run([*command, f"-I{INCLUDE}", *SOURCES, "-lpthread", "-o", str(program)], check=True, cwd=ROOT)
    killed = Configuration(blocks=[Block(subject="KEY", org="here", name="bad", reason="KILLED")])
    bounds = {"few": 2, "others": 9}
    few = Limits(
        limits=[Limit(subject="KEY", org="here", key=key, requests_per_minute=most) for key, most in bounds.items()]
    )
    texts = [cutter(state)["filter_config"]["value"] for state in (killed, Configuration(limits=few))]
    ended = subprocess.run([str(program), *texts], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "")
