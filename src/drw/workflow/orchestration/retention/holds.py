"""Legal holds on runs, templates, desks and orgs. Every query is filtered by org, desk and walls."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from drw.api.workflow.v1.retention_pb2 import Hold, ListHoldsResponse, PlaceHoldRequest, ReleaseHoldRequest
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import Owner
from drw.workflow.orchestration.messages import timestamp

Row = dict[str, Any]
MAX_HOLDS = 1000
"""Maximum number of holds in force per desk."""
MAX_LISTED = 500
NAMED = (Hold.RUN, Hold.TEMPLATE)


class Holds:
    """The table `hold`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def place(self, request: PlaceHoldRequest) -> Hold:
        """Place a hold. Once it is acknowledged, no run that it covers is deleted.

        Raises:
            InvalidRequest: the name is missing, or there must be none.
            NotFound: the desk has no such run.
            Forbidden: a hold of the org needs "org:admin".
            RateLimited: the desk has too many holds.
        """
        caller, kind = context.caller(), Hold.Kind.Name(request.kind)
        if (request.kind in NAMED) != bool(request.name):
            rule = "needs a name" if request.kind in NAMED else "has no name"
            raise InvalidRequest(f"name is {request.name[:80]!r}; a hold of the kind {kind} {rule}", param="name")
        if request.kind == Hold.ORG:
            tenancy.check_change(Owner(caller.org))
        async with self._database.transaction() as connection:
            # Waits for a deletion in progress: afterwards the run exists and stays, or it is gone.
            await connection.execute("lock table hold in row exclusive mode")
            walls = await self._walls(connection, caller, request)
            await self._check_limit(connection, caller)
            cursor = await connection.execute(
                "insert into hold (id, org, desk, walls, kind, name, reason, placed_by)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s) returning *",
                (
                    *(f"hold_{uuid4().hex}", caller.org, caller.desk, walls),
                    *(kind, request.name, request.reason, caller.key),
                ),
            )
            row = await cursor.fetchone()
            assert row is not None
            await self._record(connection, "hold.place", row, request.reason)
        return _message(row)

    async def page(self, *, include_released: bool) -> ListHoldsResponse:
        """Return the holds of the caller's desk and org, newest first."""
        caller = context.caller()
        rows = await self._database.all(
            "select * from hold where org = %s and inside(walls, %s) and (kind = 'ORG' or desk = %s)"
            " and (%s or released_at is null) order by placed_at desc limit %s",
            *(caller.org, sorted(caller.walls), caller.desk, include_released, MAX_LISTED),
        )
        return ListHoldsResponse(holds=[_message(row) for row in rows])

    async def release(self, request: ReleaseHoldRequest) -> Hold:
        """Release a hold.

        Raises:
            NotFound: the caller does not see it.
            Forbidden: a hold of the org needs "org:admin".
        """
        caller = context.caller()
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "select * from hold where id = %s and org = %s and inside(walls, %s) and (kind = 'ORG' or desk = %s)"
                " for update",
                (request.hold, caller.org, sorted(caller.walls), caller.desk),
            )
            if (row := await cursor.fetchone()) is None:
                raise NotFound(f"there is no hold {request.hold!r}")
            if row["kind"] == "ORG":
                tenancy.check_change(Owner(caller.org))
            if row["released_at"] is None:
                cursor = await connection.execute(
                    "update hold set released_at = clock_timestamp(), released_by = %s where id = %s returning *",
                    (caller.key, request.hold),
                )
                row = await cursor.fetchone()
                assert row is not None
                await self._record(connection, "hold.release", row, request.reason)
        return _message(row)

    async def _walls(self, connection: Connection, caller: Principal, request: PlaceHoldRequest) -> list[str]:
        """Return the walls of the held run, or else those of the caller."""
        if request.kind != Hold.RUN:
            return sorted(caller.walls)
        cursor = await connection.execute(
            "select walls from visible_runs(%s, %s, %s) where id = %s",
            (caller.org, caller.desk, sorted(caller.walls), request.name),
        )
        if (row := await cursor.fetchone()) is None:
            raise NotFound(f"there is no run {request.name!r}")
        return list(row["walls"])

    async def _check_limit(self, connection: Connection, caller: Principal) -> None:
        cursor = await connection.execute(
            "select count(*) as count from hold where org = %s and desk = %s and released_at is null",
            (caller.org, caller.desk),
        )
        row = await cursor.fetchone()
        if row and row["count"] >= MAX_HOLDS:
            raise RateLimited(f"the desk {caller.desk!r} has {row['count']} holds; at most {MAX_HOLDS}")

    async def _record(self, connection: Connection, action: str, row: Row, reason: str) -> None:
        details = {"kind": row["kind"], "name": row["name"], "reason": reason}
        await self._audit.record(action, row["id"], details=details, connection=connection)


def _message(row: Row) -> Hold:
    return Hold(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        desk=row["desk"],
        reason=row["reason"],
        placed_by=row["placed_by"],
        placed_at=timestamp(row["placed_at"]),
        released_by=row["released_by"],
        released_at=timestamp(row["released_at"]),
    )
