"""What each command loads: imports are most of the time that a command takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = {
    *("aiohttp", "asyncio", "click", "google.protobuf", "grpc", "httpx", "markdown_it", "numpy", "onnxruntime"),
    *("opentelemetry", "prometheus_client", "psycopg", "pygments", "rich", "starlette"),
}
"""Pydantic is not among them: typer itself checks options with it."""
RUN = """
import json, sys
from drw.cli.main import main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps([name for name, module in sys.modules.items() if module]))
"""
ELSEWHERE = {"DRW_URL": "http://127.0.0.1:9", "DRW_API_KEY": "k"}


def loaded(*command: str, **env: str) -> set[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("DRW_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], capture_output=True, text=True, timeout=60, env={**known, **env}
    )
    return set(json.loads(done.stdout.splitlines()[-1])) & HEAVY


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["up", "--help"],
        ["chat", "--help"],
        ["keys", "--help"],
        ["ask", "--help"],
        ["config", "--help"],
        ["models", "check", "--help"],
        ["nothing"],
        ["status"],
        ["down"],
        ["logs", "gateway"],
        ["env"],
        ["whoami"],
    ],
)
def test_a_command_that_asks_no_gateway_loads_nothing_heavy(command: Any, tmp_path: Path) -> None:
    assert loaded(*command, DRW_DATA_DIR=str(tmp_path)) == set()


@pytest.mark.parametrize("command", [["keys", "list"], ["chat", "hello"], ["ask", "why"], ["kill", "list"], ["spend"]])
def test_a_command_that_asks_one_loads_the_client_alone(command: Any) -> None:
    assert loaded(*command, **ELSEWHERE) == {"httpx"}


def test_a_table_loads_nothing_heavy() -> None:
    table = "from drw.cli.options import write_table; write_table(('A', 'B'), [('a', 'b' * 300)])"
    code = f"{table}\nimport json, sys; print(json.dumps([name for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert set(json.loads(done.stdout.splitlines()[-1])) & HEAVY == set()


def test_the_settings_are_checked_without_the_services(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("speed = 3")
    assert loaded("up", DRW_DATA_DIR=str(tmp_path)) == {"google.protobuf"}


def test_completion_loads_nothing_heavy_where_no_platform_was_started(tmp_path: Path) -> None:
    asked = {"_DRW_COMPLETE": "complete_bash", "COMP_WORDS": "drw chat --model ", "COMP_CWORD": "3"}
    found = loaded(DRW_DATA_DIR=str(tmp_path), **asked)
    assert found == set()
