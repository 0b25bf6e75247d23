"""Processes that are killed in the middle of a rollout: it goes on, and no exposure is lost or counted twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from drw.kernel.runtime.settings import Profile
from models.cluster import KEY
from models.double_engine import double_engine
from models.experiments.alias_calls import until
from support.gateway.kills import double_kills
from support.parts import short_folder

PROFILE = """
name = "test"
data = "{data}"
postgres = "{postgres}"
valkey = "{valkey}"

[processes.models]
services = ["discovery", "serving"]
grpc = "unix:{base}/m.g"
http = "unix:{base}/m.h"

[processes.experiments]
services = ["experiments"]
grpc = "unix:{base}/e.g"
http = "unix:{base}/e.h"

[processes.gateway]
services = ["request_router"]
grpc = "unix:{base}/k"
http = ""

[processes.rag]
services = ["embedding"]
grpc = "unix:{base}/r"
http = ""

[services.discovery]
default_model = "double"
[services.discovery.models.double]
engine = "openai"
base_url = "unix:{base}/d"
upstream_model = "up-1"
[services.discovery.models.candidate]
engine = "openai"
base_url = "unix:{base}/d"
upstream_model = "up-2"
[services.discovery.aliases.fast]
targets = {{ double = 1 }}

[services.experiments]
rollout_seconds = 0.05
consume_seconds = 0.05
routing_seconds = 60
"""
ADMIN = KEY | {"x-drw-key": "key_admin", "x-drw-scopes": "platform:admin"}
BODY = {"model": "fast", "messages": [{"role": "user", "content": "plain"}]}


@dataclass
class Processes:
    """The processes of a profile, each of which can be killed and started again."""

    base: Path
    database: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)
    """The response header of each answer that arrived."""
    failed: list[str] = field(default_factory=list)
    broken: int = 0
    """Calls whose connection broke."""

    async def start(self, name: str) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "drw.kernel.runtime.process", name, str(self.base / "profile.toml")]
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        await until(lambda: self.is_up(name), name)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL

    async def is_up(self, name: str) -> bool:
        with suppress(httpx.TransportError):
            return (await self.clients[name].get("/healthz")).status_code == 200
        return False

    async def post(self, path: str, body: Any = None) -> dict[str, Any]:
        response = await self.clients["experiments"].post(path, json=body or {}, headers=ADMIN)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def advanced(self, from_percent: int) -> bool:
        """Advance the rollout; false while the experiments service has no connection to discovery."""
        body = {"from_percent": from_percent}
        answer = await self.clients["experiments"].post("/api/v1/rollouts/swap:advance", json=body, headers=ADMIN)
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    async def report(self) -> dict[str, Any]:
        response = await self.clients["experiments"].get("/api/v1/rollouts/swap/report", headers=ADMIN)
        return dict(response.json())

    async def assigned_after(self, count: int) -> bool:
        """Return whether both groups have had answers after so many others."""
        return {"swap/control", "swap/candidate"} <= set(self.answered[count:])

    async def all_read(self) -> bool:
        with psycopg.connect(self.database) as connection:
            return connection.execute("select count(*) from audit.outbox").fetchone() == (0,)

    async def promoted(self) -> bool:
        rollout = (await self.report())["rollout"]
        assert rollout["state"] != "ROLLED_BACK", rollout
        aliases = (await self.clients["models"].get("/api/v1/aliases")).json()["aliases"]
        promoted = aliases[0]["targets"] == [{"model": "candidate", "weight": 1}]
        return promoted and bool(rollout["state"] == "PROMOTED")

    async def call(self) -> None:
        try:
            response = await self.clients["models"].post("/v1/chat/completions", json=BODY)
        except httpx.TransportError:
            self.broken += 1
            await asyncio.sleep(0.05)  # the process starts again
            return
        if response.status_code != 200:
            self.failed.append(response.text)
        self.answered.append(response.headers.get("x-experiment", ""))

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        going = True

        async def drive() -> None:
            while going:
                await self.call()

        drivers = [asyncio.create_task(drive()) for _ in range(3)]
        try:
            yield
        finally:
            going = False
            await asyncio.gather(*drivers)


@pytest.fixture
async def processes(profile: Profile) -> AsyncIterator[Processes]:
    """Serving and experiments as two processes, with the double of an engine."""
    with short_folder() as base:
        text = PROFILE.format(data=base / "data", postgres=profile.postgres, valkey=profile.valkey, base=base)
        (base / "profile.toml").write_text(text)
        made = Processes(base, profile.postgres)
        for name in ("models", "experiments"):
            transport = httpx.AsyncHTTPTransport(uds=f"{base}/{name[0]}.h")
            made.clients[name] = httpx.AsyncClient(transport=transport, base_url="http://drw", headers=KEY, timeout=30)
        async with double_kills(f"unix:{base}/k"), double_engine(base / "d"):
            await asyncio.gather(*map(made.start, ("experiments", "models")))
            try:
                yield made
            finally:
                for process in made.running.values():
                    process.terminate()
                for process in made.running.values():
                    process.wait(30)
                for client in made.clients.values():
                    await client.aclose()


async def test_a_rollout_survives_the_death_of_each_process_in_mid_ramp(processes: Processes) -> None:
    rollout = {"name": "swap", "alias": "fast", "model": "candidate", "unit": "request", "steps": [10, 50]}
    await processes.post("/api/v1/rollouts", rollout | {"step_seconds": 1, "step_units": 100_000})
    with psycopg.connect(processes.database) as connection:  # the approval is tested with the authentication service
        connection.execute("update experiments.rollout set state = 'APPROVED', approved_by = 'key_other'")
    await processes.post("/api/v1/rollouts/swap:start")
    async with processes.traffic():
        await until(lambda: processes.assigned_after(0), "the canary")
        processes.kill("experiments")
        seen = len(processes.answered)
        await until(lambda: processes.assigned_after(seen), "assignment while the experiments service is down")
        assert processes.broken == 0
        await processes.start("experiments")
        await processes.post("/api/v1/rollouts/swap:advance", {"from_percent": 10})
        seen = len(processes.answered)
        processes.kill("models")
        await processes.start("models")
        await until(lambda: processes.assigned_after(seen), "assignment after a restart of serving")
    await until(processes.all_read, "the exposures")
    delivery = (await processes.report())["delivery"]
    assert processes.failed == [] and delivery["lost"] == 0
    acknowledged = sum(bool(label) for label in processes.answered)
    # The connection of a recorded call can break before its answer arrives; the reverse cannot happen.
    assert acknowledged <= delivery["recorded"] <= acknowledged + processes.broken
    await until(lambda: processes.advanced(50), "a connection to the new process of discovery")
    await until(processes.promoted, "the promotion")


async def test_a_rollback_by_hand_needs_no_other_process(processes: Processes) -> None:
    rollout = {"name": "swap", "alias": "fast", "model": "candidate", "unit": "request", "steps": [50]}
    await processes.post("/api/v1/rollouts", rollout)
    with psycopg.connect(processes.database) as connection:
        connection.execute("update experiments.rollout set state = 'APPROVED', approved_by = 'key_other'")
    await processes.post("/api/v1/rollouts/swap:start")
    processes.kill("models")
    ended = await processes.post("/api/v1/rollouts/swap:rollback", {"reason": "discovery is down"})
    assert (ended["state"], ended["percent"]) == ("ROLLED_BACK", 0)
