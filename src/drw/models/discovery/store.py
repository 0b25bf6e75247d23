"""Aliases in PostgreSQL, and the time at which each model was first configured."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from drw.api.events.v1.models_pb2 import AliasMoved, ModelPromoted
from drw.api.models.v1.discovery_pb2 import Alias, WeightedTarget
from drw.events.publisher import Publisher
from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.kernel.tenancy import PLATFORM, Owner
from drw.models.discovery.aliases import MAX_ALIASES, MAX_ORG_ALIASES, OrgAlias, audit_details
from drw.models.discovery.governance import history
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions.store import CHANNEL, lock, notify

EVENTS = Publisher("discovery")
SELECT = "select org, name, targets, fallbacks, total_seconds from alias"
ORG_ALIASES = """
    select alias.org, alias.name, alias.version, version.id as version_id, alias.fallbacks, alias.total_seconds,
        version.walls
    from alias join version on version.key = alias.version where alias.org <> ''
"""


class AliasStore:
    """Reads and changes stored aliases. Each change writes an audit record and an entry of the history.

    `digests` are the digests of the configured models.
    """

    def __init__(self, database: Database, audit: AuditWriter, digests: Mapping[str, str]) -> None:
        self.database = database
        self._audit = audit
        self._digests = digests

    async def all(self) -> list[Alias]:
        """Return the stored aliases of the platform."""
        return [_alias(row) for row in await self.database.all(f"{SELECT} where org = '' order by name")]

    async def of_orgs(self) -> list[OrgAlias]:
        """Return the aliases of all orgs."""
        return [_org_alias(row) for row in await self.database.all(ORG_ALIASES)]

    async def first_seen(self, models: Iterable[str]) -> dict[str, int]:
        """Return the Unix seconds at which each model was first configured; the present for a new model."""
        async with self.database.transaction() as connection:
            await connection.execute(
                "insert into model (id) select unnest(%s::text[]) on conflict do nothing", ([*models],)
            )
        rows = await self.database.all("select id, extract(epoch from first_seen)::bigint as at from model")
        return {row["id"]: row["at"] for row in rows}

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield once at the start and after each change."""
        return self.database.notifications(CHANNEL)

    async def put(self, alias: Alias, configured: Alias | None, reason: str = "", promotion: str = "") -> None:
        """Create or replace an alias of the platform; `configured` was effective if none was stored."""
        async with self.database.transaction() as connection:
            before = await self._lock(connection, alias.name)
            if before is None:
                await _check_count(connection, "", MAX_ALIASES)
            targets = {target.model: target.weight for target in alias.targets}
            await connection.execute(
                """
                insert into alias (org, name, targets, fallbacks, total_seconds) values ('', %s, %s, %s, %s)
                on conflict (org, name) do update set targets = excluded.targets, fallbacks = excluded.fallbacks,
                    total_seconds = excluded.total_seconds, changed_at = now()
                """,
                (alias.name, Jsonb(targets), Jsonb(list(alias.fallbacks)), alias.total_seconds),
            )
            await history.append(connection, "", alias.name, alias, self._digests, reason=reason, promotion=promotion)
            await self._record_change(connection, "set", alias.name, before or configured, alias)
            await _publish_move(connection, alias.name, before or configured, alias, reason, PLATFORM)

    async def delete(self, name: str, configured: Alias | None) -> bool:
        """Delete a stored alias of the platform; return whether it existed. `configured` becomes effective."""
        async with self.database.transaction() as connection:
            if (before := await self._lock(connection, name)) is None:
                return False
            await connection.execute("delete from alias where org = '' and name = %s", (name,))
            await history.append(connection, "", name, configured, self._digests, reason="deleted")
            await self._record_change(connection, "delete", name, before, configured)
            await _publish_move(connection, name, before, configured, "deleted", PLATFORM)
        return True

    async def lock_of_org(self, connection: Connection, org: str, name: str) -> OrgAlias | None:
        """Lock an alias of an org until the end of the transaction; return it, if it exists."""
        await lock(connection, f"alias/{org}/{name}")
        cursor = await connection.execute(f"{ORG_ALIASES} and alias.org = %s and alias.name = %s", (org, name))
        row = await cursor.fetchone()
        return _org_alias(row) if row else None

    async def move(
        self,
        connection: Connection,
        alias: OrgAlias,
        version: Row,
        before: OrgAlias | None,
        *,
        reason: str,
        promotion: str = "",
        rollback: bool = False,
    ) -> None:
        """Let an alias of an org name a version; the caller holds its lock and has checked the permit."""
        if before is None:
            await _check_count(connection, alias.org, MAX_ORG_ALIASES)
        await connection.execute(
            """
            insert into alias (org, name, targets, fallbacks, total_seconds, version) values (%s, %s, %s, %s, %s, %s)
            on conflict (org, name) do update set targets = excluded.targets, fallbacks = excluded.fallbacks,
                total_seconds = excluded.total_seconds, version = excluded.version, changed_at = now()
            """,
            (
                *(alias.org, alias.name, Jsonb({version["id"]: 1}), Jsonb(list(alias.fallbacks))),
                *(alias.total_seconds, version["key"]),
            ),
        )
        digests = {version["id"]: version["digest"]}
        await history.append(
            connection,
            alias.org,
            alias.name,
            alias.alias(),
            digests,
            reason=reason,
            promotion=promotion,
            version=version["key"],
            walls=version["walls"],
            rollback=rollback,
        )
        details = {"reason": reason, "promotion": promotion, "digest": version["digest"]}
        action = "rollback" if rollback else "promote"
        await self._record_of_org(connection, action, alias, before, alias, details)
        promoted = ModelPromoted(
            version=alias.version_id,
            alias=alias.name,
            previous_version=before.version_id if before else "",
            promotion=promotion,
            reason=reason,
        )
        owner = Owner(alias.org)
        await EVENTS.publish(
            connection, promoted, f"model/{alias.version_id}", owner, walls=alias.walls, key=f"alias/{alias.name}"
        )
        await _publish_move(
            connection, alias.name, before.alias() if before else None, alias.alias(), reason, owner, alias.walls
        )

    async def remove(self, connection: Connection, alias: OrgAlias, reason: str) -> None:
        """Remove an alias of an org, as a rollback of its first promotion; the caller holds its lock."""
        await connection.execute("delete from alias where org = %s and name = %s", (alias.org, alias.name))
        await history.append(
            connection, alias.org, alias.name, None, {}, reason=reason, walls=alias.walls, rollback=True
        )
        await self._record_of_org(connection, "rollback", alias, alias, None, {"reason": reason})
        await _publish_move(connection, alias.name, alias.alias(), None, reason, Owner(alias.org), alias.walls)

    async def _lock(self, connection: Connection, name: str) -> Alias | None:
        """Lock the name until the end of the transaction; return its stored alias, if it exists."""
        await lock(connection, f"alias//{name}")
        row = await (await connection.execute(f"{SELECT} where org = '' and name = %s", (name,))).fetchone()
        return _alias(row) if row else None

    async def _record_of_org(
        self,
        connection: Connection,
        action: str,
        alias: OrgAlias,
        before: OrgAlias | None,
        after: OrgAlias | None,
        details: Mapping[str, Any],
    ) -> None:
        states = {
            "before": audit_details(before.alias() if before else None),
            "after": audit_details(after.alias() if after else None),
        }
        await self._audit.record(
            f"alias.{action}",
            f"alias/{alias.name}",
            details={"org": alias.org, **states, **details},
            connection=connection,
        )
        await notify(connection)

    async def _record_change(
        self, connection: Connection, action: str, name: str, before: Alias | None, after: Alias | None
    ) -> None:
        details = {"before": audit_details(before), "after": audit_details(after)}
        await self._audit.record(f"alias.{action}", f"alias/{name}", details=details, connection=connection)
        await notify(connection)


async def _publish_move(
    connection: Connection,
    name: str,
    before: Alias | None,
    after: Alias | None,
    reason: str,
    owner: Owner,
    walls: Iterable[str] = (),
) -> None:
    targets, previous = ({t.model: t.weight for t in alias.targets} if alias else {} for alias in (after, before))
    event = AliasMoved(alias=name, targets=targets, previous_targets=previous, reason=reason)
    await EVENTS.publish(connection, event, f"alias/{name}", owner, walls=walls)


async def _check_count(connection: Connection, org: str, maximum: int) -> None:
    row = await (await connection.execute("select count(*) as n from alias where org = %s", (org,))).fetchone()
    if row and row["n"] >= maximum:
        raise InvalidRequest(f"there are {row['n']} aliases, which is the maximum: delete one first")


def _alias(row: dict[str, Any]) -> Alias:
    targets = [WeightedTarget(model=model, weight=weight) for model, weight in row["targets"].items()]
    return Alias(name=row["name"], targets=targets, fallbacks=row["fallbacks"], total_seconds=row["total_seconds"])


def _org_alias(row: Row) -> OrgAlias:
    return OrgAlias(
        org=row["org"],
        name=row["name"],
        version=row["version"],
        version_id=row["version_id"],
        fallbacks=tuple(row["fallbacks"]),
        total_seconds=row["total_seconds"],
        walls=tuple(row["walls"]),
    )
