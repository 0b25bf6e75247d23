"""Authenticates callers and issues API keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from functools import partial

from drw.api.gateway.v1 import authentication_pb2 as wire
from drw.api.gateway.v1 import authentication_rpc as contract
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication.issuers.certificates import Certificates
from drw.gateway.authentication.issuers.records import Issuers
from drw.gateway.authentication.keys.announcing import KeyAnnouncer
from drw.gateway.authentication.keys.encryption import EnvelopeEncryption
from drw.gateway.authentication.keys.issuing import Keys
from drw.gateway.authentication.keys.lineage import KeyLineage
from drw.gateway.authentication.keys.present import permissions
from drw.gateway.authentication.keys.signing import jwks
from drw.gateway.authentication.keys.signing_keys import SigningKeys
from drw.gateway.authentication.keys.store import KeyStore
from drw.gateway.authentication.metrics import measure
from drw.gateway.authentication.ports import KeySetSource
from drw.gateway.authentication.settings import Settings
from drw.gateway.authentication.tenants.hierarchy import Tenants
from drw.gateway.authentication.tenants.me import me
from drw.gateway.authentication.tenants.queries import CHANNEL, as_desk
from drw.kernel.runtime.host import ServiceContext

POLL_SECONDS = 2.0
"""Interval of checks for rotated keys to revoke and for key sets to fetch."""


class Authentication(contract.Authentication):
    """Serves `drw.api.gateway.v1.Authentication`."""

    def __init__(
        self,
        settings: Settings,
        store: KeyStore,
        tenants: Tenants,
        keys: Keys,
        signing: SigningKeys,
        issuers: Issuers,
        certificates: Certificates,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tenants = tenants
        self._keys = keys
        self._signing = signing
        self._issuers = issuers
        self._certificates = certificates
        self._lineage = KeyLineage(store.database)

    async def get_me(self, request: wire.GetMeRequest, /) -> wire.Me:
        """GetMe returns the caller."""
        return await me(self._store)

    async def create_key(self, request: wire.CreateKeyRequest, /) -> wire.CreatedKey:
        """CreateKey issues a key."""
        return await self._keys.create(request)

    async def list_keys(self, request: wire.ListKeysRequest, /) -> wire.ListKeysResponse:
        """ListKeys lists the keys that the caller can see, newest first."""
        return await self._keys.page(request)

    async def get_key(self, request: wire.GetKeyRequest, /) -> wire.Key:
        """GetKey returns a key."""
        return await self._keys.get(request.id, request.org)

    async def revoke_key(self, request: wire.RevokeKeyRequest, /) -> wire.Key:
        """RevokeKey revokes a key and all keys that were created with it, at any depth."""
        return await self._keys.revoke(request)

    async def rotate_key(self, request: wire.RotateKeyRequest, /) -> wire.CreatedKey:
        """RotateKey issues a successor with the same scopes, walls, limits and budgets."""
        return await self._keys.rotate(request)

    async def put_org(self, request: wire.PutOrgRequest, /) -> wire.PutOrgResponse:
        """PutOrg creates an org, or replaces the permissions of its desks."""
        return await self._tenants.put_org(request)

    async def list_orgs(self, request: wire.ListOrgsRequest, /) -> wire.ListOrgsResponse:
        """ListOrgs lists the orgs by name."""
        return await self._tenants.orgs(request)

    async def get_org(self, request: wire.GetOrgRequest, /) -> wire.Org:
        """GetOrg returns an org."""
        return await self._tenants.org(request.name)

    async def delete_org(self, request: wire.DeleteOrgRequest, /) -> wire.Org:
        """DeleteOrg deletes an org without desks, issuers and certificates."""
        return await self._tenants.delete_org(request.name)

    async def put_desk(self, request: wire.PutDeskRequest, /) -> wire.PutDeskResponse:
        """PutDesk creates a desk, or replaces the permissions of its keys."""
        return await self._tenants.put_desk(request)

    async def list_desks(self, request: wire.ListDesksRequest, /) -> wire.ListDesksResponse:
        """ListDesks lists the desks of an org by name: the caller's own desk, or all desks with "org:admin"."""
        return await self._tenants.desks(request)

    async def get_desk(self, request: wire.GetDeskRequest, /) -> wire.Desk:
        """GetDesk returns a desk."""
        return await self._tenants.desk(request)

    async def delete_desk(self, request: wire.DeleteDeskRequest, /) -> wire.DeleteDeskResponse:
        """DeleteDesk deletes a desk without valid keys and certificates."""
        return await self._tenants.delete_desk(request)

    async def list_signing_keys(self, request: wire.ListSigningKeysRequest, /) -> wire.ListSigningKeysResponse:
        """ListSigningKeys lists the signing keys, newest first."""
        return await self._signing.list_all()

    async def rotate_signing_key(self, request: wire.RotateSigningKeyRequest, /) -> wire.SigningKey:
        """RotateSigningKey creates a signing key."""
        return await self._signing.rotate()

    async def retire_signing_key(self, request: wire.RetireSigningKeyRequest, /) -> wire.RetireSigningKeyResponse:
        """RetireSigningKey invalidates every key that this signing key signed."""
        return await self._signing.retire(request.kid)

    async def put_issuer(self, request: wire.PutIssuerRequest, /) -> wire.Issuer:
        """PutIssuer makes the data planes accept JSON Web Tokens of an issuer, for one org."""
        return await self._issuers.put(request)

    async def list_issuers(self, request: wire.ListIssuersRequest, /) -> wire.ListIssuersResponse:
        """ListIssuers lists the issuers by name."""
        return await self._issuers.list_all()

    async def get_issuer(self, request: wire.GetIssuerRequest, /) -> wire.Issuer:
        """GetIssuer returns an issuer."""
        return await self._issuers.get(request.name)

    async def refresh_issuer(self, request: wire.RefreshIssuerRequest, /) -> wire.Issuer:
        """RefreshIssuer fetches the issuer's key set now."""
        return await self._issuers.refresh(request.name)

    async def delete_issuer(self, request: wire.DeleteIssuerRequest, /) -> wire.Issuer:
        """DeleteIssuer deletes an issuer."""
        return await self._issuers.delete(request)

    async def put_certificate(self, request: wire.PutCertificateRequest, /) -> wire.Certificate:
        """PutCertificate maps a name in client certificates to a caller."""
        return await self._certificates.put(request)

    async def list_certificates(self, request: wire.ListCertificatesRequest, /) -> wire.ListCertificatesResponse:
        """ListCertificates lists the certificates by name."""
        return await self._certificates.list_all()

    async def get_certificate(self, request: wire.GetCertificateRequest, /) -> wire.Certificate:
        """GetCertificate returns a certificate."""
        return await self._certificates.get(request.name)

    async def delete_certificate(self, request: wire.DeleteCertificateRequest, /) -> wire.Certificate:
        """DeleteCertificate deletes a certificate."""
        return await self._certificates.delete(request)

    async def compare_principals(self, request: wire.ComparePrincipalsRequest, /) -> wire.ComparePrincipalsResponse:
        """ComparePrincipals compares the caller with other callers by the recorded lineage of their keys."""
        return await self._lineage.compare(request)

    async def get_permissions(self, request: wire.GetPermissionsRequest, /) -> wire.Permissions:
        """GetPermissions returns the present permissions of the caller."""
        return await permissions(self._store)

    async def watch_credentials(self, request: wire.WatchCredentialsRequest, /) -> AsyncIterator[wire.Credentials]:
        """WatchCredentials streams the keys that data planes use to verify credentials, now and after each change."""
        async with aclosing(self._store.database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                yield await self._credentials()

    async def detail(self) -> str:
        """Return the number of keys and the unreachable issuers, for the status of the service."""
        valid, revoked = await self._store.counts()
        unreachable = [issuer.name for issuer in (await self._issuers.list_all()).issuers if issuer.fetch_error]
        note = f"; using the last key sets of unreachable issuers: {', '.join(unreachable)}" if unreachable else ""
        return f"{valid} valid keys, {revoked} revoked{note}"

    async def refresh_issuers(self) -> None:
        """Fetch due key sets of issuers periodically."""
        while True:
            await self._issuers.refresh_due()
            await asyncio.sleep(POLL_SECONDS)

    async def revoke_rotated(self) -> None:
        """Revoke rotated keys at the end of their overlap."""
        while True:
            seconds = await self._keys.revoke_rotated()
            await asyncio.sleep(POLL_SECONDS if seconds is None else max(0.1, min(seconds, POLL_SECONDS)))

    async def _credentials(self) -> wire.Credentials:
        issuers = await self._issuers.for_data_planes()
        certificates = await self._certificates.for_data_planes()
        return wire.Credentials(
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            jwks=jwks(await self._signing.verifiers()),
            revoked=await self._store.revoked(),
            issuers=issuers,
            certificates=certificates,
            desks=await self._desks({record.org for record in issuers} | {record.org for record in certificates}),
        )

    async def _desks(self, orgs: set[str]) -> list[wire.Desk]:
        """Return the desks of some orgs with the fields that data planes use."""
        query = "select * from desk where org = any(%s) order by org, name"
        desks = [as_desk(row) for row in await self._store.database.all(query, sorted(orgs))] if orgs else []
        return [wire.Desk(org=d.org, name=d.name, scopes=d.scopes, walls=d.walls) for d in desks]


async def build(scope: ServiceContext) -> Authentication:
    """Build the service from the configuration.

    Raises:
        ConfigError: the secret is missing or weak, or is not the one that encrypted the signing keys.
    """
    settings = scope.settings(Settings)
    database = await scope.database()
    audit = scope.audit()
    encryption = [EnvelopeEncryption(secret) for secret in settings.secrets()]
    signing = SigningKeys(
        database, audit, encryption, settings.issuer, settings.audience, lead_seconds=settings.new_signing_key_seconds
    )
    await signing.initialise()
    store = KeyStore(database)
    tenants = Tenants(database, audit)
    max_borrowed_life = timedelta(seconds=settings.borrowed_key_seconds)
    limits = scope.client(RateLimitingClient)
    keys = Keys(store, tenants, signing, audit, limits, max_borrowed_life)
    fetcher = scope.make_adapter(KeySetSource, "jwks_http", {"hosts": settings.jwks_hosts})  # type: ignore[type-abstract]
    issuers = Issuers(database, audit, tenants, fetcher, settings.issuer)
    service = Authentication(settings, store, tenants, keys, signing, issuers, Certificates(database, audit, tenants))
    scope.background(service.revoke_rotated)
    scope.background(service.refresh_issuers)
    scope.background(KeyAnnouncer(database, limits).run)
    scope.describe(service.detail)
    scope.on_scrape(partial(measure, store.database))
    return service
