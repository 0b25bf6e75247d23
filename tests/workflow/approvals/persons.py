"""Persons with issued keys, and a run that waits for their approval."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from drw.api.gateway.v1.authentication_pb2 import PutDeskRequest, RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.workflow.v1.approvals_pb2 import (
    Approval,
    CreateDelegationRequest,
    DecideApprovalRequest,
    Delegation,
    ListApprovalsRequest,
    Vote,
)
from drw.api.workflow.v1.orchestration_pb2 import Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.gateway.keys import issued
from support.json_types import Json, JsonObject
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WITH_PERSONS, WorkflowHarness, workflow_harness

SCOPES_OF_PERSONS = ("workflows:approve", "workflows:run", "workflows:read", "workflows:write", "keys:write")


@dataclass
class World:
    """The workflow services, and the persons of two desks. The operator created their first keys."""

    harness: WorkflowHarness
    starter: Principal

    @property
    def client(self) -> OrchestrationClient:
        return self.harness.host.client(OrchestrationClient)

    async def person(self, *more: str, by: Principal = OPERATOR, desk: str = "research", **fields: Json) -> Principal:
        """Return a person with a key, or with `by` another key of that person."""
        return await issued(self.harness.host, *SCOPES_OF_PERSONS, *more, by=by, desk=desk, **fields)

    async def waiting(self, source: str) -> Run:
        """Start the template "sign"; return the run when its step "ok" waits for approval."""
        self.harness.caller = self.starter
        await self.harness.put(source)
        run = await self.harness.start(0, template="sign")
        await until(lambda: self.waits(run), "the approval")
        return run

    async def waits(self, run: Run) -> bool:
        return any(approval.run == run.id for approval in await self.listed(self.starter))

    async def listed(self, person: Principal) -> list[Approval]:
        with acting_for(person):
            return list((await self.client.list_approvals(ListApprovalsRequest())).approvals)

    async def decide(
        self, run: Run, person: Principal, decision: Vote.Decision = Vote.APPROVE, values: Json = None
    ) -> Approval:
        request = DecideApprovalRequest(run=run.id, step="ok", decision=decision)
        if values is not None:
            request.values.CopyFrom(json_message(values))
        with acting_for(person):
            return await self.client.decide_approval(request)

    async def delegate(self, person: Principal, to: Principal, run: Run | None = None, **fields: Json) -> Delegation:
        """Delegate one approval, or all."""
        one: JsonObject = {"run": run.id, "step": "ok"} if run else {}
        with acting_for(person):
            return await self.client.create_delegation(
                CreateDelegationRequest(delegate=to.key, delegate_desk=to.desk, **one, **fields)
            )

    async def revoke(self, person: Principal) -> None:
        with acting_for(person):
            await self.harness.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=person.key))


@asynccontextmanager
async def approval_world(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[World]:
    """Run the services, with the desks `research` and `risk`."""
    services: JsonObject = FAST_SETTINGS | {"authentication": profile.services["authentication"]}
    async with workflow_harness(profile, folder, caller, services=services, names=WITH_PERSONS) as harness:
        with acting_for(OPERATOR):
            request = PutDeskRequest(org="acme", name="risk", scopes=sorted(SCOPES), walls=["m-and-a"])
            await harness.host.client(AuthenticationClient).put_desk(request)
        starter = await issued(harness.host, *SCOPES_OF_PERSONS)
        yield World(harness, starter)
