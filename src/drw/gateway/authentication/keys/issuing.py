"""Issues, lists, rotates and revokes keys, each within the bounds of its desk."""

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
from drw.kernel.errors import Conflict, DrwError, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import named_org

log = logging.getLogger(__name__)

NEWEST = (1 << 63) - 1
SHOWN_CHARACTERS = 6
MAX_KEYS = 20_000
"""Keys of one org that have not expired: data planes hold those that are revoked, and all orgs share their room."""
ELSEWHERE = ("oidc:", "cert:")
"""What the ids of callers begin with whose identity ends elsewhere: at an issuer, or with a certificate."""


class KeyNotFound(NotFound):
    """The key does not exist, or the caller cannot see it."""


class Keys:
    """The keys of the platform; `borrowed` is the longest life of one whose maker has its identity from elsewhere."""

    def __init__(
        self,
        store: KeyStore,
        tenants: Tenants,
        signing: SigningKeys,
        audit: AuditWriter,
        limits: RateLimitingClient,
        borrowed: timedelta,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._signing = signing
        self._audit = audit
        self._limits = limits
        self._borrowed = borrowed
        self._lineage = KeyLineage(store.database)
        self._revocation = Revocation(audit)

    async def create(self, request: CreateKeyRequest) -> CreatedKey:
        """Issue a key."""
        principal = context.caller()
        org = named_org(request.org)
        max_life, borrowed = await self._max_life(principal)
        name = policy.name(request)
        life = policy.lifetime(request, max_life)
        desk_name = policy.desk(request, principal, org)
        async with self._store.database.transaction() as connection:
            desk = await self._tenants.desk_of(connection, org, desk_name)
        key = Key(
            name=name, org=org, desk=desk_name, requests_per_minute=request.requests_per_minute, borrowed=borrowed
        )
        key.scopes.extend(policy.scopes(request, principal, desk))
        key.walls.extend(policy.walls(request, principal, desk))
        created = await self._signed_key(key, life)
        async with self._bound(created.key), self._store.database.transaction() as connection:
            await self._check(created.key, connection)
            await self._lock_creator(connection)
            await self._add(created.key, connection)
        return created

    async def page(self, request: ListKeysRequest) -> ListKeysResponse:
        """Return a page of keys that the caller can see, newest first."""
        size = request.page_size or permissions.DEFAULT_PAGE
        before = _page_token(request.page_token)
        rows = await self._store.page(_view(request.org), ended=request.all, before=before, size=size + 1)
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
        """Issue a successor with the same rights and the same length of life; the key ends after the overlap."""
        overlap = timedelta(seconds=request.overlap_seconds)
        old = await self.get(request.id, request.org)
        principal = context.caller()
        max_life, borrowed = await self._max_life(principal)
        # The same checks as for a new key: nobody gets from a rotation what they could not have made.
        policy.scopes(CreateKeyRequest(scopes=old.scopes), principal, Desk(name=old.desk, scopes=old.scopes))
        policy.walls(CreateKeyRequest(walls=old.walls), principal, Desk(name=old.desk, walls=old.walls))
        life = min(old.expires_at.ToDatetime(UTC) - old.created_at.ToDatetime(UTC), max_life)
        policy.lifetime(CreateKeyRequest(ttl_seconds=int(life.total_seconds())), max_life)
        _check_good(old)
        key = Key()
        key.CopyFrom(old)
        for field in ("revoked_at", "ends_at", "successor"):
            key.ClearField(field)
        key.borrowed = old.borrowed or borrowed
        created = await self._signed_key(key, life)
        async with self._bound(created.key, old.id), self._store.database.transaction() as connection:
            await self._check(created.key, connection)
            await self._lock_creator(connection, old.id)
            ends = await self._store.succeed(View.of(principal, old.org), old.id, created.key.id, overlap, connection)
            if ends is None:
                raise _ended(old)
            await self._add(created.key, connection, old.id)
            await self._record_rotated(old, created.key.id, ends, connection)
            await self._end(connection, old.id)
        return created

    async def end_rotated(self) -> float | None:
        """Revoke the keys whose successors have taken over; return in how many seconds the next one does."""
        async with self._store.database.transaction() as connection:
            await self._end(connection)
        return await self._store.next_end()

    async def _max_life(self, principal: Principal) -> tuple[timedelta, bool]:
        """Return the maximum lifetime of a key that this caller creates, and whether the key is borrowed.

        A caller that an issuer removes loses all its keys, and keys created with them, within this time.
        """
        if principal.key.startswith(ELSEWHERE):
            return self._borrowed, True
        row = await self._store.maker(principal)
        if row is None or not row["borrowed"]:
            return policy.MAX_LIFE, False
        left = (row["ends_at"] or row["expires_at"]) - datetime.now(UTC)
        return timedelta(seconds=int(left.total_seconds())), True

    async def _end(self, connection: Connection, key: str = "") -> None:
        for row in await self._store.end(connection, key):
            await self._revocation.record([row], connection, because="its successor has taken over")

    async def _signed_key(self, key: Key, life: timedelta) -> CreatedKey:
        """Sign a key. It becomes valid when it is stored."""
        now = datetime.now(UTC).replace(microsecond=0)
        signer = await self._signing.signer()
        key.id = f"key_{secrets.token_hex(12)}"
        key.created_by = context.caller().key
        key.created_at.FromDatetime(now)
        key.expires_at.FromDatetime(now + life)
        key.signed_with = signer.kid
        secret = signer.sign(_claims(key))
        key.last_characters = secret[-SHOWN_CHARACTERS:]
        return CreatedKey(key=key, secret=secret)

    @asynccontextmanager
    async def _bound(self, key: Key, predecessor: str = "") -> AsyncIterator[None]:
        """Announce a key and set its limits before it becomes valid; undo both if it is not created."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._unbind, key)
            limit = await self._limits.bind_key(_binding(key, predecessor))
            key.requests_per_minute = limit.requests_per_minute
            yield
            undo.pop_all()

    async def _unbind(self, key: Key) -> None:
        try:
            await self._limits.unbind_key(UnbindKeyRequest(key=key.id, org=key.org))
        except DrwError as error:
            log.warning("the limits of %s stay, though there is no such key: %s", key.id, error.message)

    async def _check(self, key: Key, connection: Connection) -> None:
        """Raise where the desk has become narrower or the signing key was retired in the meantime; hold both."""
        live = "select 1 from signing_key where kid = %s and retired_at is null for share"
        if await (await connection.execute(live, (key.signed_with,))).fetchone() is None:
            raise Conflict(f"the signing key {key.signed_with!r} was retired just now; create the key again")
        desk = await self._tenants.desk_of(connection, key.org, key.desk, lock="share")
        permissions.check_within(key.scopes, desk.scopes, "scope", f"a key of the desk {desk.name!r}")
        permissions.check_within(key.walls, desk.walls, "wall", f"a key of the desk {desk.name!r}")

    async def _lock_creator(self, connection: Connection, old: str = "") -> None:
        """Lock the caller's key, issuer or certificate, and the key to rotate, until the transaction ends.

        Raises:
            Conflict: the caller's key is revoked, or its issuer or certificate is deleted.
        """
        maker = context.caller().key
        row = await self._store.lock(maker, old, connection)
        if row and row["revoked_at"]:
            raise Conflict(f"the key {maker!r}, with which this request came, was revoked just now")
        if not await self._store.lock_identity(maker, connection):
            raise Conflict(f"the issuer or certificate of {maker[:80]!r}, who sent this request, was deleted just now")

    async def _add(self, key: Key, connection: Connection, predecessor: str = "") -> None:
        if await self._store.unexpired(key.org, connection) >= MAX_KEYS:
            raise Conflict(
                f"the org {key.org!r} has {MAX_KEYS} keys that have not expired, revoked ones among them, "
                "the maximum: give keys shorter lives"
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

    async def _record_rotated(self, old: Key, successor: str, ends: datetime, connection: Connection) -> None:
        before = {"successor": "", "ends_at": iso_time(old.expires_at.ToDatetime(UTC))}
        details = {"before": before, "after": {"successor": successor, "ends_at": iso_time(ends)}}
        await self._audit.record("key.rotate", f"key/{old.id}", details=details, connection=connection)


def _view(org: str) -> View:
    return View.of(context.caller(), named_org(org))


def _check_good(key: Key) -> None:
    if key.HasField("revoked_at") or key.successor or key.expires_at.ToDatetime(UTC) <= datetime.now(UTC):
        raise _ended(key)


def _ended(key: Key) -> Conflict:
    return Conflict(f"the key {key.id!r} has ended, is revoked or has a successor already: `drw keys show` says which")


def _claims(key: Key) -> Claims:
    issued = key.created_at.ToDatetime(UTC)
    expires = key.expires_at.ToDatetime(UTC)
    return Claims(key.id, key.org, key.desk, tuple(key.scopes), issued, expires, tuple(key.walls))


def _binding(key: Key, predecessor: str) -> BindKeyRequest:
    return BindKeyRequest(
        key=key.id,
        requests_per_minute=key.requests_per_minute,
        org=key.org,
        desk=key.desk,
        expires_at=key.expires_at,
        predecessor=predecessor,
    )


def _page_token(token: str) -> int:
    if not token:
        return NEWEST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest("page_token is not a token of an earlier response", param="page_token")
    return int(token)
