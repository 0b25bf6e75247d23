"""A platform with endless streams, for the benchmarks of kills and revocations."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.support.targets import DRW, run_process


@dataclass(frozen=True)
class Platform:
    """A running platform."""

    data: Path
    url: str
    operator: str

    @property
    def env(self) -> dict[str, str]:
        """Environment variables with which `drw` uses this platform."""
        return {**os.environ, "DRW_DATA_DIR": str(self.data)}

    def api(self) -> httpx.Client:
        """Return an API client with the operator's key."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.operator}"}, timeout=60)

    @property
    def port(self) -> int:
        """The port of the gateway."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def run_platform(data: Path) -> Iterator[Platform]:
    """Run a platform with an endless engine, as the model `endless` and behind the route /endless."""
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.support.endless", "0"]
    with run_process(command, "endless.log", stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        address = f"127.0.0.1:{int(engine.stdout.readline())}"
        route = 'name = "endless", path = "/endless", methods = ["POST"], scopes = ["models:invoke"]'
        (data / "drw.toml").write_text(
            "services.discovery.models.endless = "
            f'{{ engine = "openai", base_url = "http://{address}/v1", max_concurrent = 1000 }}\n'
            f'services.load_balancer.allowed_upstreams = ["{address}"]\n'
            f'services.load_balancer.upstreams.endless = {{ addresses = ["{address}"] }}\n'
            f'services.request_router.routes = [{{ {route}, models = ["endless"], upstream = "endless" }}]\n'
        )
        env = {**os.environ, "DRW_DATA_DIR": str(data)}
        subprocess.run([DRW, "up", "--detach", "--port", "0"], env=env, check=True, stdout=subprocess.DEVNULL)
        try:
            credentials = json.loads((data / "credentials.json").read_text())
            yield Platform(data, credentials["url"], credentials["api_key"])
        finally:
            subprocess.run([DRW, "down"], env=env, check=False, stdout=subprocess.DEVNULL)


def make_key(api: httpx.Client, desk: str, *scopes: str, rpm: int = 1_000_000) -> tuple[str, str]:
    """Return the id and the secret of a new key; the desk is created if missing."""
    api.put(f"/api/v1/desks/{desk}", json={"scopes": scopes}).raise_for_status()
    body = {"desk": desk, "name": "bench", "scopes": scopes, "requests_per_minute": rpm}
    created = api.post("/api/v1/keys", json=body).raise_for_status().json()
    return created["key"]["id"], created["secret"]


def summary_line(label: str, seconds: Sequence[float], aim: str) -> str:
    """Return a line with the median, the 99th percentile (nearest rank) and the maximum, in milliseconds."""
    ordered = sorted(seconds)
    p50, p99 = (ordered[math.ceil(len(ordered) * q) - 1] * 1000 for q in (0.5, 0.99))
    return (
        f"{label:52} n={len(ordered):4}  p50 {p50:6.0f} ms  p99 {p99:6.0f} ms  most {ordered[-1] * 1000:6.0f} ms  {aim}"
    )
