"""Who can decide an approval: approvers and their delegates, each another person than the starter and the voters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.rpc.context import SCOPES, Principal
from drw.persons.second_person import SecondPerson
from drw.workflow.orchestration.approvals.store import Row
from drw.workflow.orchestration.permissions import PresentPermissions

APPROVE = "workflows:approve"


@dataclass(frozen=True, slots=True)
class Entitlement:
    """The right of a caller to decide: its own, or that of an approver who delegated."""

    chain: tuple[dict[str, str], ...] = ()
    """Who passed the right on to the caller, the approver first; empty: it is the caller's own."""
    delegation: str = ""
    expires_at: Any = None

    @property
    def on_behalf_of(self) -> str:
        """Return the approver whose right it is; empty: the caller."""
        return self.chain[0]["caller"] if self.chain else ""


class Entitlements:
    """Checks callers against approvals. It asks the authentication service, and so runs outside of transactions."""

    def __init__(self, second_person: SecondPerson, permissions: PresentPermissions) -> None:
        self._second_person = second_person
        self._permissions = permissions

    async def check(self, caller: Principal, row: Row, votes: Sequence[Row], delegations: Sequence[Row]) -> Entitlement:
        """Return the right of the caller to decide.

        `delegations` are those in force to the caller that cover the approval.

        Raises:
            Forbidden: it has none, or is the person who started the run, voted, or is represented by a vote.
            Unavailable: the authentication service does not respond.
        """
        run = row["run"]
        if caller.key == row["started_by"]:
            raise Forbidden(f"the key {caller.key!r} started the run {run!r}; another person must decide")
        if matches(row, caller):
            await self._check_person(caller, row, _deciders(row, votes))
            return Entitlement()
        refusal: Forbidden | None = None
        for delegation in delegations:
            try:
                return await self._delegated(caller, row, votes, delegation)
            except Forbidden as error:
                refusal = error
        if refusal is not None:
            raise refusal
        raise Forbidden(f"{row['step']!r} of the run {run!r} is to be decided by {', '.join(row['approvers'])}")

    async def check_delegate(self, delegate: Principal, others: Sequence[str], decision: str) -> None:
        """Check that another caller can decide, and is another person than these.

        Raises:
            Forbidden: it cannot, or is one of them.
        """
        await self._present(delegate)
        with context.acting_for(delegate):
            await self._second_person.check(others, decision)

    async def _delegated(self, caller: Principal, row: Row, votes: Sequence[Row], delegation: Row) -> Entitlement:
        """Check everybody through whose hands the right went: they still have it, and none started the run."""
        walls = frozenset(row["walls"])
        members = [
            await self._present(Principal(row["org"], link["desk"], link["caller"], frozenset(SCOPES), walls))
            for link in delegation["chain"]
        ]
        if not matches(row, members[0]):
            raise Forbidden(f"the approver {members[0].key!r} cannot decide {row['step']!r} of the run {row['run']!r}")
        for member in members[1:]:
            await self._check_person(member, row, row["starters"])
        deciders = _deciders(row, votes)
        await self._check_person(members[0], row, deciders)
        await self._check_person(caller, row, deciders)
        return Entitlement(tuple(delegation["chain"]), delegation["id"], delegation["expires_at"])

    async def _present(self, principal: Principal) -> Principal:
        """Return a caller with its present scopes. The message does not tell which condition it fails."""
        try:
            present = await self._permissions.of(principal)
        except Forbidden:
            present = None
        if present is None or APPROVE not in present.scopes:
            raise Forbidden(
                f"{principal.key!r} of the desk {principal.desk!r} cannot decide: it needs a valid key with the scope"
                f" {APPROVE!r}, inside of the walls of the run",
                scope=APPROVE,
            )
        return present

    async def _check_person(self, principal: Principal, row: Row, others: Sequence[str]) -> None:
        with context.acting_for(principal):
            await self._second_person.check(others, f"decide {row['step']!r} of the run {row['run']!r}")


def matches(row: Row, principal: Principal) -> bool:
    """Return whether a caller of the org is one of the approvers."""
    own = {f"desk:{principal.desk}", f"caller:{principal.key}"}
    if principal.desk == row["desk"]:
        own |= {f"scope:{scope}" for scope in principal.scopes}
    return not own.isdisjoint(row["approvers"])


def _deciders(row: Row, votes: Sequence[Row]) -> list[str]:
    """Return the starters, the voters, and those for whom they voted."""
    return [*row["starters"], *(name for vote in votes for name in (vote["key"], vote["on_behalf_of"]) if name)]
