"""The two-person rule: a decision is made by another person than the one who prepared it."""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.gateway.v1.authentication_pb2 import ComparePrincipalsRequest, ComparePrincipalsResponse
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context

DIFFERENT = ComparePrincipalsResponse.DIFFERENT
UNKNOWN = (ComparePrincipalsResponse.RELATION_UNSPECIFIED, ComparePrincipalsResponse.NO_SUCH_KEY)


class SamePerson(Forbidden):
    """The caller is, or can be, the person who prepared what it decides about."""


class SecondPerson:
    """Compares the caller with others through the authentication service, which knows who issued which key."""

    def __init__(self, authentication: AuthenticationClient | None) -> None:
        self._authentication = authentication

    async def check(self, others: Sequence[str], decision: str) -> None:
        """Check that the caller is another person than each of the others.

        Args:
            others: ids of callers, as in "key_3f9a...".
            decision: what the caller does, for the error message, as in "approve 'fraud@3f9a0c1d2e4b'".

        Raises:
            SamePerson: the caller is one of them, or made their key, or the lineage of a key is not on record.
            Unavailable: the authentication service does not respond.
        """
        caller = context.caller().key
        if not others:
            return
        if self._authentication is None:
            raise SamePerson(f"nobody can {decision}: this profile has no authentication service to compare persons")
        distinct = list(dict.fromkeys(others))
        answer = await self._authentication.compare_principals(ComparePrincipalsRequest(others=distinct))
        relations = list(answer.relations)
        if len(relations) != len(distinct):
            raise SamePerson(f"{caller!r} cannot {decision}: the callers cannot be compared")
        for other, relation in zip(distinct, relations, strict=True):
            if relation in UNKNOWN:
                raise SamePerson(
                    f"{caller!r} cannot {decision}: the creator of its key, or of the key {other!r}, is not on record"
                )
            if relation != DIFFERENT:
                raise SamePerson(
                    f"{caller!r} cannot {decision}: it is of the same person as {other!r}; another person must do it"
                )
