"""Calls that control runs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from drw.api.workflow.v1.orchestration_pb2 import (
    ForkRunRequest,
    GetRunPayloadRequest,
    PauseRunRequest,
    QueryRunRequest,
    ResumeRunRequest,
    RetryRunRequest,
    Run,
    RunPayload,
    RunQuery,
    SendSignalRequest,
    Signal,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from support.json_types import Json
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness

FUNCTIONS = {name: f"workflow.functions:{name}" for name in ("double", "fail", "text", "length")}


@asynccontextmanager
async def control_harness(
    profile: Profile, folder: Path, caller: Principal, **settings: Json
) -> AsyncIterator[WorkflowHarness]:
    """Run the workflow services with the functions of tests, and with settings of orchestration."""
    of_orchestration = {"initial_retry_seconds": 0.01, "functions": FUNCTIONS, **settings}
    services = FAST_SETTINGS | {"orchestration": of_orchestration}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        yield harness


class Controls:
    """Controls runs as one caller."""

    def __init__(self, client: OrchestrationClient, caller: Principal) -> None:
        self._client = client
        self._caller = caller

    async def pause(self, run: Run, reason: str = "") -> Run:
        with acting_for(self._caller):
            return await self._client.pause_run(PauseRunRequest(run=run.id, reason=reason))

    async def resume(self, run: Run) -> Run:
        with acting_for(self._caller):
            return await self._client.resume_run(ResumeRunRequest(run=run.id))

    async def fork(self, run: Run, from_step: str = "", request_id: str = "", **inputs: Json) -> Run:
        request = ForkRunRequest(run=run.id, from_step=from_step, request_id=request_id, inputs=json_message(inputs))
        with acting_for(self._caller):
            return await self._client.fork_run(request)

    async def retry(self, run: Run, from_step: str = "", request_id: str = "") -> Run:
        with acting_for(self._caller):
            return await self._client.retry_run(RetryRunRequest(run=run.id, from_step=from_step, request_id=request_id))

    async def payload(self, run: Run, sha256: str) -> RunPayload:
        with acting_for(self._caller):
            return await self._client.get_run_payload(GetRunPayloadRequest(run=run.id, sha256=sha256))

    async def signal(self, run: Run, name: str, signal_id: str, payload: Json = None) -> Signal:
        request = SendSignalRequest(run=run.id, signal=name, signal_id=signal_id, payload=json_message(payload))
        with acting_for(self._caller):
            return await self._client.send_signal(request)

    async def query(self, run: Run) -> RunQuery:
        with acting_for(self._caller):
            return await self._client.query_run(QueryRunRequest(run=run.id))


def controls(harness: WorkflowHarness, caller: Principal | None = None) -> Controls:
    return Controls(harness.host.client(OrchestrationClient), caller or harness.caller)


def execute(profile: Profile, query: str, values: Iterable[object] = ()) -> list[tuple[Json, ...]]:
    """Run a statement in the database of orchestration; return its rows, if it has any."""
    with psycopg.connect(profile.postgres, options="-c search_path=orchestration", autocommit=True) as connection:
        cursor = connection.execute(query.encode(), tuple(values))
        return cursor.fetchall() if cursor.description else []
