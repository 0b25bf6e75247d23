"""Issues, lists, rotates and revokes keys, each within the bounds of its desk."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from drw.api.gateway.v1.authentication_pb2 import (
    CreatedKey,
    CreateKeyRequest,
    Desk,
    Key,
    ListKeysRequest,
    ListKeysResponse,
    RotateKeyRequest,
)
from drw.api.gateway.v1.rate_limiting_pb2 import Limit
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication import names, rules
from drw.gateway.authentication.signing import Claims
from drw.gateway.authentication.signing_keys import SigningKeys
from drw.gateway.authentication.store import Store, as_key
from drw.gateway.authentication.tree import Tree, own_org
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.database import Connection
from drw.kernel.errors import Conflict, InvalidRequest, NotFound

NEWEST = (1 << 63) - 1
SHOWN_CHARACTERS = 6


class KeyNotFound(NotFound):
    """There is no such key, or it is not the caller's to see."""


class Keys:
    """The keys of the platform."""

    def __init__(
        self, store: Store, tree: Tree, signing: SigningKeys, audit: AuditWriter, limits: RateLimitingClient
    ) -> None:
        self._store = store
        self._tree = tree
        self._signing = signing
        self._audit = audit
        self._limits = limits

    async def create(self, request: CreateKeyRequest) -> CreatedKey:
        """Issue a key."""
        who, org = call.caller(), own_org(request.org)
        name, life, rpm = rules.name(request), rules.life(request), rules.requests_per_minute(request)
        named = rules.desk(request, who, org)
        async with self._store.database.transaction() as connection:
            desk = await self._tree.desk_of(connection, org, named)
        key = Key(name=name, org=org, desk=named, requests_per_minute=rpm)
        key.scopes.extend(rules.scopes(request, who, desk))
        key.walls.extend(rules.walls(request, who, desk))
        made = await self._made(key, life)
        async with self._store.database.transaction() as connection:
            await self._add(made.key, connection)
        return made

    async def page(self, request: ListKeysRequest) -> ListKeysResponse:
        """Return keys that the caller may see, newest first."""
        size = names.page_size(request.page_size)
        before = _page_token(request.page_token)
        rows = await self._store.page(call.caller(), ended=request.all, before=before, size=size + 1)
        more = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return ListKeysResponse(keys=[as_key(row) for row in rows[:size]], next_page_token=more)

    async def get(self, key: str) -> Key:
        """Return one key."""
        row = await self._store.get(call.caller(), names.looked_up(key))
        if row is None:
            raise KeyNotFound(f"there is no key {key[:80]!r}; `drw keys list` shows the keys of your desk")
        return as_key(row)

    async def revoke(self, key: str) -> Key:
        """Revoke a key; twice is the same as once."""
        async with self._store.database.transaction() as connection:
            row = await self._store.revoke(call.caller(), names.looked_up(key), connection)
            if row:
                await self._audit.record("key.revoke", f"key/{key}", connection=connection)
        return as_key(row) if row else await self.get(key)

    async def rotate(self, request: RotateKeyRequest) -> CreatedKey:
        """Issue a successor with the same rights and the same length of life; the key ends after the overlap."""
        overlap, old = rules.overlap(request.overlap_seconds), await self.get(request.id)
        who = call.caller()
        # The same check as for a new key: nobody gets from a rotation what they could not have made.
        rules.scopes(CreateKeyRequest(scopes=old.scopes), who, Desk(name=old.desk, scopes=old.scopes))
        rules.walls(CreateKeyRequest(walls=old.walls), who, Desk(name=old.desk, walls=old.walls))
        key = Key()
        key.CopyFrom(old)
        for field in ("revoked_at", "ends_at", "successor"):
            key.ClearField(field)
        made = await self._made(key, old.expires_at.ToDatetime(UTC) - old.created_at.ToDatetime(UTC))
        async with self._store.database.transaction() as connection:
            ends = await self._store.succeed(who, old.id, made.key.id, overlap, connection)
            if ends is None:
                raise Conflict(
                    f"the key {old.id!r} has ended, is revoked or has a successor already: `drw keys show` says which"
                )
            await self._add(made.key, connection)
            details = {"successor": made.key.id, "ends_at": ends.isoformat(timespec="seconds")}
            await self._audit.record("key.rotate", f"key/{old.id}", details=details, connection=connection)
            await self._end(connection)
        return made

    async def end_rotated(self) -> float | None:
        """Revoke the keys whose successors have taken over; return in how many seconds the next one does."""
        async with self._store.database.transaction() as connection:
            await self._end(connection)
        return await self._store.next_end()

    async def _end(self, connection: Connection) -> None:
        for ended in await self._store.end(connection):
            details = {"because": "its successor has taken over"}
            await self._audit.record("key.revoke", f"key/{ended}", details=details, connection=connection)

    async def _made(self, key: Key, life: timedelta) -> CreatedKey:
        """Sign a key, and set its limit first, so that none is ever good without it."""
        now, signer = datetime.now(UTC).replace(microsecond=0), await self._signing.signer()
        key.id = f"key_{secrets.token_hex(12)}"
        key.created_at.FromDatetime(now)
        key.expires_at.FromDatetime(now + life)
        key.signed_with = signer.kid
        secret = signer.sign(_claims(key))
        key.last_characters = secret[-SHOWN_CHARACTERS:]
        if key.requests_per_minute:
            who = call.caller()
            with call.acting_for(replace(who, org=key.org, desk=key.desk if key.org != who.org else who.desk)):
                await self._limits.set_limit(_limit(key))
        return CreatedKey(key=key, secret=secret)

    async def _add(self, key: Key, connection: Connection) -> None:
        """Keep a key, unless its desk has become narrower or its signing key was retired in the meantime."""
        desk = await self._tree.desk_of(connection, key.org, key.desk, lock="share")
        names.within(key.scopes, desk.scopes, "scope", f"a key of the desk {desk.name!r}")
        names.within(key.walls, desk.walls, "wall", f"a key of the desk {desk.name!r}")
        live = "select 1 from signing_key where kid = %s and retired_at is null for share"
        if await (await connection.execute(live, (key.signed_with,))).fetchone() is None:
            raise Conflict(f"the signing key {key.signed_with!r} was retired just now; create the key again")
        await self._store.add(key, connection)
        details = {
            "org": key.org,
            "desk": key.desk,
            "scopes": list(key.scopes),
            "walls": list(key.walls),
            "expires_at": key.expires_at.ToJsonString(),
            "signed_with": key.signed_with,
        }
        await self._audit.record("key.create", f"key/{key.id}", details=details, connection=connection)


def _claims(key: Key) -> Claims:
    issued, expires = key.created_at.ToDatetime(UTC), key.expires_at.ToDatetime(UTC)
    return Claims(key.id, key.org, key.desk, tuple(key.scopes), issued, expires, tuple(key.walls))


def _limit(key: Key) -> Limit:
    return Limit(
        key=key.id,
        requests_per_minute=key.requests_per_minute,
        org=key.org,
        desk=key.desk,
        expires_at=key.expires_at,
    )


def _page_token(token: str) -> int:
    if not token:
        return NEWEST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest("page_token is not one that an earlier answer gave", param="page_token")
    return int(token)
