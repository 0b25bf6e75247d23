"""The methods of the contract for approvals, delegations and links."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.kernel.v1.kernel_pb2 import Json
from drw.api.workflow.v1.approvals_pb2 import (
    Approval,
    ApprovalLink,
    CreateApprovalLinkRequest,
    CreateDelegationRequest,
    DecideApprovalRequest,
    Delegation,
    ListApprovalsResponse,
    ListDelegationsResponse,
    UseApprovalLinkRequest,
    Vote,
)
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from drw.persons.second_person import SecondPerson
from drw.workflow.orchestration.approvals import form, links, messages
from drw.workflow.orchestration.approvals.decisions import Ballot, Decisions
from drw.workflow.orchestration.approvals.delegations import Delegations
from drw.workflow.orchestration.approvals.entitlement import Entitlements
from drw.workflow.orchestration.approvals.links import Links
from drw.workflow.orchestration.approvals.store import Approvals
from drw.workflow.orchestration.permissions import PresentPermissions


class ApprovalOperations:
    """Lists and decides approvals, and manages delegations and links."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        approvals: Approvals,
        second_person: SecondPerson,
        permissions: PresentPermissions,
    ) -> None:
        entitlements = Entitlements(second_person, permissions)
        self._approvals = approvals
        self._delegations = Delegations(database, audit, approvals, entitlements)
        self._decisions = Decisions(database, audit, approvals, self._delegations, entitlements)
        self._links = Links(database, audit)

    async def pending(self) -> ListApprovalsResponse:
        """Return the waiting approvals that the caller sees."""
        rows = await self._approvals.pending(context.caller())
        return ListApprovalsResponse(approvals=[messages.approval(*row) for row in rows])

    async def decide(self, request: DecideApprovalRequest) -> Approval:
        """Record the decision of the caller."""
        values = request.values if request.HasField("values") else None
        ballot = _ballot(request.decision, request.comment, values)
        return messages.approval(*await self._decisions.decide(context.caller(), request.run, request.step, ballot))

    async def delegate(self, request: CreateDelegationRequest) -> Delegation:
        """Create a delegation."""
        return messages.delegation(await self._delegations.create(context.caller(), request))

    async def delegations(self) -> ListDelegationsResponse:
        """Return the delegations in force."""
        rows = await self._delegations.listed(context.caller())
        return ListDelegationsResponse(delegations=[messages.delegation(row) for row in rows])

    async def end_delegation(self, delegation: str) -> Delegation:
        """End a delegation."""
        return messages.delegation(await self._delegations.end(context.caller(), delegation))

    async def create_link(self, request: CreateApprovalLinkRequest) -> ApprovalLink:
        """Create a link to an approval."""
        caller = context.caller()
        approver = request.approver or caller.key
        token, expires_at = await self._links.create(caller, request.run, request.step, approver, request.ttl_seconds)
        at = Timestamp()
        at.FromDatetime(expires_at)
        return ApprovalLink(path=links.PATH + token, approver=approver, expires_at=at)

    async def open_link(self, token: str) -> Approval:
        """Return the approval of a link."""
        caller = context.caller()
        link = await self._links.read(caller, token)
        return messages.approval(*await self._approvals.get(caller, link.run, link.step))

    async def use_link(self, request: UseApprovalLinkRequest) -> Approval:
        """Record the decision of the caller with a link."""
        caller = context.caller()
        link = await self._links.read(caller, request.token)
        values = request.values if request.HasField("values") else None
        ballot = _ballot(request.decision, request.comment, values, link.id)
        return messages.approval(*await self._decisions.decide(caller, link.run, link.step, ballot))


def _ballot(decision: Vote.Decision, comment: str, values: Json | None, link: str = "") -> Ballot:
    if decision == Vote.DECISION_UNSPECIFIED:
        raise InvalidRequest("decision must be APPROVE or REJECT", param="decision")
    return Ballot(Vote.Decision.Name(decision), comment, form.values_of(values), link)
