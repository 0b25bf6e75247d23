"""Templates that desks write. Every query is filtered by org, desk and walls; every change is audited."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.templates_pb2 import Template, TemplateChange
from drw.kernel.errors import Conflict, InvalidRequest, RateLimited
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.templates import parser
from drw.workflow.templates.checks.environment_check import Environment

MAX_TEMPLATES = 200
"""Maximum number of names per desk and set of walls."""
MAX_CHANGES = 200
"""Number of changes that a list shows."""
MAX_CHANGES_KEPT = 1000
"""Maximum number of changes per template."""


class DeskTemplates:
    """The table `desk_template`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def current(self, caller: Principal) -> dict[str, Template]:
        """Return the desk's current templates by name."""
        rows = await self._database.all("select * from current_templates(%s, %s, %s)", *_visibility(caller))
        return {row["name"]: _template(row) for row in rows}

    async def find(self, caller: Principal, name: str, version: str = "") -> Template | None:
        """Return the current version of one template, or a given past or current version, or None."""
        if version:
            query = "select * from visible_templates(%s, %s, %s) where name = %s and version = %s limit 1"
            row = await self._database.one(query, *_visibility(caller), name, version)
        else:
            query = "select * from current_templates(%s, %s, %s) where name = %s"
            row = await self._database.one(query, *_visibility(caller), name)
        return None if row is None else _template(row)

    async def put(
        self, caller: Principal, name: str, source: str, if_version: str, environment: Environment | None = None
    ) -> Template:
        """Create or update a template. The same source as before changes nothing.

        Raises:
            InvalidTemplate: the source is not a valid template.
            InvalidRequest: the source has another name.
            Conflict: the current version is not `if_version`.
            RateLimited: the desk has too many templates, or the template too many changes.
        """
        template = parser.parse(source.encode(), name, environment)
        if template.name != name:
            raise InvalidRequest(f"the name in the source is {template.name!r}; it must be {name!r}", param="source")
        async with self._database.transaction() as connection:
            current = await self._lock_current(connection, caller, name)
            if if_version and current not in (if_version, template.version):
                raise Conflict(f"the current version of {name!r} is {current or 'none'}, not {if_version}")
            if current != template.version:
                await self._check_limits(connection, caller, name)
                await self._add(connection, caller, name, template)
        return template

    async def delete(self, caller: Principal, name: str) -> None:
        """Delete a template. It has no effect if there is none."""
        async with self._database.transaction() as connection:
            if await self._lock_current(connection, caller, name):
                await self._add(connection, caller, name, None)

    async def changes(self, caller: Principal, name: str) -> list[TemplateChange]:
        """Return the changes of a template, newest first."""
        rows = await self._database.all(
            "select * from visible_templates(%s, %s, %s) where name = %s order by id desc limit %s",
            *_visibility(caller),
            name,
            MAX_CHANGES,
        )
        return [_change(row) for row in rows]

    async def _lock_current(self, connection: Connection, caller: Principal, name: str) -> str:
        """Serialise changes of a desk's templates; return the current version, or an empty string."""
        lock = f"desk_template {caller.org} {caller.desk}"
        await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))
        cursor = await connection.execute(
            "select version from desk_template where org = %s and desk = %s and walls = %s and name = %s"
            " order by id desc limit 1",
            (*_visibility(caller), name),
        )
        row = await cursor.fetchone()
        return str(row["version"] or "") if row else ""

    async def _check_limits(self, connection: Connection, caller: Principal, name: str) -> None:
        cursor = await connection.execute(
            "select count(distinct name) filter (where name <> %s) as names, count(*) filter (where name = %s) as"
            " changes from desk_template where org = %s and desk = %s and walls = %s",
            (name, name, *_visibility(caller)),
        )
        row = await cursor.fetchone()
        assert row is not None
        if row["names"] >= MAX_TEMPLATES:
            raise RateLimited(f"the desk {caller.desk!r} has {row['names']} templates; at most {MAX_TEMPLATES}")
        if row["changes"] >= MAX_CHANGES_KEPT:
            raise RateLimited(
                f"the template {name!r} has {row['changes']} changes; at most {MAX_CHANGES_KEPT}: choose another name"
            )

    async def _add(self, connection: Connection, caller: Principal, name: str, template: Template | None) -> None:
        version, source = (template.version, template.source) if template else (None, None)
        await connection.execute(
            "insert into desk_template (org, desk, walls, name, version, source, changed_by)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (*_visibility(caller), name, version, source, caller.key),
        )
        action = "template.put" if template else "template.delete"
        await self._audit.record(action, name, details={"version": version or ""}, connection=connection)


def _visibility(caller: Principal) -> tuple[str, str, list[str]]:
    return caller.org, caller.desk, sorted(caller.walls)


def _template(row: dict[str, Any]) -> Template:
    return parser.parse_stored(str(row["source"]).encode(), row["name"])


def _change(row: dict[str, Any]) -> TemplateChange:
    at = Timestamp()
    at.FromDatetime(row["changed_at"])
    return TemplateChange(version=row["version"] or "", changed_by=row["changed_by"], changed_at=at)
