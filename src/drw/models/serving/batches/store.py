"""Repository of batches. Callers see only batches of their desk, inside their walls."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from drw.kernel import walls
from drw.kernel.errors import Conflict, RateLimited
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.change_notifications import notify
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.serving.batches.batch import ACTIVE, NEW_WORK, WINDOW_HOURS, Batch, BatchNotFound

ORG_LOCKS = "select pg_advisory_xact_lock(hashtextextended(%s, 1))"
"""Serialises the creation of batches of one org, so that its limit holds."""


class TooManyBatches(RateLimited):
    """The org has as many batches as it may have at once."""


class BatchStore:
    """Creates, shows and cancels batches."""

    def __init__(self, database: Database, audit: AuditWriter, max_active: int) -> None:
        self._database = database
        self._audit = audit
        self._max_active = max_active

    async def create(
        self, endpoint: str, input_file: str, metadata: Mapping[str, str], idempotency_key: str = ""
    ) -> Batch:
        """Create a batch. The same key with the same idempotency key gets the batch that it created before.

        Raises:
            Conflict: the idempotency key was used with other parameters.
            TooManyBatches: the org has too many active batches.
        """
        caller = context.caller()
        requested = (endpoint, input_file, dict(metadata))
        async with self._database.transaction() as connection:
            await connection.execute(ORG_LOCKS, (caller.org,))
            if idempotency_key and (batch := await self._created_before(connection, idempotency_key)):
                if (batch.endpoint, batch.input_file, dict(batch.metadata)) != requested:
                    raise Conflict("this Idempotency-Key was used for a batch with other parameters: choose another")
                return batch
            await self._check_limit(connection, caller.org)
            values = {
                "id": f"batch_{secrets.token_hex(12)}",
                "org": caller.org,
                "desk": caller.desk,
                "key": caller.key,
                "scopes": sorted(caller.scopes),
                "walls": walls.for_new_object((), caller),
                "endpoint": endpoint,
                "input_file": input_file,
                "metadata": Jsonb(dict(metadata)),
                "idempotency_key": idempotency_key,
                "trace": telemetry.outgoing_headers().get("traceparent", ""),
                "window": timedelta(hours=WINDOW_HOURS),
            }
            row = await (await connection.execute(INSERT, values)).fetchone()
            batch = Batch.from_row(row or {})
            details = {"endpoint": endpoint, "input_file": input_file}
            await self._audit.record("batch.create", f"batch/{batch.id}", details=details, connection=connection)
            await notify(connection, NEW_WORK)
        return batch

    async def get(self, id_: str) -> Batch:
        """Return a batch.

        Raises:
            BatchNotFound: the desk has no batch of this id.
        """
        async with self._database.transaction() as connection:
            return await self._visible(connection, id_)

    async def list(self, after: str, limit: int) -> list[Batch]:
        """Return batches, newest first, that are older than the batch `after`.

        Raises:
            BatchNotFound: the desk has no batch `after`.
        """
        caller = context.caller()
        async with self._database.transaction() as connection:
            before = (await self._visible(connection, after)).number if after else None
            parameters = (caller.org, caller.desk, list(caller.walls), before, before, limit)
            return [Batch.from_row(row) for row in await (await connection.execute(LIST, parameters)).fetchall()]

    async def cancel(self, id_: str) -> Batch:
        """Cancel a batch: requests that run now finish, others do not start. Repeating it has no effect.

        Raises:
            BatchNotFound: the desk has no batch of this id.
            Conflict: the batch has ended, or its results are being stored.
        """
        async with self._database.transaction() as connection:
            batch = await self._visible(connection, id_)
            row = await (await connection.execute(CANCEL, (batch.number,))).fetchone()
            if row is None:
                batch = await self._visible(connection, id_)
                if batch.state in ("cancelling", "cancelled"):
                    return batch
                raise Conflict(f"{id_!r} is {batch.state}: only batches that validate or run can be cancelled")
            await self._audit.record("batch.cancel", f"batch/{id_}", connection=connection)
            await notify(connection, NEW_WORK)
            return Batch.from_row(row)

    async def delete_old(self, days: int) -> None:
        """Delete batches that ended and are older than `days`."""
        await self._database.all(f"{DELETE_OLD} returning number", list(ACTIVE), timedelta(days=days))

    async def active(self) -> int:
        """Return the number of active batches of all orgs."""
        row = await self._database.one("select count(*) as number from batch where state = any(%s)", list(ACTIVE))
        return int(row["number"]) if row else 0

    async def _visible(self, connection: Connection, id_: str) -> Batch:
        caller = context.caller()
        cursor = await connection.execute(
            "select * from visible_batches(%s, %s, %s) where id = %s",
            (caller.org, caller.desk, list(caller.walls), id_.replace("\0", "")),
        )
        if (row := await cursor.fetchone()) is None:
            raise BatchNotFound(f"there is no batch {id_[:80]!r}", param="batch_id")
        return Batch.from_row(row)

    async def _created_before(self, connection: Connection, idempotency_key: str) -> Batch | None:
        caller = context.caller()
        cursor = await connection.execute(
            "select * from batch where org = %s and desk = %s and key = %s and idempotency_key = %s",
            (caller.org, caller.desk, caller.key, idempotency_key),
        )
        if (row := await cursor.fetchone()) is None:
            return None
        batch = Batch.from_row(row)
        if not walls.inside(batch.walls, caller):
            raise Conflict("this Idempotency-Key was used for a batch inside other walls: choose another")
        return batch

    async def _check_limit(self, connection: Connection, org: str) -> None:
        cursor = await connection.execute(
            "select count(*) as number from batch where org = %s and state = any(%s)", (org, list(ACTIVE))
        )
        row: dict[str, Any] = await cursor.fetchone() or {}
        if row["number"] >= self._max_active:
            message = f"the org {org!r} has {row['number']} active batches, the maximum: wait for one, or cancel one"
            raise TooManyBatches(message, retry_after="60")


INSERT = """
insert into batch
    (id, org, desk, key, scopes, walls, endpoint, input_file, metadata, idempotency_key, trace, expires_at)
values (%(id)s, %(org)s, %(desk)s, %(key)s, %(scopes)s, %(walls)s, %(endpoint)s, %(input_file)s, %(metadata)s,
    %(idempotency_key)s, %(trace)s, clock_timestamp() + %(window)s)
returning *
"""
LIST = """
select * from visible_batches(%s, %s, %s) where (%s::bigint is null or number < %s) order by number desc limit %s
"""
CANCEL = """
update batch set state = 'cancelling', ending = 'cancelled', cancelling_at = now(), not_before = now(), worker = null,
    lease = null
where number = %s and state in ('validating', 'in_progress') returning *
"""
DELETE_OLD = "delete from batch where state <> all(%s) and created_at < now() - %s"
