"""Envoy and its agent, run by `drw data-plane`, in front of services that are processes of their own, on TCP."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import httpx

from deploy.served import Served
from drw.local.preflight import free_port
from support.parts import until

GATEWAY = ("authentication", "rate_limiting", "load_balancer", "request_router", "discovery")
SECONDS = 120
"""Time limit for the start of several processes on a loaded machine."""


async def test_requests_reach_services_apart_and_the_data_plane_drains(
    folder: Path, tmp_path: Path, database: str, valkey: str
) -> None:
    listen, metrics = (f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
    plane = {
        "listen": listen,
        "folder": str(tmp_path / "envoy"),
        "admin": f"unix:{folder}/served-admin.sock",
        "metrics": metrics,
    }
    served = Served(tmp_path, database, valkey, migrations="await", data_plane=plane)
    before = served.run("data-plane", "envoy")
    assert before.returncode == 3 and "start `drw data-plane agent` first" in before.stderr
    assert served.run("migrate").returncode == 0
    with ExitStack() as stack:
        for service in (*GATEWAY, "templates"):
            stack.enter_context(served.serving(service))
        stack.enter_context(served.process("agent", "data-plane", "agent"))

        async def configured() -> bool:
            return (tmp_path / "envoy" / "bootstrap.json").exists()

        await until(configured, "the first configuration", SECONDS)
        envoy = stack.enter_context(served.process("envoy", "data-plane", "envoy"))
        created = served.run("first-key")
        assert created.returncode == 0, created.stderr
        key = {"authorization": f"Bearer {created.stdout.strip()}"}
        async with httpx.AsyncClient(base_url=f"http://{listen}", headers=key) as client:

            async def accepts_the_key() -> bool:
                try:
                    return (await client.get("/api/v1/me")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(accepts_the_key, "the data plane", SECONDS)
            answer = await client.get("/api/v1/templates")
            assert answer.status_code == 200 and "templates" in answer.json()
            assert (await client.get("/api/v1/models")).status_code == 200
            gone = await client.get("/api/v1/runs/run_1:watch")
            assert gone.status_code == 503 and "state" in gone.text, "the error names the service of the path"
        drained = served.run("data-plane", "drain", "--announce", "0", "--seconds", "30")
        assert drained.returncode == 0, drained.stderr
        envoy.terminate()
        assert envoy.wait(30) == 0
