"""Permissions of the callers of runs: the scopes of a template, and the present permissions of a key."""

from __future__ import annotations

from dataclasses import replace

from drw.api.gateway.v1.authentication_pb2 import GetPermissionsRequest, Permissions
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration.activities import ACTIVITIES, scopes
from drw.workflow.orchestration.execution.dependency_graph import all_nodes
from drw.workflow.orchestration.execution.waiting import WAITING

CONTROL = frozenset({"loop", "map", "switch"})


class CredentialEnded(Forbidden):
    """The key of the caller is revoked or has expired."""


class PresentPermissions:
    """Asks authentication; without that service, callers keep the permissions that they had."""

    def __init__(self, authentication: AuthenticationClient | None) -> None:
        self._authentication = authentication

    async def of(self, principal: Principal) -> Principal:
        """Return a caller with those of its scopes that it still has.

        Raises:
            CredentialEnded: its credential is not valid any more, or not on record.
            Forbidden: it is outside of its walls now.
        """
        present = await self._ask(principal)
        if present.ended:
            raise CredentialEnded(f"the key {principal.key[:80]!r} {present.ended}")
        if not principal.walls.issubset(present.walls):
            raise Forbidden(f"the key {principal.key[:80]!r} is outside of its walls now")
        return replace(principal, scopes=principal.scopes & frozenset(present.scopes))

    async def _ask(self, principal: Principal) -> Permissions:
        if self._authentication is None:
            return Permissions(scopes=sorted(principal.scopes), walls=sorted(principal.walls))
        with context.acting_for(principal):
            return await self._authentication.get_permissions(GetPermissionsRequest())


def check_scopes(caller: Principal, template: Template) -> None:
    """Check that a caller has the scopes of the template's activities.

    Raises:
        InvalidRequest: this release does not have one of the activities.
        Forbidden: a scope is missing.
    """
    nodes = list(all_nodes(template.nodes))
    names = {node.uses for node in [*nodes, *(n.compensate for n in nodes if n.HasField("compensate"))]} - CONTROL
    if unknown := sorted(names - ACTIVITIES.keys() - WAITING.keys()):
        raise InvalidRequest(f"the template {template.name!r} uses {unknown[0]!r}, which this release does not have")
    waiting_scopes = {scope for name in names & WAITING.keys() for scope in WAITING[name][1]}
    required = sorted({*scopes(names & ACTIVITIES.keys()), *waiting_scopes})
    if missing := [scope for scope in required if scope not in caller.scopes]:
        raise Forbidden(
            f"a run of {template.name!r} needs the scopes {' and '.join(map(repr, required))};"
            f" the key {caller.key!r} lacks {' and '.join(map(repr, missing))}",
            scope=missing[0],
        )
