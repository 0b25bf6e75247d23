"""Fixtures: an HTTP server, and the workflow services with the declarations that reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile, Workflow
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness
from workflow.nodes.http_server import HttpServer, serve_http

SECRET = 'tok"en/ä+7f3a9c1be5'
"""Characters that JSON, URLs and Base64 encode differently."""
FUNCTIONS = {name: f"workflow.functions:{name}" for name in ("double", "fail", "leak", "crash")}


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with serve_http() as server:
        yield server


@pytest.fixture
def declared(profile: Profile, folder: Path, caller: Principal, server: HttpServer) -> Profile:
    """A profile that allows the server, two secrets and one event."""
    file = folder / "token"
    file.write_text(f"{SECRET}\n")
    secrets = [
        {"name": "TOKEN", "org": caller.org, "desk": caller.desk, "file": file, "hosts": [server.url]},
        {"name": "LOCAL", "org": caller.org, "file": file},
        {"name": "THEIRS", "org": caller.org, "desk": "other", "file": file, "hosts": [server.url]},
        {"name": "GONE", "org": caller.org, "variable": "DRW_TEST_MISSING", "hosts": [server.url]},
    ]
    schema = {"type": "object", "required": ["desk"], "properties": {"desk": {"type": "string"}}}
    workflow = Workflow.model_validate(
        {
            "http_hosts": [
                server.url,
                server.closed_url,
                f"http://localhost:{server.port}",
                "http://localhost:1",
                "https://api.broker.example",
            ],
            "events": {"risk.limit_breached": {"data_schema": schema}},
            "secrets": secrets,
        }
    )
    return profile.model_copy(update={"workflow": workflow})


@pytest.fixture
async def harness(declared: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    settings = FAST_SETTINGS | {"orchestration": {"initial_retry_seconds": 0.01, "functions": FUNCTIONS}}
    async with workflow_harness(declared, folder, caller, services=settings) as harness:
        yield harness
