"""Orgs and desks: a desk has at most the permissions of its org, and a key at most those of its desk.

Desks are never created implicitly. Narrowing an org or a desk fails with the list of desks or keys that have more
permissions, or narrows and revokes them on request.
"""

from __future__ import annotations

from typing import Any

from drw.api.gateway.v1.authentication_pb2 import (
    DeleteDeskRequest,
    DeleteDeskResponse,
    Desk,
    GetDeskRequest,
    ListDesksRequest,
    ListDesksResponse,
    ListOrgsRequest,
    ListOrgsResponse,
    Org,
    PutDeskRequest,
    PutDeskResponse,
    PutOrgRequest,
    PutOrgResponse,
)
from drw.gateway.authentication.tenants import permissions, queries
from drw.gateway.authentication.tenants.queries import as_desk, as_org, changed
from drw.kernel.errors import Conflict, NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import Owner, may_act_for_org, may_change, requested_org

MAX_DESKS = 1000
"""Maximum number of desks of an org: data planes hold all desks of orgs with issuers or certificates."""


class OrgNotFound(NotFound):
    """The org does not exist."""


class DeskNotFound(NotFound):
    """The desk does not exist in the org."""


class NarrowingConflict(Conflict):
    """A desk or a key has more permissions than the narrowed org or desk."""


class Tenants:
    """Creates, lists, narrows and deletes orgs and desks; each change has an audit record."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def put_org(self, request: PutOrgRequest) -> PutOrgResponse:
        """Create an org, or replace its permissions."""
        requested = Org(
            name=request.name,
            title=request.title,
            scopes=permissions.scopes(request.scopes),
            walls=sorted(set(request.walls)),
        )
        response = PutOrgResponse()
        async with self._database.transaction() as connection:
            before = await queries.org(connection, requested.name, lock="update")
            wider = await queries.wider_desks(connection, requested)
            if wider and not request.revoke_wider:
                raise self._narrowing_conflict(f"the org {requested.name!r}", "desks", [desk.name for desk in wider])
            response.narrowed_desks.extend(desk.name for desk in wider)
            response.revoked_keys.extend(await self._narrow(connection, wider, requested))
            after = await queries.put_org(connection, requested)
            await self._record("org.put", f"org/{requested.name}", before, after, connection)
        response.org.CopyFrom(after)
        return response

    async def org(self, name: str) -> Org:
        """Return an org."""
        async with self._database.transaction() as connection:
            return await self._org(connection, name)

    async def orgs(self, request: ListOrgsRequest) -> ListOrgsResponse:
        """Return a page of the orgs."""
        size = request.page_size or permissions.DEFAULT_PAGE
        after = permissions.page_token(request.page_token)
        rows = await self._database.all("select * from org where name > %s order by name limit %s", after, size + 1)
        next_page_token = str(rows[size - 1]["name"]) if len(rows) > size else ""
        return ListOrgsResponse(orgs=[as_org(row) for row in rows[:size]], next_page_token=next_page_token)

    async def delete_org(self, name: str) -> Org:
        """Delete an org without desks and issuers."""
        async with self._database.transaction() as connection:
            before = await self._org(connection, name, lock="update")
            if dependents := await queries.dependents_of_org(connection, name):
                raise Conflict(f"the org {name!r} still has {permissions.first_names(dependents)}: delete them first")
            await connection.execute("delete from org where name = %s", (name,))
            await self._record("org.delete", f"org/{name}", before, None, connection)
        return before

    async def put_desk(self, request: PutDeskRequest) -> PutDeskResponse:
        """Create a desk, or replace its permissions."""
        requested = Desk(
            org=requested_org(request.org),
            name=request.name,
            title=request.title,
            scopes=permissions.scopes(request.scopes),
            walls=sorted(set(request.walls)),
        )
        async with self._database.transaction() as connection:
            org = await self._org(connection, requested.org, lock="share")
            permissions.check_within(requested.scopes, org.scopes, "scope", f"a desk of {org.name!r}")
            permissions.check_within(requested.walls, org.walls, "wall", f"a desk of {org.name!r}")
            before = await queries.desk(connection, requested.org, requested.name, lock="update")
            if before is None and await queries.count_desks(connection, requested.org) >= MAX_DESKS:
                raise Conflict(f"the org {org.name!r} has {MAX_DESKS} desks, the maximum")
            if not request.revoke_wider and (wider := await queries.wider_keys(connection, requested)):
                raise self._narrowing_conflict(f"the desk {requested.name!r}", "keys", wider)
            revoked = await self._revoke_wider(connection, requested)
            after = await queries.put_desk(connection, requested)
            await self._record("desk.put", _resource(requested), before, after, connection)
            await changed(connection)
        return PutDeskResponse(desk=after, revoked_keys=revoked)

    async def desk(self, request: GetDeskRequest) -> Desk:
        """Return a desk."""
        org = requested_org(request.org)
        if not may_change(Owner(org, request.name)):
            raise _desk_not_found(org, request.name)
        return await self.any_desk(org, request.name)

    async def any_desk(self, org: str, name: str) -> Desk:
        """Return a desk, without a permission check."""
        async with self._database.transaction() as connection:
            return await self.fetch_desk(connection, org, name)

    async def desks(self, request: ListDesksRequest) -> ListDesksResponse:
        """Return a page of the desks of an org that the caller can act for."""
        size = request.page_size or permissions.DEFAULT_PAGE
        after = permissions.page_token(request.page_token)
        org = requested_org(request.org)
        own_desk = None if may_act_for_org(org) else context.caller().desk
        query = "select * from desk where org = %s and name > %s and name = coalesce(%s, name) order by name limit %s"
        rows = await self._database.all(query, permissions.lookup_name(org), after, own_desk, size + 1)
        next_page_token = str(rows[size - 1]["name"]) if len(rows) > size else ""
        return ListDesksResponse(desks=[as_desk(row) for row in rows[:size]], next_page_token=next_page_token)

    async def delete_desk(self, request: DeleteDeskRequest) -> DeleteDeskResponse:
        """Delete a desk without valid keys and certificates."""
        org = requested_org(request.org)
        async with self._database.transaction() as connection:
            before = await self.fetch_desk(connection, org, request.name, lock="update")
            without_permissions = Desk(org=org, name=request.name)
            if not request.revoke_keys and (remaining := await queries.wider_keys(connection, without_permissions)):
                names = permissions.first_names(remaining)
                raise Conflict(
                    f"the desk {request.name!r} still has the keys {names}: revoke them first, or set `revoke_keys`"
                )
            if certificates := await queries.certificates_of_desk(connection, org, request.name):
                raise Conflict(
                    f"the desk {request.name!r} still has {permissions.first_names(certificates)}: delete them first"
                )
            revoked = await self._revoke_wider(connection, without_permissions)
            await connection.execute("delete from desk where org = %s and name = %s", (org, request.name))
            await self._record("desk.delete", _resource(before), before, None, connection)
            await changed(connection)
        return DeleteDeskResponse(desk=before, revoked_keys=revoked)

    async def fetch_desk(self, connection: Connection, org: str, name: str, *, lock: queries.Lock = "") -> Desk:
        """Return a desk; `lock` locks it until the transaction ends.

        Raises:
            DeskNotFound: the org has no desk of this name.
        """
        if (desk := await queries.desk(connection, org, name, lock=lock)) is None:
            raise _desk_not_found(org, name)
        return desk

    async def _org(self, connection: Connection, name: str, *, lock: queries.Lock = "") -> Org:
        if (org := await queries.org(connection, name, lock=lock)) is None:
            raise OrgNotFound(
                f"there is no org {name[:80]!r}; `drw orgs list` shows them, `drw orgs put` creates one", param="org"
            )
        return org

    async def _narrow(self, connection: Connection, desks: list[Desk], org: Org) -> list[str]:
        narrowed = [
            Desk(
                org=desk.org,
                name=desk.name,
                title=desk.title,
                scopes=[scope for scope in desk.scopes if scope in org.scopes],
                walls=[wall for wall in desk.walls if wall in org.walls],
            )
            for desk in desks
        ]
        revoked = await self._revoke_wider(connection, *narrowed)
        for before, narrower in zip(desks, narrowed, strict=True):
            after = await queries.put_desk(connection, narrower)
            await self._record("desk.put", _resource(narrower), before, after, connection)
        await changed(connection)
        return revoked

    async def _revoke_wider(self, connection: Connection, *desks: Desk) -> list[str]:
        wider = [(key, desk) for desk in desks for key in await queries.wider_keys(connection, desk)]
        revoked = [key for key, _ in wider]
        await queries.revoke(connection, revoked)
        for key, desk in wider:
            details = {
                "because": f"it had more permissions than the desk {desk.name!r}",
                "org": desk.org,
                "desk": desk.name,
            }
            await self._audit.record("key.revoke", f"key/{key}", details=details, connection=connection)
        return revoked

    def _narrowing_conflict(self, holder: str, kind: str, names: list[str]) -> NarrowingConflict:
        return NarrowingConflict(
            f"{holder} cannot have fewer permissions than its {kind} {permissions.first_names(names)}: narrow or "
            "revoke them first, or set `revoke_wider`"
        )

    async def _record(self, action: str, path: str, before: Any, after: Any, connection: Connection) -> None:
        details = {"before": queries.audit_details(before), "after": queries.audit_details(after)}
        await self._audit.record(action, path, details=details, connection=connection)


def _desk_not_found(org: str, name: str) -> DeskNotFound:
    return DeskNotFound(
        f"the org {org!r} has no desk {name[:80]!r}; `drw desks list` shows them, `drw desks put` creates one",
        param="desk",
    )


def _resource(desk: Desk) -> str:
    return f"org/{desk.org}/desk/{desk.name}"
