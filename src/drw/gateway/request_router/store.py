"""Routes that operators made, in PostgreSQL; every change with its audit record."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from drw.api.gateway.v1.request_router_pb2 import Route, Routes
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.database import Connection, Database
from drw.kernel.errors import Conflict
from drw.kernel.wire_json import from_json, to_json

CHANNEL = "request_router_routes"
LOCK = 0x726F75  # "rou"
MAX_ROUTES = 500


class TooManyRoutes(Conflict):
    """There are as many as a data plane should have."""


class Store:
    """The table of the service."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self.database = database
        self._audit = audit

    async def all(self) -> Routes:
        """Return all routes, sorted by name."""
        rows = await self.database.all("select definition from route order by name")
        return Routes(routes=[from_json(row["definition"], Route) for row in rows])

    async def put(self, route: Route) -> None:
        """Keep a route, in place of one of its name.

        Raises:
            TooManyRoutes: it would be one too many.
        """
        async with self.database.transaction() as connection:
            before = await self._before(route.name, connection)
            after = to_json(route)
            if before is None and await self._count(connection) >= MAX_ROUTES:
                raise TooManyRoutes(f"there are {MAX_ROUTES} routes already: delete one first")
            await connection.execute(
                """
                insert into route (name, definition, changed_by) values (%s, %s, %s)
                on conflict (name) do update
                set definition = excluded.definition, changed_at = now(), changed_by = excluded.changed_by
                """,
                (route.name, Jsonb(after), call.caller().key),
            )
            await self._tell("route.set", route.name, {"before": before, "after": after}, connection)

    async def delete(self, name: str) -> bool:
        """Take a route away; return whether it was there."""
        async with self.database.transaction() as connection:
            if (before := await self._before(name, connection)) is None:
                return False
            await connection.execute("delete from route where name = %s", (name,))
            await self._tell("route.delete", name, {"before": before, "after": None}, connection)
        return True

    async def _before(self, name: str, connection: Connection) -> object | None:
        # One change after the other, so that what the record calls before was really there.
        await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        rows = await connection.execute("select definition from route where name = %s", (name,))
        row = await rows.fetchone()
        return row["definition"] if row else None

    async def _count(self, connection: Connection) -> int:
        row = await (await connection.execute("select count(*) as n from route")).fetchone()
        return row["n"] if row else 0

    async def _tell(self, action: str, name: str, details: dict[str, object], connection: Connection) -> None:
        await self._audit.record(action, f"route/{name}", details=details, connection=connection)
        await connection.execute(f"notify {CHANNEL}".encode())
