"""Promotions: requests that an alias of an org names a version, approved by a second person; and rollbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drw.api.models.v1.versions_pb2 import CreatePromotionRequest, ListPromotionsRequest, Promotion
from drw.kernel import paging
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Connection
from drw.models.discovery.aliases import AliasNotFound, OrgAlias
from drw.models.discovery.governance import history, permits
from drw.models.discovery.governance.permits import Row
from drw.models.discovery.registry import Registry
from drw.models.discovery.store import AliasStore
from drw.models.discovery.versions.identity import VersionName
from drw.models.discovery.versions.store import VersionStore, by_key, locked, visible
from drw.persons.second_person import SecondPerson
from drw.routing.permits import ModelNotValidated

PAGE_SIZE = 100
SELECT = (
    "select promotion.*, version.id as version_id, version.walls from promotion"
    " join version on version.key = promotion.version"
)
VISIBLE = "promotion.org = %(org)s and inside(version.walls, %(walls)s)"


class PromotionNotFound(NotFound):
    """The org has no such promotion, or the caller is outside of the walls of its version."""

    def __init__(self, promotion: str) -> None:
        super().__init__(f"there is no promotion {promotion[:80]!r}; `drw models promotions` lists them", param="id")


class Promotions:
    """Creates, approves and rejects promotions, and rolls aliases back."""

    def __init__(
        self, registry: Registry, aliases: AliasStore, versions: VersionStore, second_person: SecondPerson
    ) -> None:
        self._registry = registry
        self._aliases = aliases
        self._versions = versions
        self._second_person = second_person

    async def create(self, request: CreatePromotionRequest) -> Promotion:
        """Request a promotion. A repeated `request_id` returns the promotion of the first request.

        Raises:
            NotFound: the caller sees no such version of its org.
            ModelNotValidated: the version has no valid validation record.
            Conflict: another promotion of the alias is pending, or the `request_id` is of another request.
        """
        alias, reason = request.alias, request.reason
        self._registry.aliases.check_name(alias)
        principal = context.caller()
        async with self._aliases.database.transaction() as connection:
            row = await visible(connection, principal, request.version)
            _check_org(row)
            before = await self._aliases.lock_of_org(connection, principal.org, alias)
            if (earlier := await _requested(connection, principal, request.request_id)) is not None:
                requested = (earlier["alias"], earlier["version"], earlier["requested_by"])
                if requested != (alias, row["key"], principal.key):
                    raise Conflict(f"the request id {request.request_id!r} is that of another request")
                return _promotion(earlier)
            _check_permitted(row)
            await _check_kind(connection, row, before)
            cursor = await connection.execute(
                "select id from promotion where org = %s and alias = %s and state = 'PENDING'", (principal.org, alias)
            )
            if pending := await cursor.fetchone():
                raise Conflict(f"the promotion {pending['id']!r} of {alias!r} is pending: approve or reject it first")
            cursor = await connection.execute(
                "insert into promotion (org, alias, version, reason, requested_by, request_id)"
                " values (%s, %s, %s, %s, %s, %s) returning id",
                (principal.org, alias, row["key"], reason, principal.key, request.request_id),
            )
            created = await _get(connection, principal, (await cursor.fetchone() or {})["id"])
            await self._record(connection, "request", created, {"reason": reason})
        return _promotion(created)

    async def approve(self, promotion: str) -> Promotion:
        """Approve a promotion, and move the alias.

        Raises:
            PromotionNotFound: the caller sees no such promotion.
            SamePerson: the caller requested it.
            ModelNotValidated: the version has no valid validation record any more.
            Conflict: it was rejected.
        """
        principal = context.caller()
        row = await self._visible(principal, promotion)
        await self._second_person.check([row["requested_by"]], f"approve the promotion {row['id']!r}")
        async with self._aliases.database.transaction() as connection:
            row = await _get(connection, principal, promotion, for_update=True)
            if row["state"] == "APPROVED":
                return _promotion(row)
            if row["state"] != "PENDING":
                raise Conflict(f"{row['id']!r} was rejected: request another promotion")
            before = await self._aliases.lock_of_org(connection, principal.org, row["alias"])
            version = await locked(connection, principal, row["version_id"])
            _check_permitted(version)
            await _check_kind(connection, version, before)
            await self._move(connection, row["alias"], version, before, reason=row["reason"], promotion=row["id"])
            await _decide(connection, row["id"], "APPROVED", principal.key, "")
            row = await _get(connection, principal, promotion)
            await self._record(connection, "approve", row, {"requested_by": row["requested_by"]})
        return _promotion(row)

    async def reject(self, promotion: str, reason: str) -> Promotion:
        """Reject or withdraw a promotion; a rejected one stays as it is.

        Raises:
            PromotionNotFound: the caller sees no such promotion.
            Conflict: it was approved.
        """
        principal = context.caller()
        async with self._aliases.database.transaction() as connection:
            row = await _get(connection, principal, promotion, for_update=True)
            if row["state"] == "APPROVED":
                raise Conflict(f"{row['id']!r} was approved: `drw models rollback {row['alias']}` undoes it")
            if row["state"] == "PENDING":
                await _decide(connection, row["id"], "REJECTED", principal.key, reason)
                row = await _get(connection, principal, promotion)
                await self._record(connection, "reject", row, {"reason": reason})
        return _promotion(row)

    async def list(self, request: ListPromotionsRequest) -> tuple[list[Promotion], str]:
        """Return a page of the promotions that the caller sees, newest first, and the token of the next page."""
        principal = context.caller()
        size = request.page_size or PAGE_SIZE
        parameters = {
            **_scope(principal),
            "before": paging.number_of(request.page_token),
            "alias": request.alias,
            "state": Promotion.State.Name(request.state) if request.state else "",
            "size": size + 1,
        }
        async with self._aliases.database.transaction() as connection:
            cursor = await connection.execute(
                f"{SELECT} where {VISIBLE} and promotion.key < %(before)s and %(alias)s in ('', promotion.alias)"
                " and %(state)s in ('', promotion.state) order by promotion.key desc limit %(size)s",
                parameters,
            )
            rows = await cursor.fetchall()
        return [_promotion(row) for row in rows[:size]], str(rows[size - 1]["key"]) if len(rows) > size else ""

    async def by_rollout(self, org: str, alias: str, version: VersionName, rollout: str) -> OrgAlias:
        """Move an alias of an org at the end of a rollout, which two persons have decided about.

        Raises:
            NotFound: the org has no such version.
            ModelNotValidated: the version has no valid validation record.
        """
        self._registry.aliases.check_name(alias)
        async with self._aliases.database.transaction() as connection:
            before = await self._aliases.lock_of_org(connection, org, alias)
            row = await self._versions.locked_for_service(connection, org, version)
            _check_permitted(row)
            await _check_kind(connection, row, before)
            if before is not None and before.version == row["key"]:
                return before
            return await self._move(connection, alias, row, before, reason="the rollout ended", promotion=rollout)

    async def rollback(self, name: str, reason: str) -> OrgAlias | None:
        """Return an alias of the caller's org to its target before; None: the alias did not exist before.

        Raises:
            AliasNotFound: the caller's org has no such alias.
            InvalidRequest: the alias is the platform's.
            ModelNotValidated: the version before has no valid validation record any more.
        """
        principal = context.caller()
        async with self._aliases.database.transaction() as connection:
            before = await self._aliases.lock_of_org(connection, principal.org, name)
            if before is None or not principal.walls.issuperset(before.walls):
                if self._registry.aliases.get(name) is not None:
                    message = f"{name!r} is the platform's: change it with `drw aliases set {name}`"
                    raise InvalidRequest(message, param="name")
                raise AliasNotFound(name, [alias.name for alias in self._registry.aliases.visible(principal)])
            key = await history.target_before(connection, principal.org, name)
            if key is None:
                await self._aliases.remove(connection, before, reason)
                return None
            version = await by_key(connection, key)
            version = await locked(connection, principal, version["id"])
            _check_permitted(version)
            return await self._move(connection, name, version, before, reason=reason, rollback=True)

    async def _move(
        self, connection: Connection, name: str, version: Row, before: OrgAlias | None, **change: Any
    ) -> OrgAlias:
        alias = self._alias(name, version, before)
        await self._aliases.move(connection, alias, version, before, **change)
        return alias

    def _alias(self, name: str, version: Row, before: OrgAlias | None) -> OrgAlias:
        """Return the alias that names a version; fallbacks and the time limit of the alias before stay."""
        fallbacks: Sequence[str] = ()
        total_seconds = 0.0
        if before is not None:
            fallbacks, total_seconds = before.fallbacks, before.total_seconds
        elif (shared := self._registry.aliases.get(name)) is not None and version["kind"] == "CHAT":
            fallbacks, total_seconds = shared.fallbacks, shared.total_seconds
        alias = OrgAlias(version["org"], name, version["key"], version["id"], (), 0.0, tuple(version["walls"]))
        return replace(alias, fallbacks=tuple(fallbacks), total_seconds=total_seconds)

    async def _visible(self, principal: Principal, promotion: str) -> Row:
        async with self._aliases.database.transaction() as connection:
            return await _get(connection, principal, promotion)

    async def _record(self, connection: Connection, action: str, row: Row, details: dict[str, Any]) -> None:
        details = {"org": row["org"], "alias": row["alias"], "version": row["version_id"], **details}
        await self._versions.audit.record(
            f"promotion.{action}", f"promotion/{row['id']}", details=details, connection=connection
        )


async def _get(connection: Connection, principal: Principal, promotion: str, *, for_update: bool = False) -> Row:
    suffix = " for update of promotion" if for_update else ""
    query = f"{SELECT} where {VISIBLE} and promotion.id = %(id)s{suffix}"
    cursor = await connection.execute(query.encode(), {**_scope(principal), "id": promotion})
    row = await cursor.fetchone()
    if row is None:
        raise PromotionNotFound(promotion)
    return row


async def _requested(connection: Connection, principal: Principal, request_id: str) -> Row | None:
    """Return the promotion that a request with this id has created."""
    if not request_id:
        return None
    query = f"{SELECT} where promotion.org = %s and promotion.request_id = %s"
    cursor = await connection.execute(query.encode(), (principal.org, request_id))
    return await cursor.fetchone()


async def _decide(connection: Connection, promotion: str, state: str, key: str, reason: str) -> None:
    await connection.execute(
        "update promotion set state = %s, decided_by = %s, decided_at = clock_timestamp(), decision_reason = %s"
        " where id = %s",
        (state, key, reason, promotion),
    )


async def _check_kind(connection: Connection, version: Row, before: OrgAlias | None) -> None:
    if before is None:
        return
    current = await by_key(connection, before.version)
    if current["kind"] != version["kind"]:
        kinds = f"{current['kind'].lower()}; {version['id']!r} is {version['kind'].lower()}"
        raise InvalidRequest(f"{before.name!r} names a version of the kind {kinds}: use another alias", param="version")


def _check_org(row: Row) -> None:
    if not row["org"]:
        message = f"{row['id']!r} is a model of the settings: `drw aliases set` lets an alias name {row['model']!r}"
        raise InvalidRequest(message, param="version")


def _check_permitted(row: Row) -> None:
    if reason := permits.refusal(row):
        raise ModelNotValidated(row["id"], reason)


def _promotion(row: Row) -> Promotion:
    message = Promotion(
        id=row["id"],
        alias=row["alias"],
        version=row["version_id"],
        reason=row["reason"],
        state=row["state"],
        requested_by=row["requested_by"],
        decided_by=row["decided_by"],
        decision_reason=row["decision_reason"],
    )
    message.requested_at.FromDatetime(row["requested_at"])
    if row["decided_at"] is not None:
        message.decided_at.FromDatetime(row["decided_at"])
    return message


def _scope(principal: Principal) -> dict[str, Any]:
    return {"org": principal.org, "walls": sorted(principal.walls)}
