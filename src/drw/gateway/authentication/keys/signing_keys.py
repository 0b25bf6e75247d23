"""Signing keys of API keys: one signs, and each verifies until the last API key that it signed has expired.

Data planes receive a new signing key before it signs, so they never reject an API key as unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import ListSigningKeysResponse, RetireSigningKeyResponse, SigningKey
from drw.gateway.authentication.keys.encryption import EnvelopeEncryption, WrongSecret, is_encrypted
from drw.gateway.authentication.keys.signing import Signer, new_private_key
from drw.gateway.authentication.tenants import permissions
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.errors import Conflict, InternalError, NotFound
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.row_times import set_times

LOCK = 0x6B6579  # "key"
MAX_RECORDED_KEYS = 1000
"""Maximum number of key ids in the audit record of a retirement."""
MAX_LIVE_KEYS = 8
"""Maximum number of signing keys that data planes verify with."""

ACTIVE: LiteralString = """
    select * from signing_key where retired_at is null order by signs_from desc, created_at desc, kid
"""
CURRENT: LiteralString = """
    select * from signing_key where retired_at is null and signs_from <= now()
    order by signs_from desc, created_at desc, kid limit 1
"""
ALL_WITH_STATES: LiteralString = """
    with counted as (
        select s.kid, count(k.id) filter (where k.revoked_at is null and k.expires_at > now()) as good,
               max(k.expires_at) filter (where k.revoked_at is null) as last_end, count(k.id) as recent
        from signing_key s left join key k on k.signed_with = s.kid and k.expires_at > now() - interval '1 hour'
        group by s.kid
    ), signing as (
        select kid from signing_key where retired_at is null and signs_from <= now()
        order by signs_from desc, created_at desc, kid limit 1
    )
    select s.*, c.good, c.last_end, case
        when s.retired_at is not null then 'retired'
        when s.signs_from > now() then 'published'
        when s.kid = (select kid from signing) then 'signs'
        when c.recent > 0 then 'verifies'
        else 'ended' end as state
    from signing_key s join counted c using (kid) order by signs_from desc, created_at desc, kid
"""
"""A signing key verifies for an hour after the end of its last API key: more than the tolerance of clocks in Envoy."""


REVOKE: LiteralString = """
    with bad as materialized (
        select number from key where signed_with = %s and revoked_at is null and expires_at > now()
        order by number for update
    )
    update key set revoked_at = now() from bad where key.number = bad.number returning id
"""


class SigningKeyNotFound(NotFound):
    """The signing key does not exist."""


class SigningKeys:
    """Creates, rotates and retires signing keys; each change has an audit record."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        encryptions: list[EnvelopeEncryption],
        issuer: str,
        audience: str,
        lead_seconds: float,
    ) -> None:
        self._database = database
        self._audit = audit
        self._encryptions = encryptions
        self._issuer = issuer
        self._audience = audience
        self._lead_seconds = lead_seconds

    async def initialise(self) -> None:
        """Encrypt stored keys that are plain or encrypted with the previous secret, and create the first signing key.

        Raises:
            ConfigError: a signing key is encrypted with another secret.
        """
        async with self._locked() as connection:
            await self._encrypt_stored_keys(connection)
            if await (await connection.execute(CURRENT)).fetchone() is None:
                created = await self._create(connection, lead_seconds=0)
                details = {"before": None, "after": {"signs": created.kid}}
                await self._record("create", created.kid, details, connection)

    async def current_signer(self) -> Signer:
        """Return the signing key that signs now."""
        if (row := await self._database.one(CURRENT)) is None:
            raise InternalError("there is no active signing key; the service creates one when it starts")
        return self._signer(row)

    async def verifiers(self) -> list[Signer]:
        """Return the signing keys with which data planes verify, newest first."""
        return [self._signer(row) for row in await self._rows() if row["state"] in ("published", "signs", "verifies")]

    async def list_all(self) -> ListSigningKeysResponse:
        """Return all signing keys, newest first."""
        return ListSigningKeysResponse(signing_keys=[_as_signing_key(row) for row in await self._rows()])

    async def rotate(self) -> SigningKey:
        """Create a signing key. It signs after the lead time, in which data planes receive it.

        Raises:
            Conflict: a new signing key does not sign yet, or there are `MAX_LIVE_KEYS`.
        """
        async with self._locked() as connection:
            rows = await self._rows(connection)
            live = [row for row in rows if row["state"] in ("published", "signs", "verifies")]
            if published := [row for row in live if row["state"] == "published"]:
                raise Conflict(
                    f"the signing key {published[0]['kid']!r} is new already, and signs from "
                    f"{published[0]['signs_from'].isoformat(timespec='seconds')}"
                )
            if len(live) >= MAX_LIVE_KEYS:
                raise Conflict(
                    f"{len(live)} signing keys are live, the maximum: the oldest, "
                    f"{live[-1]['kid']!r}, must have ended or be retired first"
                )
            created = await self._create(connection, lead_seconds=self._lead_seconds)
            details = {
                "before": {"signs": live[0]["kid"]},
                "after": {"signs": created.kid, "in_seconds": self._lead_seconds},
            }
            await self._record("rotate", created.kid, details, connection)
        return await self._one(created.kid)

    async def retire(self, kid: str) -> RetireSigningKeyResponse:
        """Retire a signing key and revoke all API keys that it signed; idempotent.

        Raises:
            SigningKeyNotFound: it does not exist.
        """
        revoked: list[str] = []
        async with self._locked() as connection:
            cursor = await connection.execute(
                "update signing_key set retired_at = now(), private_key = '' where kid = %s and retired_at is null "
                "returning kid",
                (permissions.lookup_name(kid),),
            )
            if await cursor.fetchone():
                successor = await self._ensure_signing_key(connection)  # before API keys are locked: see `KeyStore`
                revoked_rows = await connection.execute(REVOKE, (kid,))
                revoked = [row["id"] for row in await revoked_rows.fetchall()]
                details = {
                    "revoked_keys": len(revoked),
                    "revoked": sorted(revoked)[:MAX_RECORDED_KEYS],
                    "before": {"signs_or_verifies": kid},
                    "after": {"signs": successor},
                }
                await self._record("retire", kid, details, connection)
        return RetireSigningKeyResponse(signing_key=await self._one(kid), revoked_keys=len(revoked))

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[Connection]:
        """Yield a transaction with an exclusive lock on the signing keys."""
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
            yield connection

    async def _encrypt_stored_keys(self, connection: Connection) -> None:
        cursor = await connection.execute("select kid, private_key from signing_key where retired_at is null")
        for row in await cursor.fetchall():
            kid = row["kid"]
            text, is_newest = self._decrypt(row["kid"], row["private_key"])
            if not is_newest:
                encrypted = self._encryptions[0].encrypt(kid, text)
                await connection.execute("update signing_key set private_key = %s where kid = %s", (encrypted, kid))
                before = "the former secret" if is_encrypted(row["private_key"]) else "nothing"
                details = {"before": {"sealed_under": before}, "after": {"sealed_under": "the secret"}}
                await self._record("seal", kid, details, connection)

    async def _record(self, action: str, kid: str, details: dict[str, Any], connection: Connection) -> None:
        await self._audit.record(f"signing_key.{action}", f"signingKey/{kid}", details=details, connection=connection)
        await changed(connection)

    async def _ensure_signing_key(self, connection: Connection) -> str:
        """Ensure that a signing key signs now; return its id."""
        cursor = await connection.execute(ACTIVE)
        active = await cursor.fetchall()
        if signing := [row for row in active if row["signs_from"] <= datetime.now(UTC)]:
            return str(signing[0]["kid"])
        if not active:
            return (await self._create(connection, lead_seconds=0)).kid
        await connection.execute("update signing_key set signs_from = now() where kid = %s", (active[0]["kid"],))
        return str(active[0]["kid"])

    async def _create(self, connection: Connection, *, lead_seconds: float) -> Signer:
        pem = new_private_key()
        signer = Signer(pem, self._issuer, self._audience)
        await connection.execute(
            "insert into signing_key (kid, private_key, signs_from) values (%s, %s, now() + make_interval(secs => %s))",
            (signer.kid, self._encryptions[0].encrypt(signer.kid, pem), lead_seconds),
        )
        return signer

    async def _one(self, kid: str) -> SigningKey:
        for row in await self._rows():
            if row["kid"] == kid:
                return _as_signing_key(row)
        raise SigningKeyNotFound(f"there is no signing key {kid[:80]!r}; `drw keys signing` shows them")

    async def _rows(self, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Return all signing keys with their states, newest first."""
        if connection is None:
            return await self._database.all(ALL_WITH_STATES)
        return await (await connection.execute(ALL_WITH_STATES)).fetchall()

    def _signer(self, row: dict[str, Any]) -> Signer:
        return Signer(self._decrypt(row["kid"], row["private_key"])[0], self._issuer, self._audience)

    def _decrypt(self, kid: str, stored: str) -> tuple[str, bool]:
        """Return a private key, and whether it is encrypted with the newest secret.

        Raises:
            ConfigError: no secret decrypts it.
        """
        if not is_encrypted(stored):
            return stored, False
        for number, encryption in enumerate(self._encryptions):
            try:
                return encryption.decrypt(kid, stored), number == 0
            except WrongSecret:
                continue
        raise ConfigError(
            f"services.authentication.secret is not the secret that encrypted the signing key {kid!r}: "
            "put that one back, or give it as services.authentication.former_secret beside the new one"
        )


def _as_signing_key(row: dict[str, Any]) -> SigningKey:
    signing_key = SigningKey(kid=row["kid"], state=row["state"].upper(), good_keys=row["good"])
    set_times(signing_key, row, "created_at", "signs_from", "retired_at")
    if row["last_end"] and row["good"]:
        signing_key.last_key_ends_at.FromDatetime(row["last_end"])
    return signing_key
