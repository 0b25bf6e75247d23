"""Client certificates: maps a subject alternative name to a desk with scopes and walls."""

from __future__ import annotations

import re
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import (
    Certificate,
    DeleteCertificateRequest,
    ListCertificatesResponse,
    PutCertificateRequest,
)
from drw.gateway.authentication.keys import policy
from drw.gateway.authentication.keys.revocation import Revocation
from drw.gateway.authentication.tenants import permissions, queries
from drw.gateway.authentication.tenants.hierarchy import Tenants
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import requested_org

MAX_CERTIFICATES = 1000
LOCK_TABLE: LiteralString = "lock table certificate in share row exclusive mode"
"""Serialises changes. It runs before any row is locked, to prevent deadlocks and conflicts between two changes."""
SAN = re.compile(
    r"[a-z][a-z0-9+.-]{1,30}://[A-Za-z0-9._~/%:@-]{1,200}"
    r"|(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+"
)
"""A URI, or a DNS name with a dot, without wildcards."""


class CertificateNotFound(NotFound):
    """The certificate does not exist."""


class Certificates:
    """Creates, lists and deletes certificates; each change has an audit record."""

    def __init__(self, database: Database, audit: AuditWriter, tenants: Tenants) -> None:
        self._database = database
        self._audit = audit
        self._tenants = tenants
        self._revocation = Revocation(audit)

    async def put(self, request: PutCertificateRequest) -> Certificate:
        """Create or replace a certificate.

        Raises:
            InvalidRequest: a field is invalid.
            Forbidden: the caller lacks a scope or a wall, or the desk does.
            Conflict: another certificate has the same SAN, or there are `MAX_CERTIFICATES` certificates.
        """
        certificate = _requested_certificate(request)
        policy.check_scopes_held(certificate.scopes, context.caller())
        policy.check_inside_walls(certificate.walls, context.caller())
        async with self._database.transaction() as connection:
            desk = await self._tenants.fetch_desk(connection, certificate.org, certificate.desk, lock="share")
            permissions.check_within(
                certificate.scopes, desk.scopes, "scope", f"a certificate of the desk {desk.name!r}"
            )
            permissions.check_within(certificate.walls, desk.walls, "wall", f"a certificate of the desk {desk.name!r}")
            await connection.execute(LOCK_TABLE)
            before = await self._fetch(connection, certificate.name)
            await self._check_conflicts(connection, certificate, before)
            after = await self._write(connection, certificate)
            await self._record("certificate.put", before, after, connection)
        return after

    async def list_all(self) -> ListCertificatesResponse:
        """Return all certificates by name."""
        rows = await self._database.all("select * from certificate order by name")
        return ListCertificatesResponse(certificates=[_as_certificate(row) for row in rows])

    async def get(self, name: str) -> Certificate:
        """Return a certificate."""
        async with self._database.transaction() as connection:
            return await self._existing(connection, name)

    async def delete(self, request: DeleteCertificateRequest) -> Certificate:
        """Delete a certificate, and by default revoke the keys that its holder created."""
        name = request.name
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_TABLE)
            before = await self._existing(connection, name)
            await connection.execute("delete from certificate where name = %s", (name,))
            if not request.keep_children:
                await self._revocation.revoke_created_by([f"cert:{name}"], f"cert:{name}", connection)
            await self._record("certificate.delete", before, None, connection)
        return before

    async def for_data_planes(self) -> list[Certificate]:
        """Return the certificates for the data planes."""
        certificates = list((await self.list_all()).certificates)
        for certificate in certificates:
            certificate.ClearField("created_at")
            certificate.ClearField("updated_at")
        return certificates

    async def _existing(self, connection: Connection, name: str) -> Certificate:
        if (certificate := await self._fetch(connection, name)) is None:
            raise CertificateNotFound(f"there is no certificate {name[:80]!r}; `drw certificates list` shows them")
        return certificate

    async def _fetch(self, connection: Connection, name: str) -> Certificate | None:
        cursor = await connection.execute("select * from certificate where name = %s", (permissions.lookup_name(name),))
        row = await cursor.fetchone()
        return _as_certificate(row) if row else None

    async def _check_conflicts(
        self, connection: Connection, certificate: Certificate, before: Certificate | None
    ) -> None:
        cursor = await connection.execute(
            "select name from certificate where san = %s and name <> %s", (certificate.san, certificate.name)
        )
        if other := await cursor.fetchone():
            raise Conflict(f"{certificate.san!r} is the certificate {other['name']!r} already")
        count = await (await connection.execute("select count(*) as n from certificate")).fetchone()
        if before is None and count and count["n"] >= MAX_CERTIFICATES:
            raise Conflict(f"there are {MAX_CERTIFICATES} certificates, the maximum")

    async def _write(self, connection: Connection, certificate: Certificate) -> Certificate:
        cursor = await connection.execute(
            """
            insert into certificate (name, san, org, desk, scopes, walls) values (%s, %s, %s, %s, %s, %s)
            on conflict (name) do update set san = excluded.san, org = excluded.org, desk = excluded.desk,
                scopes = excluded.scopes, walls = excluded.walls, updated_at = now()
            returning *
            """,
            (
                certificate.name,
                certificate.san,
                certificate.org,
                certificate.desk,
                list(certificate.scopes),
                list(certificate.walls),
            ),
        )
        row = await cursor.fetchone()
        assert row is not None, "it was written"
        return _as_certificate(row)

    async def _record(
        self, action: str, before: Certificate | None, after: Certificate | None, connection: Connection
    ) -> None:
        name = (after or before or Certificate()).name
        details = {"before": queries.audit_details(before), "after": queries.audit_details(after)}
        await self._audit.record(action, f"certificate/{name}", details=details, connection=connection)
        await changed(connection)


def _requested_certificate(request: PutCertificateRequest) -> Certificate:
    if not SAN.fullmatch(request.san):
        raise InvalidRequest(
            f"san is {request.san[:200]!r}; it is a URI as in 'spiffe://firm/desk/pricing', or a DNS name in small "
            "letters",
            param="san",
        )
    certificate = Certificate(
        name=request.name,
        san=request.san,
        org=requested_org(request.org),
        desk=request.desk,
        scopes=permissions.scopes(request.scopes),
        walls=sorted(set(request.walls)),
    )
    if not certificate.scopes:
        raise InvalidRequest("scopes is empty; a certificate needs at least one scope", param="scopes")
    return certificate


def _as_certificate(row: dict[str, Any]) -> Certificate:
    fields = ("name", "san", "org", "desk", "scopes", "walls")
    certificate = Certificate(**{field: row[field] for field in fields})
    certificate.created_at.FromDatetime(row["created_at"])
    certificate.updated_at.FromDatetime(row["updated_at"])
    return certificate
