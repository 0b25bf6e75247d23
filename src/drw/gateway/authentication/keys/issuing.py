"""Issues, lists, rotates and revokes API keys; a key has at most the permissions of its desk."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from drw.api.gateway.v1.authentication_pb2 import (
    CreatedKey,
    CreateKeyRequest,
    Desk,
    Key,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from drw.api.gateway.v1.rate_limiting_pb2 import BindKeyRequest, UnbindKeyRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication.keys import policy
from drw.gateway.authentication.keys.lineage import KeyLineage
from drw.gateway.authentication.keys.revocation import Revocation, iso_time
from drw.gateway.authentication.keys.signing import Claims
from drw.gateway.authentication.keys.signing_keys import SigningKeys
from drw.gateway.authentication.keys.store import KeyStore, View, as_key
from drw.gateway.authentication.tenants import permissions
from drw.gateway.authentication.tenants.hierarchy import Tenants
from drw.kernel import paging
from drw.kernel.errors import Conflict, DrwError, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import requested_org

log = logging.getLogger(__name__)

LAST_CHARACTERS = 6
MAX_KEYS = 20_000
"""Maximum number of unexpired keys of an org: data planes hold the revoked ones of all orgs in memory."""
EXTERNAL_PREFIXES = ("oidc:", "cert:")
"""Prefixes of the ids of callers that an issuer or a certificate identifies."""


class KeyNotFound(NotFound):
    """The key does not exist, or the caller cannot see it."""


class Keys:
    """Issues API keys; `max_borrowed_life` limits keys whose creator is identified by an issuer or a certificate."""

    def __init__(
        self,
        store: KeyStore,
        tenants: Tenants,
        signing: SigningKeys,
        audit: AuditWriter,
        limits: RateLimitingClient,
        max_borrowed_life: timedelta,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._signing = signing
        self._audit = audit
        self._limits = limits
        self._max_borrowed_life = max_borrowed_life
        self._lineage = KeyLineage(store.database)
        self._revocation = Revocation(audit)

    async def create(self, request: CreateKeyRequest) -> CreatedKey:
        """Issue a key.

        Raises:
            InvalidRequest: a field is invalid.
            Forbidden: the caller or the desk lacks a scope or a wall.
            NotFound: the desk does not exist.
            Conflict: the org has `MAX_KEYS` keys, or the caller's credential was revoked meanwhile.
            Unavailable: rate limiting does not answer, or data planes do not enforce the key's limit yet.
        """
        principal = context.caller()
        org = requested_org(request.org)
        max_lifetime, borrowed = await self._max_lifetime(principal)
        name = policy.name(request)
        lifetime = policy.lifetime(request, max_lifetime)
        desk_name = policy.desk(request, principal, org)
        async with self._store.database.transaction() as connection:
            desk = await self._tenants.fetch_desk(connection, org, desk_name)
        key = Key(
            name=name, org=org, desk=desk_name, requests_per_minute=request.requests_per_minute, borrowed=borrowed
        )
        key.scopes.extend(policy.scopes(request, principal, desk))
        key.walls.extend(policy.walls(request, principal, desk))
        created = await self._signed_key(key, lifetime)
        async with self._with_limits(created.key), self._store.database.transaction() as connection:
            await self._lock_and_check(created.key, connection)
            await self._lock_creator(connection)
            await self._add(created.key, connection)
        return created

    async def page(self, request: ListKeysRequest) -> ListKeysResponse:
        """Return a page of keys that the caller can see, newest first."""
        size = request.page_size or permissions.DEFAULT_PAGE
        before = paging.number_of(request.page_token)
        rows = await self._store.page(_view(request.org), include_ended=request.all, before=before, size=size + 1)
        next_page_token = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return ListKeysResponse(keys=[as_key(row) for row in rows[:size]], next_page_token=next_page_token)

    async def get(self, key: str, org: str = "") -> Key:
        """Return one key."""
        row = await self._store.get(_view(org), permissions.lookup_name(key))
        if row is None:
            raise KeyNotFound(f"there is no key {key[:80]!r}; `drw keys list` shows the keys of your desk")
        return as_key(row)

    async def revoke(self, request: RevokeKeyRequest) -> Key:
        """Revoke a key and the keys that were created with it; idempotent.

        For an expired key, it still revokes the keys that were created with it.
        """
        key = await self.get(request.id, request.org)
        children: list[str] = []
        kept_keys = 0
        async with self._store.database.transaction() as connection:
            if row := await self._store.revoke(_view(request.org), key.id, connection):
                await self._revocation.record([row], connection)
                key = as_key(row)
            if not request.keep_children:
                children, kept_keys = await self._revocation.revoke_children(key.id, connection)
        key.revoked_keys.extend(children)
        key.kept_keys = kept_keys
        return key

    async def rotate(self, request: RotateKeyRequest) -> CreatedKey:
        """Issue a successor with the same permissions and lifetime; the key is revoked after the overlap.

        Raises:
            NotFound: the caller cannot see the key.
            Conflict: the key is revoked, expired or already rotated.
        """
        overlap = timedelta(seconds=request.overlap_seconds)
        old = await self.get(request.id, request.org)
        principal = context.caller()
        max_lifetime, borrowed = await self._max_lifetime(principal)
        # The same checks as for a new key: a rotation must not grant permissions that the caller cannot grant.
        policy.scopes(CreateKeyRequest(scopes=old.scopes), principal, Desk(name=old.desk, scopes=old.scopes))
        policy.walls(CreateKeyRequest(walls=old.walls), principal, Desk(name=old.desk, walls=old.walls))
        lifetime = min(old.expires_at.ToDatetime(UTC) - old.created_at.ToDatetime(UTC), max_lifetime)
        policy.lifetime(CreateKeyRequest(ttl_seconds=int(lifetime.total_seconds())), max_lifetime)
        _check_active(old)
        key = Key()
        key.CopyFrom(old)
        for field in ("revoked_at", "ends_at", "successor"):
            key.ClearField(field)
        key.borrowed = old.borrowed or borrowed
        created = await self._signed_key(key, lifetime)
        async with self._with_limits(created.key, old.id), self._store.database.transaction() as connection:
            await self._lock_and_check(created.key, connection)
            await self._lock_creator(connection, old.id)
            overlap_end = await self._store.set_successor(
                View.of(principal, old.org), old.id, created.key.id, overlap, connection
            )
            if overlap_end is None:
                raise _not_active(old)
            await self._add(created.key, connection, old.id)
            await self._record_rotated(old, created.key.id, overlap_end, connection)
            await self._revoke_rotated(connection, old.id)
        return created

    async def revoke_rotated(self) -> float | None:
        """Revoke rotated keys whose overlap is over; return the seconds until the next one; None: no rotated key."""
        async with self._store.database.transaction() as connection:
            await self._revoke_rotated(connection)
        return await self._store.seconds_until_next_end()

    async def _max_lifetime(self, principal: Principal) -> tuple[timedelta, bool]:
        """Return the maximum lifetime of a key that this caller creates, and whether the key is borrowed.

        A caller that an issuer removes loses all its keys, and keys created with them, within this time.
        """
        if principal.key.startswith(EXTERNAL_PREFIXES):
            return self._max_borrowed_life, True
        row = await self._store.key_of(principal)
        if row is None or not row["borrowed"]:
            return policy.MAX_LIFETIME, False
        remaining = (row["ends_at"] or row["expires_at"]) - datetime.now(UTC)
        return timedelta(seconds=int(remaining.total_seconds())), True

    async def _revoke_rotated(self, connection: Connection, key: str = "") -> None:
        for row in await self._store.revoke_rotated(connection, key):
            await self._revocation.record([row], connection, because="its successor replaced it")

    async def _signed_key(self, key: Key, lifetime: timedelta) -> CreatedKey:
        """Sign a key. It becomes valid when it is stored."""
        now = datetime.now(UTC).replace(microsecond=0)
        signer = await self._signing.current_signer()
        key.id = f"key_{secrets.token_hex(12)}"
        key.created_by = context.caller().key
        key.created_at.FromDatetime(now)
        key.expires_at.FromDatetime(now + lifetime)
        key.signed_with = signer.kid
        secret = signer.sign(_claims(key))
        key.last_characters = secret[-LAST_CHARACTERS:]
        return CreatedKey(key=key, secret=secret)

    @asynccontextmanager
    async def _with_limits(self, key: Key, predecessor: str = "") -> AsyncIterator[None]:
        """Announce a key and set its limits before it becomes valid; undo both if it is not created."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._unbind, key)
            request = BindKeyRequest(
                key=key.id,
                requests_per_minute=key.requests_per_minute,
                org=key.org,
                desk=key.desk,
                expires_at=key.expires_at,
                predecessor=predecessor,
            )
            limit = await self._limits.bind_key(request)
            key.requests_per_minute = limit.requests_per_minute
            yield
            undo.pop_all()

    async def _unbind(self, key: Key) -> None:
        try:
            await self._limits.unbind_key(UnbindKeyRequest(key=key.id, org=key.org))
        except DrwError as error:
            log.warning("the limits of the key %s, which was not created, are not removed: %s", key.id, error.message)

    async def _lock_and_check(self, key: Key, connection: Connection) -> None:
        """Lock the desk and the signing key until the transaction ends, and check that they still permit the key.

        Raises:
            Conflict: the signing key was retired meanwhile.
            Forbidden: the desk was narrowed meanwhile.
        """
        query = "select 1 from signing_key where kid = %s and retired_at is null for share"
        if await (await connection.execute(query, (key.signed_with,))).fetchone() is None:
            raise Conflict(f"the signing key {key.signed_with!r} was retired just now; create the key again")
        desk = await self._tenants.fetch_desk(connection, key.org, key.desk, lock="share")
        permissions.check_within(key.scopes, desk.scopes, "scope", f"a key of the desk {desk.name!r}")
        permissions.check_within(key.walls, desk.walls, "wall", f"a key of the desk {desk.name!r}")

    async def _lock_creator(self, connection: Connection, rotated_key: str = "") -> None:
        """Lock the caller's key, issuer or certificate, and the key to rotate, until the transaction ends.

        Raises:
            Conflict: the caller's key is revoked, or its issuer or certificate is deleted.
        """
        creator = context.caller().key
        row = await self._store.lock_keys(creator, rotated_key, connection)
        if row and row["revoked_at"]:
            raise Conflict(f"the key {creator!r} of this request was revoked just now")
        if not await self._store.lock_identity(creator, connection):
            raise Conflict(f"the issuer or certificate of {creator[:80]!r}, the caller, was deleted just now")

    async def _add(self, key: Key, connection: Connection, predecessor: str = "") -> None:
        if await self._store.count_unexpired(key.org, connection) >= MAX_KEYS:
            raise Conflict(
                f"the org {key.org!r} has {MAX_KEYS} keys that have not expired, revoked ones among them, "
                "the maximum: give keys shorter lifetimes"
            )
        await self._store.add(key, connection)
        await self._lineage.add(key, predecessor, connection)
        details = {
            "name": key.name,
            "org": key.org,
            "desk": key.desk,
            "scopes": list(key.scopes),
            "walls": list(key.walls),
            "requests_per_minute": key.requests_per_minute,
            "expires_at": key.expires_at.ToJsonString(),
            "borrowed": key.borrowed,
            "signed_with": key.signed_with,
        }
        await self._audit.record("key.create", f"key/{key.id}", details=details, connection=connection)

    async def _record_rotated(self, old: Key, successor: str, overlap_end: datetime, connection: Connection) -> None:
        before = {"successor": "", "ends_at": iso_time(old.expires_at.ToDatetime(UTC))}
        details = {"before": before, "after": {"successor": successor, "ends_at": iso_time(overlap_end)}}
        await self._audit.record("key.rotate", f"key/{old.id}", details=details, connection=connection)


def _view(org: str) -> View:
    return View.of(context.caller(), requested_org(org))


def _check_active(key: Key) -> None:
    if key.HasField("revoked_at") or key.successor or key.expires_at.ToDatetime(UTC) <= datetime.now(UTC):
        raise _not_active(key)


def _not_active(key: Key) -> Conflict:
    return Conflict(
        f"the key {key.id!r} has expired, is revoked or has a successor already: `drw keys show` shows which"
    )


def _claims(key: Key) -> Claims:
    issued_at = key.created_at.ToDatetime(UTC)
    expires_at = key.expires_at.ToDatetime(UTC)
    return Claims(key.id, key.org, key.desk, tuple(key.scopes), issued_at, expires_at, tuple(key.walls))
