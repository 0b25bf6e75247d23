"""Delegations: an approver lets another person decide, about one approval or about all for a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson

from drw.api.workflow.v1.approvals_pb2 import CreateDelegationRequest
from drw.kernel import tenancy
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import SCOPES, Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.approvals import store
from drw.workflow.orchestration.approvals.entitlement import Entitlement, Entitlements
from drw.workflow.orchestration.approvals.store import Approvals, Row

DEFAULT_SECONDS = 7 * 24 * 3600
MAX_CHAIN = 3
"""How many persons a right goes through before the one who decides."""
MAX_DELEGATIONS = 50
"""Maximum number of delegations in force by one key."""
MAX_LISTED = 500


class Delegations:
    """The table `delegation`. A delegation gives no scope: the delegate needs that of an approver."""

    def __init__(
        self, database: Database, audit: AuditWriter, approvals: Approvals, entitlements: Entitlements
    ) -> None:
        self._database = database
        self._audit = audit
        self._approvals = approvals
        self._entitlements = entitlements

    async def create(self, caller: Principal, request: CreateDelegationRequest) -> Row:
        """Delegate; return the delegation.

        Raises:
            NotFound: the caller does not see the approval.
            Forbidden: the caller cannot decide it, or the delegate can never decide it.
            Conflict: the approval is closed, or the right has gone through too many persons.
            RateLimited: the key has too many delegations.
        """
        if bool(request.run) != bool(request.step):
            raise InvalidRequest("run and step must both be set, or none of them", param="step")
        row, entitlement = await self._right(caller, request)
        chain = [*entitlement.chain, {"caller": caller.key, "desk": caller.desk}]
        if len(chain) > MAX_CHAIN:
            raise Conflict(f"the decision has gone through {len(chain) - 1} persons; at most {MAX_CHAIN}")
        walls = frozenset(row["walls"] if row else caller.walls)
        desk = request.delegate_desk or caller.desk
        delegate = Principal(caller.org, desk, request.delegate, frozenset(SCOPES), walls if row else frozenset())
        others = [member["caller"] for member in chain] + (row["starters"] if row else [])
        await self._entitlements.check_delegate(delegate, others, f"decide for {caller.key!r}")
        expires_at = datetime.now(UTC) + timedelta(seconds=request.ttl_seconds or DEFAULT_SECONDS)
        values: dict[str, Any] = {
            "id": f"dlg_{uuid4().hex}",
            "org": caller.org,
            "walls": sorted(walls),
            "chain": orjson.dumps(chain).decode(),
            "delegated_by": caller.key,
            "desk": caller.desk,
            "delegate": request.delegate,
            "delegate_desk": desk,
            "run": request.run or None,
            "step": request.step or None,
            "parent": entitlement.delegation or None,
            "reason": request.reason,
            "expires_at": min(expires_at, entitlement.expires_at or expires_at),
        }
        return await self._insert(values, chain)

    async def to(self, caller: Principal, run: str, step: str) -> list[Row]:
        """Return the delegations in force to a caller for an approval, those for this approval only first."""
        return await self._database.all(
            "select * from delegation where org = %s and delegate = %s and delegate_desk = %s"
            " and (run is null or run = %s and step = %s) and ended_at is null and expires_at > clock_timestamp()"
            " order by run is null, created_at",
            *(caller.org, caller.key, caller.desk, run, step),
        )

    async def listed(self, caller: Principal) -> list[Row]:
        """Return the delegations in force of the caller's desk and to the caller, newest first."""
        return await self._database.all(
            "select * from delegation where org = %s and inside(walls, %s) and (desk = %s or delegate = %s)"
            " and ended_at is null and expires_at > clock_timestamp() order by created_at desc limit %s",
            *(caller.org, sorted(caller.walls), caller.desk, caller.key, MAX_LISTED),
        )

    async def end(self, caller: Principal, delegation: str) -> Row:
        """End a delegation and those that were passed on from it; return it.

        Raises:
            NotFound: the caller does not see it.
            Forbidden: it is neither of the caller nor to the caller.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "select * from delegation where id = %s and org = %s and inside(walls, %s)"
                " and (desk = %s or delegate = %s) for update",
                (delegation, caller.org, sorted(caller.walls), caller.desk, caller.key),
            )
            if (row := await cursor.fetchone()) is None:
                raise NotFound(f"there is no delegation {delegation!r}")
            persons = {row["delegate"], *(member["caller"] for member in row["chain"])}
            if caller.key not in persons and not tenancy.may_act_for_org(caller.org):
                raise Forbidden(f"the delegation {delegation!r} is of other persons", scope=tenancy.ORG_ADMIN)
            if row["ended_at"] is None:
                row = await self._end(connection, row)
        return row

    async def check_in_force(self, connection: Connection, delegation: str) -> None:
        """Lock a delegation until the transaction ends; empty: there is none to lock.

        Raises:
            Conflict: it is not in force any more.
        """
        if not delegation:
            return
        cursor = await connection.execute(
            "select from delegation where id = %s and ended_at is null and expires_at > clock_timestamp() for update",
            (delegation,),
        )
        if cursor.rowcount != 1:
            raise Conflict(f"the delegation {delegation!r} has ended")

    async def _right(self, caller: Principal, request: CreateDelegationRequest) -> tuple[Row | None, Entitlement]:
        """Return the one approval, and the right that the caller passes on."""
        if not request.run:
            return None, Entitlement()
        row, votes = await self._approvals.get(caller, request.run, request.step)
        if reason := store.closed_reason(row):
            raise Conflict(f"the approval {row['step']!r} of the run {row['run']!r} is closed: {reason}")
        delegations = await self.to(caller, request.run, request.step)
        return row, await self._entitlements.check(caller, row, votes, delegations)

    async def _insert(self, values: dict[str, Any], chain: list[dict[str, str]]) -> Row:
        async with self._database.transaction() as connection:
            lock = f"delegation {values['org']} {values['delegated_by']}"
            await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))
            await self.check_in_force(connection, values["parent"] or "")
            cursor = await connection.execute(
                "select count(*) as count from delegation where org = %s and desk = %s and delegated_by = %s"
                " and ended_at is null and expires_at > clock_timestamp()",
                (values["org"], values["desk"], values["delegated_by"]),
            )
            row = await cursor.fetchone()
            if row and row["count"] >= MAX_DELEGATIONS:
                raise RateLimited(f"the key has {row['count']} delegations; at most {MAX_DELEGATIONS}")
            cursor = await connection.execute(
                "insert into delegation (id, org, walls, chain, delegated_by, desk, delegate, delegate_desk, run, step,"
                " parent, reason, expires_at) values (%(id)s, %(org)s, %(walls)s, %(chain)s, %(delegated_by)s,"
                " %(desk)s, %(delegate)s, %(delegate_desk)s, %(run)s, %(step)s, %(parent)s, %(reason)s,"
                " %(expires_at)s) returning *",
                values,
            )
            inserted = await cursor.fetchone()
            assert inserted is not None
            details = {
                "approval": f"{values['run']}/{values['step']}" if values["run"] else "all",
                "delegate": f"{values['delegate_desk']}/{values['delegate']}",
                "chain": [member["caller"] for member in chain],
                "expires_at": inserted["expires_at"].isoformat(),
                "reason": digest(values["reason"]),
            }
            await self._audit.record("approval.delegate", values["id"], details=details, connection=connection)
        return inserted

    async def _end(self, connection: Connection, row: Row) -> Row:
        cursor = await connection.execute(
            "with recursive passed_on (id) as (select %s::text union all"
            " select d.id from delegation d join passed_on on d.parent = passed_on.id)"
            " update delegation set ended_at = clock_timestamp() from passed_on"
            " where delegation.id = passed_on.id and ended_at is null returning delegation.*",
            (row["id"],),
        )
        ended = await cursor.fetchall()
        for each in ended:
            details = {"ended_with": row["id"]} if each["id"] != row["id"] else {}
            await self._audit.record("approval.delegation_end", each["id"], details=details, connection=connection)
        return next(each for each in ended if each["id"] == row["id"])
