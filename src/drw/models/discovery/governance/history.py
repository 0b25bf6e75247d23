"""History of aliases: what each alias named, and since when. Entries are only added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from drw.api.models.v1.discovery_pb2 import Alias
from drw.api.models.v1.versions_pb2 import AliasEntry, AliasTarget, GetAliasHistoryRequest, GetAliasHistoryResponse
from drw.kernel import paging
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import Jsonb
from drw.models.discovery.aliases import AliasNotFound
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.versions.messages import SETTINGS
from drw.models.discovery.versions.store import lock

PAGE_SIZE = 100
MAX_ROLLBACKS = 1000
"""Newest entries that a rollback considers."""
ENTRIES = """
    select * from (
        select entry.*, lead(valid_from) over (partition by org, name order by key) as valid_to
        from alias_history entry where org = %(owner)s and name = %(name)s
    ) entries where inside(walls, %(walls)s)
"""


async def append(
    connection: Connection,
    org: str,
    name: str,
    alias: Alias | None,
    digests: Mapping[str, str],
    *,
    reason: str = "",
    promotion: str = "",
    version: int | None = None,
    walls: Sequence[str] = (),
    rollback: bool = False,
    by: str = "",
) -> None:
    """Add an entry; the caller holds the lock of the alias. None: the alias no longer exists.

    Args:
        digests: the digests of the targets by model.
        by: who changed it; default: the caller.
    """
    principal = context.caller_or_none()
    await connection.execute(
        "insert into alias_history (org, name, targets, fallbacks, total_seconds, version, walls, changed_by, reason,"
        " promotion, rollback) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            *(org, name, None if alias is None else Jsonb(_targets(alias, digests))),
            *(Jsonb(list(alias.fallbacks) if alias else []), alias.total_seconds if alias else 0.0),
            *(version, list(walls), by or (principal.key if principal else "platform")),
            *(reason, promotion, rollback),
        ),
    )


async def record_settings(database: Database, aliases: Iterable[Alias], digests: Mapping[str, str]) -> None:
    """Add an entry for each alias of the platform that differs from its last entry, as after a change of settings."""
    current = {alias.name: alias for alias in aliases}
    async with database.transaction() as connection:
        await lock(connection, "alias_history/settings")
        cursor = await connection.execute(
            "select distinct on (name) name, targets, fallbacks, total_seconds from alias_history where org = ''"
            " order by name, key desc"
        )
        last = {row["name"]: row for row in await cursor.fetchall()}
        for name in sorted(current.keys() | last.keys()):
            alias, row = current.get(name), last.get(name)
            if _same(alias, row, digests):
                continue
            await lock(connection, f"alias//{name}")
            await append(connection, "", name, alias, digests, reason="the settings changed", by=SETTINGS)


async def page(database: Database, request: GetAliasHistoryRequest) -> GetAliasHistoryResponse:
    """Return entries of an alias of the caller's org, or of the platform if the org never had one.

    Raises:
        AliasNotFound: the caller sees no entry.
    """
    principal = context.caller()
    size = request.page_size or PAGE_SIZE
    parameters: dict[str, Any] = {"name": request.name, "walls": sorted(principal.walls), "size": size + 1}
    parameters |= {"before": paging.number_of(request.page_token), "at": _at(request)}
    async with database.transaction() as connection:
        for owner in dict.fromkeys((principal.org, "")):
            cursor = await connection.execute(
                f"{ENTRIES} and key < %(before)s"
                " and (%(at)s::timestamptz is null"
                "  or (valid_from <= %(at)s and (valid_to is null or valid_to > %(at)s)))"
                " order by key desc limit %(size)s",
                parameters | {"owner": owner},
            )
            if rows := await cursor.fetchall():
                token = str(rows[size - 1]["key"]) if len(rows) > size else ""
                return GetAliasHistoryResponse(entries=map(_entry, rows[:size]), next_page_token=token)
    if request.page_token:
        return GetAliasHistoryResponse()
    raise AliasNotFound(request.name, [])


async def target_before(connection: Connection, org: str, name: str) -> int | None:
    """Return the version that an alias named before the current one; None: there was none, or no alias.

    A rollback goes further back each time: the version that it left does not count.
    """
    cursor = await connection.execute(
        "select version, targets, rollback from (select * from alias_history where org = %s and name = %s"
        " order by key desc limit %s) newest order by key",
        (org, name, MAX_ROLLBACKS),
    )
    stack: list[int | None] = []
    for row in await cursor.fetchall():
        if row["rollback"]:
            del stack[-1:]
        elif not stack or stack[-1] != row["version"]:
            stack.append(row["version"])
    return stack[-2] if len(stack) > 1 else None


def _same(alias: Alias | None, row: Row | None, digests: Mapping[str, str]) -> bool:
    if alias is None or row is None or row["targets"] is None:
        return alias is None and (row is None or row["targets"] is None)
    stored = (row["targets"], row["fallbacks"], row["total_seconds"])
    return stored == (_targets(alias, digests), list(alias.fallbacks), alias.total_seconds)


def _targets(alias: Alias, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"model": t.model, "weight": t.weight, "digest": digests.get(t.model, "")} for t in alias.targets]


def _entry(row: Row) -> AliasEntry:
    entry = AliasEntry(
        targets=[AliasTarget(**target) for target in row["targets"] or ()],
        fallbacks=row["fallbacks"],
        changed_by=row["changed_by"],
        reason=row["reason"],
        promotion=row["promotion"],
        owner=row["org"],
        deleted=row["targets"] is None,
    )
    entry.valid_from.FromDatetime(row["valid_from"])
    if row["valid_to"] is not None:
        entry.valid_to.FromDatetime(row["valid_to"])
    return entry


def _at(request: GetAliasHistoryRequest) -> Any:
    if not request.HasField("at"):
        return None
    try:
        return request.at.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest("at is not a time", param="at") from error
