"""Says who is calling and what they may do."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

from pydantic import Field

from drw.api.gateway.v1 import authentication_rpc as contract
from drw.api.gateway.v1.authentication_pb2 import (
    CreatedKey,
    CreateKeyRequest,
    Credentials,
    GetKeyRequest,
    Key,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    WatchCredentialsRequest,
)
from drw.api.gateway.v1.rate_limiting_pb2 import Limit
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication import rules
from drw.gateway.authentication.measures import measure
from drw.gateway.authentication.signing import Claims, jwks
from drw.gateway.authentication.store import CHANNEL, Store, as_key
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.host import Scope
from drw.kernel.settings import Settings as Base

DEFAULT_PAGE = 100
MAX_PAGE = 1000
NEWEST = (1 << 63) - 1
SHOWN_CHARACTERS = 6


class Settings(Base):
    """What keys say of who issued them, and for whom: the same on every data plane of the platform."""

    issuer: str = Field("drw", min_length=1, max_length=200)
    audience: str = Field("drw-gateway", min_length=1, max_length=200)


class KeyNotFound(NotFound):
    """There is no such key, or it is not the caller's to see."""


class Authentication(contract.Authentication):
    """Serves `drw.api.gateway.v1.Authentication`."""

    def __init__(self, settings: Settings, store: Store, audit: AuditWriter, limits: RateLimitingClient) -> None:
        self._settings = settings
        self._store = store
        self._audit = audit
        self._limits = limits

    async def create_key(self, request: CreateKeyRequest, /) -> CreatedKey:
        """CreateKey issues a key; its secret is shown in this answer and never again."""
        key = _wanted(request)
        signer = (await self._store.signers())[0]
        secret = signer.sign(_claims(key))
        key.last_characters = secret[-SHOWN_CHARACTERS:]
        if key.requests_per_minute:
            await self._limits.set_limit(_limit(key))  # first, so that no key is ever good without its limit
        async with self._store.database.transaction() as connection:
            await self._store.add(key, connection)
            details = {
                "desk": key.desk,
                "scopes": list(key.scopes),
                "expires_at": key.expires_at.ToJsonString(),
                "signed_with": signer.kid,
            }
            await self._audit.record("key.create", f"key/{key.id}", details=details, connection=connection)
        return CreatedKey(key=key, secret=secret)

    async def list_keys(self, request: ListKeysRequest, /) -> ListKeysResponse:
        """ListKeys lists the keys that the caller may see, newest first."""
        size = _page_size(request.page_size)
        before = _page_token(request.page_token)
        rows = await self._store.page(call.caller(), ended=request.all, before=before, size=size + 1)
        more = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return ListKeysResponse(keys=[as_key(row) for row in rows[:size]], next_page_token=more)

    async def get_key(self, request: GetKeyRequest, /) -> Key:
        """GetKey shows one key."""
        row = await self._store.get(call.caller(), request.id)
        if row is None:
            raise KeyNotFound(f"there is no key {request.id!r}; `drw keys list` shows the keys of your desk")
        return as_key(row)

    async def revoke_key(self, request: RevokeKeyRequest, /) -> Key:
        """RevokeKey makes every data plane refuse the key; revoking twice is the same as once."""
        async with self._store.database.transaction() as connection:
            row = await self._store.revoke(call.caller(), request.id, connection)
            if row:
                await self._audit.record("key.revoke", f"key/{request.id}", connection=connection)
        return as_key(row) if row else await self.get_key(GetKeyRequest(id=request.id))

    async def watch_credentials(self, request: WatchCredentialsRequest, /) -> AsyncIterator[Credentials]:
        """WatchCredentials sends what a data plane needs to check keys: now, and after each change."""
        async with aclosing(self._store.database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                yield await self._credentials()

    async def detail(self) -> str:
        """Return how many keys there are."""
        good, revoked = await self._store.counts()
        return f"{good} good keys, {revoked} revoked before their end"

    async def _credentials(self) -> Credentials:
        return Credentials(
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            jwks=jwks(await self._store.signers()),
            revoked=await self._store.revoked(),
        )


def _wanted(request: CreateKeyRequest) -> Key:
    who = call.caller()
    now = datetime.now(UTC).replace(microsecond=0)
    key = Key(
        id=f"key_{secrets.token_hex(12)}",
        name=rules.name(request),
        org=who.org,
        desk=rules.desk(request, who),
        scopes=rules.scopes(request, who),
        requests_per_minute=rules.requests_per_minute(request),
    )
    key.created_at.FromDatetime(now)
    key.expires_at.FromDatetime(now + rules.life(request))
    return key


def _claims(key: Key) -> Claims:
    issued, expires = key.created_at.ToDatetime(UTC), key.expires_at.ToDatetime(UTC)
    return Claims(key.id, key.org, key.desk, tuple(key.scopes), issued, expires)


def _limit(key: Key) -> Limit:
    return Limit(
        key=key.id,
        requests_per_minute=key.requests_per_minute,
        org=key.org,
        desk=key.desk,
        expires_at=key.expires_at,
    )


def _page_size(wanted: int) -> int:
    if not 0 <= wanted <= MAX_PAGE:
        raise InvalidRequest(f"page_size is {wanted}; it can be 1 to {MAX_PAGE}", param="page_size")
    return wanted or DEFAULT_PAGE


def _page_token(token: str) -> int:
    if not token:
        return NEWEST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest("page_token is not one that an earlier answer gave", param="page_token")
    return int(token)


async def build(scope: Scope) -> Authentication:
    """Make the service with what the configuration names."""
    settings = scope.settings(Settings)
    store = Store(await scope.database(), settings.issuer, settings.audience)
    service = Authentication(settings, store, scope.audit(), scope.client(RateLimitingClient))
    scope.describe(service.detail)
    scope.measure(partial(measure, store.database))
    return service
