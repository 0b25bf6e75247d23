"""Test harness: the workflow services in this process, connected to doubles, with their calls."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psycopg
import redis
import yaml

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.workflow.v1.orchestration_pb2 import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    Approval,
    CancelRunRequest,
    DecideApprovalRequest,
    GetRunRequest,
    Run,
    StartRunRequest,
    Step,
    Vote,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.state_pb2 import WatchRunRequest
from drw.api.workflow.v1.state_rpc import StateClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest, Template
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from support.hosting import hosted
from support.json_types import Json, JsonObject
from workflow.doubles import Calls, Doubles, serve_doubles, until

SERVICES = ["templates", "state", "orchestration"]
WITH_PERSONS = [*SERVICES, "authentication", "rate_limiting"]
"""For tests with approvals: the authentication service tells persons apart."""
FAST_SETTINGS = {
    "orchestration": {"initial_retry_seconds": 0.01},
    "state": {"lookup_timeout_seconds": 5, "poll_timeout_seconds": 0.2},
}
sequence = itertools.count()


@dataclass
class WorkflowHarness:
    """The workflow services in this process, connected to doubles."""

    host: Host
    doubles: Doubles
    profile: Profile
    caller: Principal

    @property
    def calls(self) -> Calls:
        return self.doubles.calls

    async def start(
        self,
        files: int | Sequence[str] = 3,
        request_id: str = "",
        template: str = "digest",
        principal: Principal | None = None,
        **inputs: Json,
    ) -> Run:
        names = [f"file-{i}" for i in range(files)] if isinstance(files, int) else list(files)
        request = StartRunRequest(template=template, request_id=request_id or f"r{next(sequence)}")
        request.inputs.CopyFrom(json_message(({"files": names} if files != 0 else {}) | inputs))
        with acting_for(principal or self.caller):
            return await self.host.client(OrchestrationClient).start_run(request)

    async def put(self, source: str) -> Template:
        """Store a template of the desk."""
        name = yaml.safe_load(source)["name"]
        with acting_for(self.caller):
            return await self.host.client(TemplatesClient).put_template(PutTemplateRequest(name=name, source=source))

    async def decide(self, run: Run, step: str, key: str, decision: Vote.Decision, comment: str = "") -> Approval:
        """Decide an approval with another key of the desk."""
        request = DecideApprovalRequest(run=run.id, step=step, decision=decision, comment=comment)
        with acting_for(replace(self.caller, key=key)):
            return await self.host.client(OrchestrationClient).decide_approval(request)

    async def get(self, run: Run) -> Run:
        with acting_for(self.caller):
            return await self.host.client(OrchestrationClient).get_run(GetRunRequest(run=run.id))

    async def cancel(self, run: Run, principal: Principal | None = None) -> Run:
        with acting_for(principal or self.caller):
            return await self.host.client(OrchestrationClient).cancel_run(CancelRunRequest(run=run.id))

    async def wait_until_ended(self, run: Run) -> Run:
        async def has_ended() -> bool:
            return (await self.get(run)).state in (SUCCEEDED, FAILED, CANCELLED)

        await until(has_ended, f"the end of {run.id}")
        return await self.get(run)

    async def step(self, run: Run, step: str) -> Step:
        return {s.id: s for s in (await self.get(run)).steps}[step]

    async def events(self, run: Run) -> list[tuple[str, str]]:
        """Return the step and state of all events of a run, until it ends."""
        with acting_for(self.caller):
            stream = self.host.client(StateClient).watch_run(WatchRunRequest(run=run.id))
            return [(e.step, e.state) async for e in stream if e.event_id]

    def audit(self, action: str) -> list[JsonObject]:
        with psycopg.connect(self.profile.postgres) as connection:
            rows = connection.execute("select record::text from audit.inbox order by 1").fetchall()
        records = [orjson.loads(row[0]) for row in rows]
        return [r for r in records if r["action"] == action]


@asynccontextmanager
async def workflow_harness(
    profile: Profile,
    folder: Path,
    caller: Principal,
    how: str = "together",
    services: Mapping[str, JsonObject] | None = None,
    names: Sequence[str] = SERVICES,
) -> AsyncIterator[WorkflowHarness]:
    with redis.Redis.from_url(profile.valkey) as valkey:
        valkey.flushdb()
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        settings_profile = doubles.profile.model_copy(update={"services": services or FAST_SETTINGS})
        async with hosted(settings_profile, list(names), how) as host:
            yield WorkflowHarness(host, doubles, settings_profile, caller)


async def step_is(harness: WorkflowHarness, run: Run, step: str, state: int) -> bool:
    """Return whether a step is in this state."""
    return (await harness.step(run, step)).state == state


async def live_view_is_behind(harness: WorkflowHarness) -> bool:
    """Return whether the status of orchestration reports a delayed live view."""
    status = {s.name: s for s in (await harness.host.status()).services}["orchestration"]
    return status.state == ServiceStatus.DEGRADED and "live view" in status.detail
