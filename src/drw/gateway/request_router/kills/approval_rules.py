"""Approval rules of kills: approvals need different principals, and the subject of a kill cannot approve."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from drw.api.gateway.v1.authentication_pb2 import ComparePrincipalsRequest, ComparePrincipalsResponse
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.gateway.request_router.kills.store import Row, as_kill
from drw.kernel.errors import Conflict, Forbidden
from drw.kernel.rpc.context import Principal

ADMIN = "platform:admin"

Relation = ComparePrincipalsResponse.Relation


@dataclass(frozen=True, slots=True)
class Approver:
    """A caller with its relations to other callers, as the authentication service recorded them."""

    principal: Principal
    principal_id: str
    complete: bool = True
    desks: frozenset[str] = frozenset()
    relations: dict[str, ComparePrincipalsResponse.Relation] | None = None
    """None: the caller has not been compared."""

    @classmethod
    def uncompared(cls, principal: Principal) -> Approver:
        """Return the record of a caller that has not been compared."""
        return cls(principal, principal.key)

    def covers(self, others: Collection[str] | None) -> bool:
        """Return whether the caller has been compared with all others; None: no comparison is required."""
        return others is None or (self.relations is not None and self.relations.keys() >= set(others))

    def is_same_as(self, approvers: Iterable[str]) -> bool:
        """Return whether the caller is the same principal as an approver.

        Raises:
            Forbidden: the creator of a key is not on record.
        """
        relations = [self._relation_to(approver) for approver in approvers]
        if any(relation in (Relation.SAME, Relation.SAME_KEY, Relation.ISSUED_BY_CALLER) for relation in relations):
            return True
        if any(relation != Relation.DIFFERENT for relation in relations):
            raise Forbidden(
                f"the creator of the key {self.principal.key!r}, or of an approver's key, is not on record: "
                "approve with a newer key"
            )
        return False

    def check_not_subject(self, kill: Kill) -> None:
        """Check that the caller is not the subject of the kill.

        Raises:
            Forbidden: the subject is the caller's key or desk, or the caller's key descends from it.
        """
        if _is_own(kill, self.principal):
            raise Forbidden(f"the kill is of your own {_subject_text(kill)}: another key or desk must decide about it")
        if kill.subject == Kill.KEY:
            self._check_not_key(kill)
        if kill.subject == Kill.DESK and ADMIN not in self.principal.scopes:
            if f"{kill.org}/{kill.name}" in self.desks:
                raise self._same_principal_error(kill)
            if not self.complete:
                raise self._unknown_creator_error()

    def _check_not_key(self, kill: Kill) -> None:
        relation = self._relation_to(kill.name)
        platform = ADMIN in self.principal.scopes
        if relation == Relation.SAME_KEY or (relation == Relation.SAME and not platform):
            raise self._same_principal_error(kill)
        if relation == Relation.RELATION_UNSPECIFIED and not platform:
            raise self._unknown_creator_error()

    def _relation_to(self, other: str) -> ComparePrincipalsResponse.Relation:
        return (self.relations or {}).get(other, Relation.RELATION_UNSPECIFIED)

    def _same_principal_error(self, kill: Kill) -> Forbidden:
        return Forbidden(
            f"your key {self.principal.key!r} is of the same principal as the {_subject_text(kill)}, "
            "which is the subject: another principal must decide about it"
        )

    def _unknown_creator_error(self) -> Forbidden:
        return Forbidden(
            f"the creator of the key {self.principal.key!r} is not on record, so it can be the subject: use a newer key"
        )


class PrincipalComparer:
    """Compares callers through the authentication service."""

    def __init__(self, authentication: AuthenticationClient) -> None:
        self._authentication = authentication

    async def compare(self, principal: Principal, others: Collection[str]) -> Approver:
        """Return the relation of the caller to others.

        Raises:
            Unavailable: the authentication service does not answer.
            Conflict: there are more approvers than can be compared.
        """
        comparison = await self._authentication.compare_principals(ComparePrincipalsRequest(others=others))
        if len(comparison.relations) != len(others):
            raise Conflict("the callers cannot be compared")
        relations = dict(zip(others, comparison.relations, strict=True))
        return Approver(
            principal,
            comparison.principal or principal.key,
            comparison.complete,
            frozenset(comparison.desks),
            relations,
        )


def check_may_kill(row: Row, approver: Approver) -> None:
    """Raise if the caller is the subject, or would kill in every org without "platform:admin"."""
    if not row["org"]:
        _check_platform(row, approver.principal)
    approver.check_not_subject(as_kill(row))


def check_may_lift(row: Row, approver: Approver) -> None:
    """Raise if the caller is the subject, or would lift a kill of the platform without "platform:admin"."""
    if row["by_platform"] or not row["org"]:
        _check_platform(row, approver.principal)
    approver.check_not_subject(as_kill(row))


def check_may_withdraw(row: Row, approver: Approver) -> None:
    """Raise unless the caller proposed the kill, or could both approve and lift it."""
    if approver.principal.key == row["killed_by"][0] and not row["by_platform"]:
        return
    check_may_lift(row, approver)
    approver.is_same_as(row["killed_by_principals"])  # raises if the relation is unknown


def _check_platform(row: Row, principal: Principal) -> None:
    if ADMIN not in principal.scopes:
        raise Forbidden(f"{row['id']!r} belongs to the platform: only a key with {ADMIN!r} can change it", scope=ADMIN)


def _is_own(kill: Kill, principal: Principal) -> bool:
    return (kill.subject, kill.org, kill.name) in (
        (Kill.KEY, principal.org, principal.key),
        (Kill.DESK, principal.org, principal.desk),
    )


def _subject_text(kill: Kill) -> str:
    return f"{Kill.Subject.Name(kill.subject).lower()} {kill.name!r}"
