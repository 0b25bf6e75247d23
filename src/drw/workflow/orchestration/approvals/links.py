"""Links to one approval for one approver: signed, used once, expiring.

A link does not authenticate. It names an approval and an approver, and works only together with a key of that approver,
so that a forwarded or logged link lets nobody else decide.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from drw.kernel.errors import Conflict, NotFound, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.approvals import store

PATH = "/api/v1/approvalLinks/"
DEFAULT_SECONDS = 24 * 3600
MAX_LINKS = 100
"""Maximum number of links per approval."""
ID_BYTES = 16
PAYLOAD = struct.Struct(f">{ID_BYTES}sQ")
"""Id and end of validity in seconds of Unix time."""
CONTEXT = b"drw approval link 1\0"


class Link(NamedTuple):
    """A link that is valid for the caller."""

    id: str
    run: str
    step: str


class Links:
    """The table `approval_link`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit
        self._secret = b""

    async def create(self, caller: Principal, run: str, step: str, approver: str, seconds: int) -> tuple[str, datetime]:
        """Create a link; return its token and the end of its validity.

        Raises:
            NotFound: the caller does not see the approval.
            Conflict: the approval is closed.
            RateLimited: it has too many links.
        """
        number = secrets.token_bytes(ID_BYTES)
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds or DEFAULT_SECONDS)
        secret = await self._signing_key()
        async with self._database.transaction() as connection:
            row = await store.visible(connection, caller, run, step)
            await connection.execute("select from approval where run = %s and step = %s for update", (run, step))
            if reason := store.closed_reason(row):
                raise Conflict(f"the approval {step!r} of the run {run!r} is closed: {reason}")
            cursor = await connection.execute(
                "insert into approval_link (id, run, step, approver, created_by, expires_at)"
                " select %s, %s, %s, %s, %s, %s"
                " where (select count(*) from approval_link where run = %s and step = %s) < %s",
                (number.hex(), run, step, approver, caller.key, expires_at, run, step, MAX_LINKS),
            )
            if not cursor.rowcount:
                raise RateLimited(f"the approval {step!r} of the run {run!r} has {MAX_LINKS} links; no more are made")
            details = {"link": number.hex(), "approver": approver, "expires_at": expires_at.isoformat()}
            await self._audit.record("approval.link", f"{run}/{step}", details=details, connection=connection)
        return _token(secret, number, expires_at), expires_at

    async def read(self, caller: Principal, token: str) -> Link:
        """Return the link of a token.

        Raises:
            NotFound: the token is not one of this platform, or is for another caller.
            Conflict: the link has expired, or was used.
        """
        link = await self._find(caller, token)
        if link is None:
            await self._audit.record("approval.link_refused", "approval link", outcome="denied")
            raise NotFound("the link is not valid, or it is for another approver")
        return link

    async def _find(self, caller: Principal, token: str) -> Link | None:
        if (number := _verified(await self._signing_key(), token)) is None:
            return None
        row = await self._database.one(
            "select l.*, l.expires_at <= clock_timestamp() as has_expired from approval_link l"
            " join visible_approvals(%s, %s, %s, %s) a on a.run = l.run and a.step = l.step"
            " where l.id = %s and l.approver = %s",
            *(caller.org, caller.desk, caller.key, sorted(caller.walls), number, caller.key),
        )
        if row is None:
            return None
        if row["used_at"] is not None or row["has_expired"]:
            reason = "was used" if row["used_at"] is not None else "has expired"
            raise Conflict(f"the link {reason}: ask for another one, or use `drw runs approve`")
        return Link(number, row["run"], row["step"])

    async def _signing_key(self) -> bytes:
        if not self._secret:
            await self._database.all(
                "insert into link_key (secret) values (%s) on conflict do nothing returning id",
                secrets.token_bytes(32),
            )
            row = await self._database.one("select secret from link_key")
            assert row is not None
            self._secret = bytes(row["secret"])
        return self._secret


async def use(connection: Connection, link: str) -> None:
    """Use a link as part of the transaction of the decision; empty: there is none.

    Raises:
        Conflict: it was used.
    """
    if not link:
        return
    cursor = await connection.execute(
        "update approval_link set used_at = clock_timestamp() where id = %s and used_at is null", (link,)
    )
    if not cursor.rowcount:
        raise Conflict("the link was used: ask for another one, or use `drw runs approve`")


def _token(secret: bytes, number: bytes, expires_at: datetime) -> str:
    payload = PAYLOAD.pack(number, int(expires_at.timestamp()))
    return base64.urlsafe_b64encode(payload + _signature(secret, payload)).decode().rstrip("=")


def _verified(secret: bytes, token: str) -> str | None:
    """Return the id in a token that this platform has signed, or None."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    payload, signature = data[: PAYLOAD.size], data[PAYLOAD.size :]
    if not hmac.compare_digest(signature, _signature(secret, payload)):
        return None
    number: bytes = PAYLOAD.unpack(payload)[0]
    return number.hex()


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, CONTEXT + payload, "sha256")
