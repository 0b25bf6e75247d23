"""Conversion of the rows of approvals and delegations to contract messages."""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.workflow.v1.approvals_pb2 import Approval, Delegation, Vote
from drw.workflow.orchestration.approvals.store import Row
from drw.workflow.orchestration.messages import optional_json, timestamp


def approval(row: Row, votes: Sequence[Row]) -> Approval:
    """Return an approval with its votes."""
    return Approval(
        run=row["run"],
        step=row["step"],
        template=row["template_name"],
        title=row["title"],
        details=optional_json(row["details"]),
        quorum=row["quorum"],
        state=row["state"],
        deadline=timestamp(row["deadline"]),
        votes=[_vote(vote) for vote in votes],
        started_by=row["started_by"],
        approvers=row["approvers"],
        escalations=row["escalations"],
        form=optional_json(row["form"]),
        values=optional_json(row["form_values"]),
    )


def delegation(row: Row) -> Delegation:
    """Return a delegation."""
    return Delegation(
        id=row["id"],
        run=row["run"] or "",
        step=row["step"] or "",
        approver=row["chain"][0]["caller"],
        delegated_by=row["delegated_by"],
        delegate=row["delegate"],
        delegate_desk=row["delegate_desk"],
        reason=row["reason"],
        expires_at=timestamp(row["expires_at"]),
        created_at=timestamp(row["created_at"]),
        ended_at=timestamp(row["ended_at"]),
    )


def _vote(row: Row) -> Vote:
    return Vote(
        key=row["key"],
        decision=row["decision"],
        comment=row["comment"],
        at=timestamp(row["at"]),
        on_behalf_of=row["on_behalf_of"],
    )
