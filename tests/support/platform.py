"""A whole platform, reached as people reach it: by the command line and the official client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

DRW = str(Path(sys.executable).with_name("drw"))


@dataclass(frozen=True)
class Platform:
    """A running platform, and the command line pointed at it."""

    data: Path

    def run(self, *args: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command, and return what it said."""
        env = {**os.environ, "DRW_DATA_DIR": str(self.data), "COLUMNS": "200"}
        done = subprocess.run([DRW, *args], capture_output=True, text=True, env=env, timeout=280, **more)
        said = f"drw {' '.join(args)}: {done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, f"{said}\n{self._errors()}"
        return done

    def _errors(self) -> str:
        """Return the last errors in the logs of the parts."""
        lines = [line for log in sorted((self.data / "logs").glob("*.log")) for line in log.read_text().splitlines()]
        return "\n".join([line for line in lines if '"level":"error"' in line][-5:])

    def json(self, *args: str, check: bool = True) -> Any:
        """Run a command with --json, and return what it said."""
        return json.loads(self.run(*args, "--json", check=check).stdout)

    @property
    def credentials(self) -> dict[str, str]:
        """Address and first key."""
        return json.loads((self.data / "credentials.json").read_text())

    def client(self, key: str | None = None) -> openai.OpenAI:
        """Return the official client, with the first key or another."""
        kept = self.credentials
        return openai.OpenAI(
            base_url=f"{kept['url']}/v1", api_key=kept["api_key"] if key is None else key, max_retries=0, timeout=120
        )

    def pid(self, part: str) -> int:
        """Return the process id of a part."""
        return next(p["pid"] for p in self.json("status", check=False)["processes"] if p["name"] == part)
