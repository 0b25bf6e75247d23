"""Signing keys: one signs, and each verifies until the last key that it signed has expired.

Data planes receive a new signing key before it signs, so they never reject a key as unknown. Keys that an old one
signed stay valid until they expire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

from drw.api.gateway.v1.authentication_pb2 import ListSigningKeysResponse, RetireSigningKeyResponse, SigningKey
from drw.gateway.authentication.keys.encryption import EnvelopeEncryption, WrongSecret, is_sealed
from drw.gateway.authentication.keys.signing import Signer, new_private_key
from drw.gateway.authentication.tenants import permissions
from drw.gateway.authentication.tenants.queries import changed
from drw.kernel.errors import Conflict, InternalError, NotFound
from drw.kernel.runtime.settings import ConfigError
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database

LOCK = 0x6B6579  # "key"
MAX_RECORDED_KEYS = 1000
"""Maximum number of key ids in the audit record of a retirement."""
MAX_LIVE_KEYS = 8
"""Maximum number of signing keys that data planes verify with."""

LIVE: LiteralString = """
    select * from signing_key where retired_at is null order by signs_from desc, created_at desc, kid
"""
SIGNS: LiteralString = """
    select * from signing_key where retired_at is null and signs_from <= now()
    order by signs_from desc, created_at desc, kid limit 1
"""
ALL: LiteralString = """
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
"""With their states. A key counts for an hour past its end: more than clocks differ, and than Envoy forgives."""


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
    """The signing keys, in the table of the service."""

    def __init__(
        self,
        database: Database,
        audit: AuditWriter,
        sealers: list[EnvelopeEncryption],
        issuer: str,
        audience: str,
        lead: float,
    ) -> None:
        self._database = database
        self._audit = audit
        self._sealers = sealers
        self._issuer = issuer
        self._audience = audience
        self._lead = lead

    async def begin(self) -> None:
        """Encrypt signing keys that are plain or encrypted with the previous secret, and create the first signing key.

        Raises:
            ConfigError: a signing key is encrypted with another secret.
        """
        async with self._locked() as connection:
            await self._seal(connection)
            if await (await connection.execute(SIGNS)).fetchone() is None:
                created = await self._make(connection, lead=0)
                details = {"before": None, "after": {"signs": created.kid}}
                await self._record("create", created.kid, details, connection)

    async def signer(self) -> Signer:
        """Return the current signer."""
        if (row := await self._database.one(SIGNS)) is None:
            raise InternalError("no signing key signs; one is made when the service starts")
        return self._signer(row)

    async def verifying(self) -> list[Signer]:
        """Return the keys that verify, newest first, for the data planes."""
        return [self._signer(row) for row in await self._rows() if row["state"] in ("published", "signs", "verifies")]

    async def list_all(self) -> ListSigningKeysResponse:
        """Return all, newest first."""
        return ListSigningKeysResponse(signing_keys=[_as_signing_key(row) for row in await self._rows()])

    async def rotate(self) -> SigningKey:
        """Make a new one, which signs once the data planes have had the time to hear of it."""
        async with self._locked() as connection:
            rows = await self._rows(connection)
            live = [row for row in rows if row["state"] in ("published", "signs", "verifies")]
            if waiting := [row for row in live if row["state"] == "published"]:
                raise Conflict(
                    f"the signing key {waiting[0]['kid']!r} is new already, and signs from "
                    f"{waiting[0]['signs_from'].isoformat(timespec='seconds')}"
                )
            if len(live) >= MAX_LIVE_KEYS:
                raise Conflict(
                    f"{len(live)} signing keys are live, the maximum: the oldest, "
                    f"{live[-1]['kid']!r}, must have ended or be retired first"
                )
            created = await self._make(connection, lead=self._lead)
            details = {"before": {"signs": live[0]["kid"]}, "after": {"signs": created.kid, "in_seconds": self._lead}}
            await self._record("rotate", created.kid, details, connection)
        return await self._one(created.kid)

    async def retire(self, kid: str) -> RetireSigningKeyResponse:
        """Make everything bad that one signed; retiring twice is the same as once."""
        revoked: list[str] = []
        async with self._locked() as connection:
            done = await connection.execute(
                "update signing_key set retired_at = now(), private_key = '' where kid = %s and retired_at is null "
                "returning kid",
                (permissions.lookup_name(kid),),
            )
            if await done.fetchone():
                successor = await self._take_over(connection)  # before any key is locked: see `Store`
                bad = await connection.execute(REVOKE, (kid,))
                revoked = [row["id"] for row in await bad.fetchall()]
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

    async def _seal(self, connection: Connection) -> None:
        done = await connection.execute("select kid, private_key from signing_key where retired_at is null")
        for row in await done.fetchall():
            kid = row["kid"]
            text, newest = self._open(row["kid"], row["private_key"])
            if not newest:
                sealed = self._sealers[0].seal(kid, text)
                await connection.execute("update signing_key set private_key = %s where kid = %s", (sealed, kid))
                before = "the former secret" if is_sealed(row["private_key"]) else "nothing"
                details = {"before": {"sealed_under": before}, "after": {"sealed_under": "the secret"}}
                await self._record("seal", kid, details, connection)

    async def _record(self, action: str, kid: str, details: dict[str, Any], connection: Connection) -> None:
        await self._audit.record(f"signing_key.{action}", f"signingKey/{kid}", details=details, connection=connection)
        await changed(connection)

    async def _take_over(self, connection: Connection) -> str:
        """Ensure that a signing key signs now; return its id."""
        done = await connection.execute(LIVE)
        left = await done.fetchall()
        if signing := [row for row in left if row["signs_from"] <= datetime.now(UTC)]:
            return str(signing[0]["kid"])
        if not left:
            return (await self._make(connection, lead=0)).kid
        await connection.execute("update signing_key set signs_from = now() where kid = %s", (left[0]["kid"],))
        return str(left[0]["kid"])

    async def _make(self, connection: Connection, *, lead: float) -> Signer:
        pem = new_private_key()
        signer = Signer(pem, self._issuer, self._audience)
        await connection.execute(
            "insert into signing_key (kid, private_key, signs_from) values (%s, %s, now() + make_interval(secs => %s))",
            (signer.kid, self._sealers[0].seal(signer.kid, pem), lead),
        )
        return signer

    async def _one(self, kid: str) -> SigningKey:
        for row in await self._rows():
            if row["kid"] == kid:
                return _as_signing_key(row)
        raise SigningKeyNotFound(f"there is no signing key {kid[:80]!r}; `drw keys signing` shows them")

    async def _rows(self, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Return all with their states, newest first."""
        if connection is None:
            return await self._database.all(ALL)
        return await (await connection.execute(ALL)).fetchall()

    def _signer(self, row: dict[str, Any]) -> Signer:
        return Signer(self._open(row["kid"], row["private_key"])[0], self._issuer, self._audience)

    def _open(self, kid: str, stored: str) -> tuple[str, bool]:
        """Return a private key, and whether it lies sealed under the newest secret."""
        if not is_sealed(stored):
            return stored, False
        for number, sealer in enumerate(self._sealers):
            try:
                return sealer.open(kid, stored), number == 0
            except WrongSecret:
                continue
        raise ConfigError(
            f"services.authentication.secret is not the secret that encrypted the signing key {kid!r}: "
            "put that one back, or give it as services.authentication.former_secret beside the new one"
        )


def _as_signing_key(row: dict[str, Any]) -> SigningKey:
    signing_key = SigningKey(kid=row["kid"], state=row["state"].upper(), good_keys=row["good"])
    signing_key.created_at.FromDatetime(row["created_at"])
    signing_key.signs_from.FromDatetime(row["signs_from"])
    if row["retired_at"]:
        signing_key.retired_at.FromDatetime(row["retired_at"])
    if row["last_end"] and row["good"]:
        signing_key.last_key_ends_at.FromDatetime(row["last_end"])
    return signing_key
