"""A platform for the measurements of what is stopped: its address, keys, and its API."""

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

from bench.support.targets import DRW, started


@dataclass(frozen=True)
class Stand:
    """A running platform."""

    data: Path
    url: str
    operator: str

    @property
    def env(self) -> dict[str, str]:
        """The environment in which `drw` means this platform."""
        return {**os.environ, "DRW_DATA_DIR": str(self.data)}

    def api(self) -> httpx.Client:
        """Return its API, as the operator has it."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.operator}"}, timeout=60)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def stand(data: Path) -> Iterator[Stand]:
    """Run a platform with an engine whose answers never end: as the model `endless`, and behind the route /endless."""
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.support.endless", "0"]
    with started(command, "endless.log", stdout=subprocess.PIPE) as engine:
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
            kept = json.loads((data / "credentials.json").read_text())
            yield Stand(data, kept["url"], kept["api_key"])
        finally:
            subprocess.run([DRW, "down"], env=env, check=False, stdout=subprocess.DEVNULL)


def make_key(api: httpx.Client, desk: str, *scopes: str, rpm: int = 1_000_000) -> tuple[str, str]:
    """Return the id and the secret of a new key; its desk is made where it is not there."""
    api.put(f"/api/v1/desks/{desk}", json={"scopes": scopes}).raise_for_status()
    body = {"desk": desk, "name": "bench", "scopes": scopes, "requests_per_minute": rpm}
    made = api.post("/api/v1/keys", json=body).raise_for_status().json()
    return made["key"]["id"], made["secret"]


def told(what: str, seconds: Sequence[float], aim: str) -> str:
    """Return a line with the median, the 99th percentile (nearest rank) and the most, in milliseconds."""
    ordered = sorted(seconds)
    p50, p99 = (ordered[math.ceil(len(ordered) * q) - 1] * 1000 for q in (0.5, 0.99))
    return (
        f"{what:52} n={len(ordered):4}  p50 {p50:6.0f} ms  p99 {p99:6.0f} ms  most {ordered[-1] * 1000:6.0f} ms  {aim}"
    )
