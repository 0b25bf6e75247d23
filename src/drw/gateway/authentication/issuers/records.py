"""External identity providers: each issuer authenticates callers of one org, within the permissions of its desks.

The last valid key set is stored. Callers of an unreachable issuer are verified with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import (
    ClaimNames,
    DeleteIssuerRequest,
    Issuer,
    ListIssuersResponse,
    PutIssuerRequest,
    Role,
)
from drw.gateway.authentication.issuers import jwks, validation
from drw.gateway.authentication.issuers.jwks import DEFAULT_CACHE_SECONDS
from drw.gateway.authentication.keys import policy
from drw.gateway.authentication.keys.revocation import Revocation
from drw.gateway.authentication.ports import FetchedKeys, KeySetSource
from drw.gateway.authentication.tenants import permissions, queries
from drw.gateway.authentication.tenants.hierarchy import Tenants
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.errors import Conflict, DrwError, InternalError, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times
from drw.kernel.storage.sql import Jsonb

log = logging.getLogger(__name__)

MAX_ISSUERS = 50
MAX_AUDIT_BYTES = 28_000
"""Twice this size plus the other fields fits into `MAX_RECORD_BYTES`."""
LOCK_TABLE: LiteralString = "lock table issuer in share row exclusive mode"
"""Serialises changes. It runs before any row is locked, to prevent deadlocks and conflicts between two changes."""
RETRY_SECONDS = 30
"""Time until a failed fetch is repeated."""
MAX_CONCURRENT_FETCHES = 8
"""Several fetches run at once, so that a slow issuer does not delay the others."""


class IssuerNotFound(NotFound):
    """The issuer does not exist."""


class Issuers:
    """Creates, lists and deletes issuers, and fetches their key sets; each change has an audit record."""

    def __init__(
        self, database: Database, audit: AuditWriter, tenants: Tenants, fetcher: KeySetSource, platform_issuer: str
    ) -> None:
        self._database = database
        self._audit = audit
        self._tenants = tenants
        self._fetcher = fetcher
        self._platform_issuer = platform_issuer
        self._revocation = Revocation(audit)

    async def put(self, request: PutIssuerRequest) -> Issuer:
        """Create or replace an issuer after fetching its key set.

        Raises:
            InvalidRequest: the issuer or its key set is invalid.
            Forbidden: a role has a scope that the caller lacks or that is not within the org.
            Conflict: another issuer has the same URL, or there are `MAX_ISSUERS` issuers.
            Unavailable: its key set cannot be fetched.
        """
        issuer = validation.requested_issuer(request, self._platform_issuer)
        org = await self._tenants.org(issuer.org)
        for role in issuer.roles:
            policy.check_scopes_held(role.scopes, context.caller())
            permissions.check_within(
                role.scopes, org.scopes, "scope", f"the role {role.name!r} in the org {org.name!r}"
            )
        if issuer.default_desk:
            await self._tenants.any_desk(org.name, issuer.default_desk)
        keys = await self._key_set(issuer)
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_TABLE)
            before = await self._fetch_row(connection, issuer.name)
            await self._check_conflicts(connection, issuer, before)
            after = await self._write(connection, issuer, keys)
            _check_audit_size(after)
            await self._record("issuer.put", before, after, connection)
        return as_issuer(after)

    async def list_all(self) -> ListIssuersResponse:
        """Return all issuers by name."""
        return ListIssuersResponse(issuers=[as_issuer(row) for row in await self._fetch_all()])

    async def get(self, name: str) -> Issuer:
        """Return an issuer."""
        async with self._database.transaction() as connection:
            if (issuer := await self._fetch_row(connection, name)) is None:
                raise self._not_found(name)
            return as_issuer(issuer)

    async def delete(self, request: DeleteIssuerRequest) -> Issuer:
        """Delete an issuer, and by default revoke the keys that its callers created."""
        name = request.name
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_TABLE)
            if (before := await self._fetch_row(connection, name)) is None:
                raise self._not_found(name)
            await connection.execute("delete from issuer where name = %s", (name,))
            if not request.keep_children:
                await self._revocation.revoke_created_by_issuer(name, connection)
            await self._record("issuer.delete", before, None, connection)
        return as_issuer(before)

    async def refresh(self, name: str) -> Issuer:
        """Fetch the key set of an issuer now.

        Raises:
            Unavailable: it cannot be fetched; the stored key set stays valid.
        """
        issuer = await self.get(name)
        if not issuer.jwks_uri:
            raise InvalidRequest(f"the issuer {name!r} has its keys in its record: `drw issuers put` changes them")
        if error := await self._refresh(name, issuer.jwks_uri):
            raise error
        return await self.get(name)

    async def refresh_due(self) -> None:
        """Fetch the key sets whose cache time is over."""
        query = "select name, jwks_uri from issuer where jwks_uri <> '' and refresh_at <= now() order by refresh_at"
        semaphore = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)

        async def refresh(row: dict[str, Any]) -> None:
            async with semaphore:
                await self._refresh(row["name"], row["jwks_uri"])

        due = await self._database.all(query)
        async with asyncio.TaskGroup() as group:
            for row in due:
                group.create_task(refresh(row))

    async def for_data_planes(self) -> list[Issuer]:
        """Return all issuers with their current key sets, for the data planes."""
        return [_for_data_plane(row) for row in await self._fetch_all()]

    async def _key_set(self, issuer: Issuer) -> FetchedKeys:
        if issuer.jwks_uri:
            return await self._fetcher.fetch(issuer.jwks_uri)
        return FetchedKeys(jwks.read(issuer.jwks), DEFAULT_CACHE_SECONDS)

    async def _check_conflicts(self, connection: Connection, issuer: Issuer, before: dict[str, Any] | None) -> None:
        cursor = await connection.execute(
            "select name from issuer where issuer = %s and name <> %s", (issuer.issuer, issuer.name)
        )
        if other := await cursor.fetchone():
            raise Conflict(f"{issuer.issuer!r} is the issuer {other['name']!r} already; an issuer belongs to one org")
        count = await (await connection.execute("select count(*) as n from issuer")).fetchone()
        if before is None and count and count["n"] >= MAX_ISSUERS:
            raise Conflict(f"there are {MAX_ISSUERS} issuers, the maximum")

    async def _write(self, connection: Connection, issuer: Issuer, keys: FetchedKeys) -> dict[str, Any]:
        fields = {
            "name": issuer.name,
            "issuer": issuer.issuer,
            "audiences": list(issuer.audiences),
            "uri": issuer.jwks_uri,
            "jwks": keys.jwks,
            "org": issuer.org,
            "claims": Jsonb(to_json(issuer.claims)),
            "desk": issuer.default_desk,
            "roles": Jsonb([to_json(role) for role in issuer.roles]),
            "age": keys.max_age,
        }
        cursor = await connection.execute(
            """
            insert into issuer (name, issuer, audiences, jwks_uri, jwks, org, claims, default_desk, roles,
                                fetched_at, refresh_at)
            values (%(name)s, %(issuer)s, %(audiences)s, %(uri)s, %(jwks)s, %(org)s, %(claims)s, %(desk)s, %(roles)s,
                    now(), now() + make_interval(secs => %(age)s))
            on conflict (name) do update set issuer = excluded.issuer, audiences = excluded.audiences,
                jwks_uri = excluded.jwks_uri, jwks = excluded.jwks, org = excluded.org, claims = excluded.claims,
                default_desk = excluded.default_desk, roles = excluded.roles, fetched_at = excluded.fetched_at,
                refresh_at = excluded.refresh_at, fetch_error = '', updated_at = now()
            returning *
            """,
            fields,
        )
        row = await cursor.fetchone()
        assert row is not None, "it was written"
        return row

    async def _refresh(self, name: str, uri: str) -> DrwError | None:
        """Fetch and store the key set of one issuer; return the error, or None.

        An error is stored in the issuer's field `fetch_error`.
        """
        try:
            await self._store_key_set(name, uri, await self._fetcher.fetch(uri))
            return None
        except DrwError as error:
            failed = error
            log.warning("the keys of the issuer %r stay as they are: %s", name, error.message)
        except Exception as error:  # whatever an issuer sends must not stop the refresh of the others
            failed = InternalError(f"its key set cannot be read: {type(error).__name__}")
            log.exception("the keys of the issuer %r stay as they are", name)
        message = "".join(c if c.isprintable() else "?" for c in failed.message)  # without NUL, which text cannot store
        await self._database.all(
            "update issuer set fetch_error = %s, refresh_at = now() + make_interval(secs => %s) "
            "where name = %s and jwks_uri = %s returning name",
            *(message[:500], RETRY_SECONDS, name, uri),
        )
        return failed

    async def _store_key_set(self, name: str, uri: str, keys: FetchedKeys) -> None:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                """
                update issuer set jwks = %(jwks)s, fetch_error = '', fetched_at = now(),
                    refresh_at = now() + make_interval(secs => %(age)s)
                from (select name, jwks from issuer where name = %(name)s and jwks_uri = %(uri)s for update) before
                where issuer.name = before.name returning before.jwks
                """,
                {"jwks": keys.jwks, "age": keys.max_age, "name": name, "uri": uri},
            )
            row = await cursor.fetchone()
            if row and row["jwks"] != keys.jwks:
                details = {"before": jwks.audit_summary(row["jwks"]), "after": jwks.audit_summary(keys.jwks)}
                resource = f"issuer/{name}"
                await self._audit.record("issuer.keys", resource, details=details, connection=connection)
                await changed(connection)

    async def _fetch_all(self) -> list[dict[str, Any]]:
        return await self._database.all("select * from issuer order by name")

    async def _fetch_row(self, connection: Connection, name: str) -> dict[str, Any] | None:
        cursor = await connection.execute("select * from issuer where name = %s", (permissions.lookup_name(name),))
        return await cursor.fetchone()

    async def _record(
        self, action: str, before: dict[str, Any] | None, after: dict[str, Any] | None, connection: Connection
    ) -> None:
        name = (after or before or {})["name"]
        details = {"before": before and _audit_details(before), "after": after and _audit_details(after)}
        await self._audit.record(action, f"issuer/{name}", details=details, connection=connection)
        await changed(connection)

    def _not_found(self, name: str) -> IssuerNotFound:
        return IssuerNotFound(f"there is no issuer {name[:80]!r}; `drw issuers list` shows them")


def as_issuer(row: dict[str, Any]) -> Issuer:
    """Convert a row to an issuer; of fetched keys it contains only the ids."""
    issuer = Issuer(
        name=row["name"],
        issuer=row["issuer"],
        audiences=row["audiences"],
        jwks_uri=row["jwks_uri"],
        jwks="" if row["jwks_uri"] else row["jwks"],
        org=row["org"],
        claims=from_json(row["claims"], ClaimNames),
        default_desk=row["default_desk"],
        roles=[from_json(role, Role) for role in row["roles"]],
        fetch_error=row["fetch_error"],
        kids=jwks.kids(row["jwks"]),
    )
    set_times(issuer, row, "created_at", "updated_at", "fetched_at")
    return issuer


def _audit_details(row: dict[str, Any]) -> dict[str, Any]:
    """Return an issuer for the audit log, with the ids and a digest of its keys."""
    issuer = as_issuer(row)
    for field in ("jwks", "kids", "fetch_error"):
        issuer.ClearField(field)
    return {**queries.audit_details(issuer), "keys": jwks.audit_summary(row["jwks"])}


def _check_audit_size(row: dict[str, Any]) -> None:
    """Raise if an audit record could not contain the issuer twice: before and after its next change."""
    if (size := len(json.dumps(_audit_details(row), ensure_ascii=False).encode())) > MAX_AUDIT_BYTES:
        raise InvalidRequest(f"an issuer of {size} bytes; at most {MAX_AUDIT_BYTES} besides its keys", param="roles")


def _for_data_plane(row: dict[str, Any]) -> Issuer:
    """Convert a row to an issuer with its key set, without fields that data planes do not use."""
    issuer = as_issuer(row)
    issuer.jwks = row["jwks"]
    for field in ("created_at", "updated_at", "fetched_at", "fetch_error", "kids"):
        issuer.ClearField(field)
    return issuer
