"""Processes of `drw serve` with the addresses of a profile on TCP ports, as in Kubernetes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from drw.catalog import BY_NAME
from drw.local.paths import toml
from drw.local.preflight import free_port
from support.hosting import SECRET
from support.json_types import Json, JsonObject
from support.parts import running


class Served:
    """A profile in which each service is a process, and the processes that a test starts."""

    def __init__(self, folder: Path, database: str, valkey: str, **settings: Json) -> None:
        self.folder = folder
        self.file = folder / "profile.toml"
        self.probes = {name: f"127.0.0.1:{free_port('127.0.0.1')}" for name in BY_NAME}
        self.processes: JsonObject = {
            name: {
                "services": [name],
                "grpc": f"localhost:{free_port('127.0.0.1')}",  # a name, which clients resolve
                "http": f"localhost:{free_port('127.0.0.1')}",
                "bind": "0.0.0.0",
                "probes": self.probes[name],
            }
            for name in BY_NAME
        }
        values: JsonObject = {
            "name": "test",
            "data": str(folder / "data"),
            "postgres": "",
            "valkey": valkey,
            **settings,
        }
        self.file.write_text(toml({**values, "processes": self.processes}), encoding="utf-8")
        self._env = {"DRW_CONFIG": str(self.file), "DRW__POSTGRES": database, "DRW__AUTHENTICATION__SECRET": SECRET}

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(_command(args), env=self._environ(), capture_output=True, text=True, timeout=120)

    @contextmanager
    def serving(self, service: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service during the block."""
        with self.process(service, "serve", service) as process:
            yield process

    @contextmanager
    def process(self, name: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command during the block, with its output in the log `name`."""
        command = ["env", *(f"{key}={value}" for key, value in self._env.items()), *_command(args)]
        with running(command, self.folder / f"{name}.log") as process:
            yield process

    async def get(self, service: str, path: str) -> tuple[int, str]:
        """Return status and text of a path at the listener for probes; status 0: nothing listens."""
        async with httpx.AsyncClient() as client:
            try:
                response = await client.get(f"http://{self.probes[service]}{path}")
            except httpx.TransportError:
                return 0, ""
            return response.status_code, response.text

    def _environ(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("DRW_")} | self._env


def _command(args: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "drw.cli.main", *args]
