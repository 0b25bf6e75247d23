"""Decisions: records the vote of an entitled person, with the values of the form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.approvals import form, links, store
from drw.workflow.orchestration.approvals.delegations import Delegations
from drw.workflow.orchestration.approvals.entitlement import Entitlement, Entitlements
from drw.workflow.orchestration.approvals.store import Approvals, Row
from drw.workflow.orchestration.execution.journal import signals

MAX_ATTEMPTS = 10
"""How often a decision is checked again because another one came first."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A decision."""

    decision: str
    comment: str = ""
    values: Any = None
    link: str = ""
    """The id of the link that carries it."""


class Decisions:
    """Checks decisions and records them."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        approvals: Approvals,
        delegations: Delegations,
        entitlements: Entitlements,
    ) -> None:
        self._database = database
        self._audit = audit
        self._approvals = approvals
        self._delegations = delegations
        self._entitlements = entitlements

    async def decide(self, caller: Principal, run: str, step: str, ballot: Ballot) -> tuple[Row, list[Row]]:
        """Record a decision; return the approval and its votes. The same decision of the same key changes nothing.

        Persons are compared before the transaction, which records nothing if another decision came in between.

        Raises:
            NotFound: the caller does not see such an approval.
            Forbidden: the caller cannot decide it.
            InvalidRequest: the values do not match the form.
            Conflict: the approval is decided, or the key has decided otherwise.
        """
        for _ in range(MAX_ATTEMPTS):
            row, votes = await self._approvals.get(caller, run, step)
            own = next((vote for vote in votes if vote["key"] == caller.key), None)
            if own is not None and own["decision"] == ballot.decision:
                return row, votes
            _check_open(row, own)
            entitlement = await self._entitlements.check(
                caller, row, votes, await self._delegations.to(caller, run, step)
            )
            values = _agreed_values(row, ballot)
            if (recorded := await self._record(caller, row, votes, ballot, entitlement, values)) is not None:
                return recorded
        raise Conflict(f"the approval {step!r} of the run {run!r} has changed {MAX_ATTEMPTS} times: decide again")

    async def _record(
        self, caller: Principal, read: Row, votes: list[Row], ballot: Ballot, entitlement: Entitlement, values: Any
    ) -> tuple[Row, list[Row]] | None:
        """Record a decision; return None if the approval is not as it was read."""
        run, step = read["run"], read["step"]
        async with self._database.transaction() as connection:
            await connection.execute("select from run where id = %s for update", (run,))
            row = await store.visible(connection, caller, run, step)
            _check_open(row, None)
            if row["escalations"] != read["escalations"] or await store.votes_of(connection, run, step) != votes:
                return None
            await self._delegations.check_in_force(connection, entitlement.delegation)
            await links.use(connection, ballot.link)
            await self._add_vote(connection, caller, row, ballot, entitlement)
            votes = await store.votes_of(connection, run, step)
            row |= {"state": _state(row, votes, ballot), "form_values": values}
            await connection.execute(
                "update approval set state = %s, form_values = %s where run = %s and step = %s",
                (row["state"], None if values is None else orjson.dumps(values).decode(), run, step),
            )
            await self._audit_vote(connection, row, ballot, entitlement)
            await signals.notify(connection)
        return row, votes

    async def _add_vote(
        self, connection: Connection, caller: Principal, row: Row, ballot: Ballot, entitlement: Entitlement
    ) -> None:
        run, step, approver = row["run"], row["step"], entitlement.on_behalf_of
        await connection.execute(
            "insert into vote (run, step, key, decision, comment, on_behalf_of, delegation)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (run, step, caller.key, ballot.decision, ballot.comment, approver, entitlement.delegation),
        )
        by = f"{caller.key} for {approver}" if approver else caller.key
        await events.add(connection, run, "waiting", step=step, detail=f"{ballot.decision.lower()} by {by}")

    async def _audit_vote(self, connection: Connection, row: Row, ballot: Ballot, entitlement: Entitlement) -> None:
        details: dict[str, Any] = {
            "decision": ballot.decision,
            "state": row["state"],
            "comment": digest(ballot.comment),
        }
        if row["form_values"] is not None:
            details["values"] = digest(form.canonical(row["form_values"]))
        if entitlement.chain:
            details |= {
                "delegation": entitlement.delegation,
                "chain": [member["caller"] for member in entitlement.chain],
            }
        if ballot.link:
            details["link"] = ballot.link
        await self._audit.record("approval.vote", f"{row['run']}/{row['step']}", details=details, connection=connection)


def _check_open(row: Row, own: Row | None) -> None:
    if own is not None:
        raise Conflict(f"the key {own['key']!r} has decided {own['decision'].lower()}")
    if reason := store.closed_reason(row):
        raise Conflict(f"the approval {row['step']!r} of the run {row['run']!r} is closed: {reason}")


def _state(row: Row, votes: list[Row], ballot: Ballot) -> str:
    if ballot.decision == "REJECT":
        return "REJECTED"
    approvals = sum(vote["decision"] == "APPROVE" for vote in votes)
    return "APPROVED" if approvals >= row["quorum"] else "PENDING"


def _agreed_values(row: Row, ballot: Ballot) -> Any:
    """Return the values of the approval after a decision: those of the first approval, which later ones confirm.

    Raises:
        InvalidRequest: the decision has values without a form, or values that do not match it.
        Conflict: an earlier approval has other values.
    """
    agreed, values = row["form_values"], ballot.values
    if values is not None and (row["form"] is None or ballot.decision == "REJECT"):
        reason = "a rejection has no values" if row["form"] is not None else f"{row['step']!r} has no form"
        raise InvalidRequest(f"values cannot be set: {reason}", param="values")
    if row["form"] is None or ballot.decision == "REJECT":
        return agreed
    if agreed is None:
        form.check_values(row["form"], {} if values is None else values)
        return {} if values is None else values
    if values is not None and form.canonical(values) != form.canonical(agreed):
        raise Conflict("an earlier approval has other values: confirm them by leaving out `values`, or reject")
    return agreed
