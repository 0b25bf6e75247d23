"""Triggers for API callers. Every query is filtered by org, desk and walls."""

from __future__ import annotations

from drw.api.workflow.v1.triggers_pb2 import TriggerSpec
from drw.kernel.errors import NEVER, Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.triggers.stored import Row

SHOWN = 10


class TriggerStore:
    """The tables `trigger` and `trigger_firing`, as used by API callers."""

    def __init__(self, database: Database, audit: AuditWriter, max_triggers: int) -> None:
        self._database = database
        self._audit = audit
        self._max_triggers = max_triggers

    async def create(self, caller: Principal, trigger: str, name: str, event: str, spec: TriggerSpec) -> Row:
        """Store a trigger; return the existing one if it has the same name and contents.

        Raises:
            Conflict: the desk has a trigger of this name with other contents.
            RateLimited: the desk has too many triggers.
        """
        fingerprint = digest(spec.SerializeToString(deterministic=True))
        async with self._database.transaction() as connection:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtextextended(%s, 13))", (f"{caller.org}/{caller.desk}",)
            )
            cursor = await connection.execute(
                "select * from run_trigger where org = %s and desk = %s and walls = %s and name = %s",
                (caller.org, caller.desk, sorted(caller.walls), name),
            )
            if (existing := await cursor.fetchone()) is not None:
                if existing["fingerprint"] != fingerprint:
                    raise Conflict(
                        f"the desk {caller.desk!r} has another trigger {name!r}: delete it first, or use a new name"
                    )
                return existing
            await self._check_count(connection, caller)
            cursor = await connection.execute(
                "insert into run_trigger"
                " (id, org, desk, key, scopes, walls, name, fingerprint, spec, event, collection)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning *",
                (
                    *(trigger, caller.org, caller.desk, caller.key, sorted(caller.scopes), sorted(caller.walls)),
                    *(name, fingerprint, spec.SerializeToString(), event, spec.collection),
                ),
            )
            row = await cursor.fetchone()
            assert row is not None
            details = {"name": name, "event": event, "template": spec.template, "spec": fingerprint}
            await self._audit.record("trigger.create", trigger, details=details, connection=connection)
            return row

    async def get(self, caller: Principal, trigger: str) -> Row:
        """Return a trigger by id or name.

        Raises:
            NotFound: the desk has no such trigger.
        """
        rows = await self._database.all(
            "select * from visible_triggers(%s, %s, %s) where id = %s or name = %s limit 2",
            *_visibility(caller),
            trigger,
            trigger,
        )
        return _only(rows, trigger)

    async def firings(self, trigger: str) -> list[Row]:
        """Return the latest firings of a trigger, newest first."""
        return await self._database.all(
            "select * from trigger_firing where trigger = %s order by number desc limit %s", trigger, SHOWN
        )

    async def page(self, caller: Principal, size: int, after: str) -> list[Row]:
        """Return the desk's triggers by name, after the trigger with the id `after`.

        Raises:
            InvalidRequest: the desk has no trigger `after`.
        """
        last = None
        if after:
            last = await self._database.one(
                "select name, id from visible_triggers(%s, %s, %s) where id = %s", *_visibility(caller), after
            )
            if last is None:
                raise InvalidRequest("page_token is not one that an earlier response returned", param="page_token")
        return await self._database.all(
            "select * from visible_triggers(%s, %s, %s) where %s::text is null or (name, id) > (%s, %s)"
            " order by name, id limit %s",
            *_visibility(caller),
            *(after or None, last and last["name"], last and last["id"]),
            size,
        )

    async def set_state(self, caller: Principal, trigger: str, state: str, action: str) -> Row:
        """Pause or resume a trigger.

        Raises:
            Conflict: it has stopped.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, trigger)
            check_not_stopped(row)
            if row["state"] == state:
                return row
            cursor = await connection.execute(
                "update run_trigger set state = %s, detail = '' where id = %s returning *", (state, row["id"])
            )
            await self._audit.record(action, row["id"], connection=connection)
            updated = await cursor.fetchone()
            assert updated is not None
            return updated

    async def delete(self, caller: Principal, trigger: str) -> None:
        """Delete a trigger.

        Raises:
            NotFound: the desk has no such trigger.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, trigger)
            await connection.execute("delete from run_trigger where id = %s", (row["id"],))
            details = {"name": row["name"], "spec": row["fingerprint"], "waiting": row["waiting"]}
            await self._audit.record("trigger.delete", row["id"], details=details, connection=connection)

    async def _lock(self, connection: Connection, caller: Principal, trigger: str) -> Row:
        cursor = await connection.execute(
            "select * from run_trigger where id in"
            " (select id from visible_triggers(%s, %s, %s) where id = %s or name = %s) limit 2 for update",
            (*_visibility(caller), trigger, trigger),
        )
        return _only(await cursor.fetchall(), trigger)

    async def _check_count(self, connection: Connection, caller: Principal) -> None:
        cursor = await connection.execute(
            "select count(*) as count from visible_triggers(%s, %s, %s)", _visibility(caller)
        )
        row = await cursor.fetchone()
        if row and row["count"] >= self._max_triggers:
            raise RateLimited(
                f"the desk {caller.desk!r} has {row['count']} triggers; at most {self._max_triggers}: delete some",
                retry_after=NEVER,
            )


def check_not_stopped(row: Row) -> None:
    """Raise `Conflict` if the trigger has stopped."""
    if row["state"] == "STOPPED":
        raise Conflict(
            f"the trigger {row['name']!r} has stopped, since {row['detail']}: delete it, and create it again"
        )


def _only(rows: list[Row], trigger: str) -> Row:
    if not rows:
        raise NotFound(f"there is no trigger {trigger!r}")
    if len(rows) > 1:
        raise Conflict(f"several triggers with different walls are called {trigger!r}: use the id")
    return rows[0]


def _visibility(caller: Principal) -> tuple[str, str, list[str]]:
    return caller.org, caller.desk, sorted(caller.walls)
