"""The modules that each command imports, since imports dominate the run time of a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY_MODULES = {
    *("aiohttp", "asyncio", "click", "confluent_kafka", "google.protobuf", "google.pubsub_v1", "grpc", "httpx"),
    *("markdown_it", "numpy", "onnxruntime"),
    *("opentelemetry", "prometheus_client", "psycopg", "pygments", "rich", "starlette"),
}
"""Pydantic is missing here because typer imports it."""
RUN = """
import json, sys
from drw.cli.main import main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps([name for name, module in sys.modules.items() if module]))
"""
REMOTE = {"DRW_URL": "http://127.0.0.1:9", "DRW_API_KEY": "k"}


def loaded_modules(*command: str, **env: str) -> set[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("DRW_", "COV_"))}
    result = subprocess.run(
        [sys.executable, "-c", RUN, *command], capture_output=True, text=True, timeout=60, env={**environ, **env}
    )
    return set(json.loads(result.stdout.splitlines()[-1])) & HEAVY_MODULES


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
def test_commands_without_the_gateway_load_no_heavy_module(command: list[str], tmp_path: Path) -> None:
    assert loaded_modules(*command, DRW_DATA_DIR=str(tmp_path)) == set()


@pytest.mark.parametrize("command", [["keys", "list"], ["chat", "hello"], ["ask", "why"], ["kill", "list"], ["spend"]])
def test_commands_of_the_gateway_load_only_the_http_client(command: list[str]) -> None:
    assert loaded_modules(*command, **REMOTE) == {"httpx"}


def test_plain_table_loads_no_heavy_module() -> None:
    table = "from drw.cli.options import write_table; write_table(('A', 'B'), [('a', 'b' * 300)])"
    code = f"{table}\nimport json, sys; print(json.dumps([name for name in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert set(json.loads(result.stdout.splitlines()[-1])) & HEAVY_MODULES == set()


def test_settings_are_checked_without_loading_the_services(tmp_path: Path) -> None:
    (tmp_path / "drw.toml").write_text("speed = 3")
    assert loaded_modules("up", DRW_DATA_DIR=str(tmp_path)) == {"google.protobuf"}


def test_completion_without_a_platform_loads_no_heavy_module(tmp_path: Path) -> None:
    completion_env = {"_DRW_COMPLETE": "complete_bash", "COMP_WORDS": "drw chat --model ", "COMP_CWORD": "3"}
    modules = loaded_modules(DRW_DATA_DIR=str(tmp_path), **completion_env)
    assert modules == set()
