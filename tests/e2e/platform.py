"""A running platform, with its command line and the official client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import openai

from support.json_types import Json

DRW = str(Path(sys.executable).with_name("drw"))


@dataclass(frozen=True)
class Platform:
    """A running platform with its command line."""

    data: Path

    def run(self, *args: str, check: bool = True, **options: Json) -> subprocess.CompletedProcess[str]:
        """Run a command, and return its result."""
        env = {**os.environ, "DRW_DATA_DIR": str(self.data), "COLUMNS": "200"}
        result = subprocess.run([DRW, *args], capture_output=True, text=True, env=env, timeout=280, **options)
        output = f"drw {' '.join(args)}: {result.stdout}{result.stderr}"
        assert not check or result.returncode == 0, f"{output}\n{self._errors()}"
        return result

    def _errors(self) -> str:
        """Return the last errors in the logs of the processes."""
        lines = [line for log in sorted((self.data / "logs").glob("*.log")) for line in log.read_text().splitlines()]
        return "\n".join([line for line in lines if '"level":"error"' in line][-5:])

    def json(self, *args: str, check: bool = True) -> Json:
        """Run a command with --json, and return its output."""
        return json.loads(self.run(*args, "--json", check=check).stdout)

    @property
    def credentials(self) -> dict[str, str]:
        """Address and first key of the platform."""
        return json.loads((self.data / "credentials.json").read_text())

    def client(self, key: str | None = None) -> openai.OpenAI:
        """Return the official client, with the first key or another."""
        credentials = self.credentials
        return openai.OpenAI(
            base_url=f"{credentials['url']}/v1",
            api_key=credentials["api_key"] if key is None else key,
            max_retries=0,
            timeout=120,
        )

    def pid(self, part: str) -> int:
        """Return the id of a process of the platform."""
        return next(p["pid"] for p in self.json("status", check=False)["processes"] if p["name"] == part)
