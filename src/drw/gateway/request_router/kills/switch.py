"""The kill switch: kills, lifts and approvals.

A kill applies to the caller's org; only a platform administrator can kill in another org, or in all orgs. If the policy
requires approvals, the first key creates a proposal, and further principals approve it. A proposal without enough
approvals expires without effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from weakref import WeakValueDictionary

from drw.api.events.v1.gateway_pb2 import KillActivated, KillLifted
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, Kill, Kills, LiftKillRequest, ListKillsRequest
from drw.events.publisher import Publisher
from drw.gateway.request_router.kills import requests
from drw.gateway.request_router.kills.approval_rules import (
    ADMIN,
    Approver,
    PrincipalComparer,
    check_may_kill,
    check_may_lift,
    check_may_withdraw,
)
from drw.gateway.request_router.kills.settings import KillLimits, KillPolicy
from drw.gateway.request_router.kills.store import EXPIRED_BATCH, KillStore, Row, as_kill
from drw.kernel import paging
from drw.kernel.errors import Conflict, NotFound, RateLimited
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner

EXPIRY_SECONDS = 1.0
"""Interval of checks for expired proposals."""
PAUSE_SECONDS = 0.05
"""Minimum time between two lists of active kills, to bound the load of frequent changes."""
EVENTS = Publisher("request_router")
MAX_TRIES = 5
"""Maximum number of tries of a decision while other callers decide about the same kill."""

Decision = Callable[[Row, Approver, Connection], Awaitable[Row]]


class KillSwitch:
    """Creates, approves, lifts and lists kills. Each change and its audit record are one transaction."""

    def __init__(
        self,
        store: KillStore,
        audit: AuditWriter,
        comparer: PrincipalComparer,
        policy: KillPolicy,
        limits: KillLimits,
        proposal_seconds: float,
    ) -> None:
        self._store = store
        self._audit = audit
        self._comparer = comparer
        self._policy = policy
        self._limits = limits
        self._proposal_seconds = proposal_seconds
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def kill(self, request: CreateKillRequest) -> Kill:
        """Create a kill, propose it, or approve an existing proposal.

        Raises:
            InvalidRequest: the request is incomplete, or would stop the caller's own key.
            Forbidden: the org is not the caller's.
            RateLimited: the org, or all orgs together, have the maximum number of kills.
        """
        principal = context.caller()
        kill = requests.requested_kill(request, principal)
        needs_comparison = self._policy.of(Kill.Subject.Name(kill.subject)).kill > 1
        approver = Approver.uncompared(principal)
        for _ in range(MAX_TRIES):
            async with self._org_lock(principal.org), self._store.transaction(kill.org) as connection:
                row = await self._open_kill(connection, kill)
                approvers = row["killed_by_principals"] if row and row["state"] == "PROPOSED" else []
                others = [kill.name, *approvers] if kill.subject == Kill.KEY else approvers
                if not needs_comparison or approver.covers(others):
                    return self._as_kill(await self._create_or_approve(row, kill, approver, connection))
            approver = await self._comparer.compare(principal, others)
        raise _contention_error(kill.name)

    async def approve(self, kill: str) -> Kill:
        """Approve a proposal.

        Raises:
            NotFound: the caller can see no such kill.
            Conflict: nothing is proposed, or the caller's principal has already approved.
            Forbidden: the caller cannot approve it.
        """

        async def decide(row: Row, approver: Approver, connection: Connection) -> Row:
            if row["proposal_ends_at"] is None:
                raise Conflict(f"nothing is proposed for {kill!r}: it is {row['state'].lower()}")
            is_proposed = row["state"] == "PROPOSED"
            check = check_may_kill if is_proposed else check_may_lift
            check(row, approver)
            keys = row["killed_by"] if is_proposed else row["lifted_by"]
            if approver.principal.key in keys[1:]:
                return row
            if keys and approver.is_same_as(_approvers(row)):
                action = "proposed" if is_proposed else "proposed to lift"
                raise Conflict(
                    f"the key {approver.principal.key!r} is of the same principal as {keys[0]!r}, which {action} "
                    f"{kill!r}, or as another approver: another one must approve it"
                )
            approve = self._approve_kill if is_proposed else self._approve_lift
            return await approve(row, approver, connection)

        return await self._decide(kill, decide)

    async def lift(self, request: LiftKillRequest) -> Kill:
        """Lift a kill, propose to lift it, approve such a proposal, or withdraw a proposed kill.

        Raises:
            InvalidRequest: the reason is missing.
            NotFound: the caller can see no such kill.
            Forbidden: the caller cannot approve it.
        """
        reason = requests.reason(request.reason, "lift")

        async def decide(row: Row, approver: Approver, connection: Connection) -> Row:
            if row["state"] == "PROPOSED":
                check_may_withdraw(row, approver)
                return await self._end_kill(row, "WITHDRAWN", "kill.withdraw", reason, connection)
            if row["state"] != "ACTIVE":
                return row
            check_may_lift(row, approver)
            if row["proposal_ends_at"] is None:
                row = await self._store.propose_lift(connection, row["id"], reason, self._proposal_seconds)
                await self._record("kill.lift.propose", row, {"reason": reason}, connection)
            return await self._approve_lift(row, approver, connection)

        return await self._decide(request.id, decide)

    async def get(self, kill: str) -> Kill:
        """Return one kill; raises `NotFound` as `approve` does."""
        async with self._store.transaction() as connection:
            return self._as_kill(await self._visible_kill(connection, context.caller(), kill))

    async def list(self, request: ListKillsRequest) -> Kills:
        """Return a page of kills that the caller can see, newest first."""
        principal = context.caller()
        size = request.page_size or requests.DEFAULT_PAGE
        rows = await self._store.page(
            principal.org,
            every_org=ADMIN in principal.scopes,
            include_ended=request.all,
            before=paging.number_of(request.page_token),
            size=size + 1,
        )
        next_page_token = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return Kills(kills=[self._as_kill(row) for row in rows[:size]], next_page_token=next_page_token)

    async def watch(self) -> AsyncIterator[Kills]:
        """Yield all active kills: now, and after each change; it can combine changes."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                yield Kills(kills=[self._as_kill(row) for row in await self._store.active()])
                await asyncio.sleep(PAUSE_SECONDS)

    async def expire(self) -> None:
        """End expired proposals periodically."""
        while True:
            async with self._store.transaction() as connection:
                expired = await self._store.expire(connection)
                for row in expired:
                    await self._record_expired(row, connection)
            if len(expired) < EXPIRED_BATCH:
                await asyncio.sleep(EXPIRY_SECONDS)

    def _org_lock(self, org: str) -> asyncio.Lock:
        """Return the lock of an org. It limits the callers of an org to one database connection."""
        if (lock := self._locks.get(org)) is None:
            self._locks[org] = lock = asyncio.Lock()
        return lock

    async def _decide(self, kill: str, decide: Decision) -> Kill:
        """Decide about a kill after comparing the caller with its approvers.

        The comparison runs without locks, and is repeated if the approvers changed meanwhile.
        """
        principal = context.caller()
        approver = Approver.uncompared(principal)
        for _ in range(MAX_TRIES):
            async with self._org_lock(principal.org), self._store.transaction() as connection:
                row = await self._visible_kill(connection, principal, kill)
                others = self._callers_to_compare(row)
                if approver.covers(others):
                    return self._as_kill(await decide(row, approver, connection))
            approver = await self._comparer.compare(principal, others or ())
        raise _contention_error(kill)

    def _callers_to_compare(self, row: Row) -> Sequence[str] | None:
        """Return the principals to compare the caller with; None: none."""
        subject = [row["name"]] if row["subject"] == "KEY" else []
        policy = self._policy.of(row["subject"])
        principals = [*subject, *_approvers(row)]
        return principals if principals or row["subject"] == "DESK" or max(policy.kill, policy.lift) > 1 else None

    async def _open_kill(self, connection: Connection, kill: Kill) -> Row | None:
        row = await self._store.get_open(connection, kill)
        if row is not None and await self._expire(row["id"], connection):
            return await self._store.get_open(connection, kill)
        return row

    async def _create_or_approve(self, row: Row | None, kill: Kill, approver: Approver, connection: Connection) -> Row:
        if row is None:
            await self._check_limits(kill, approver.principal, connection)
            row = await self._store.insert(
                connection, kill, approver.principal.key, approver.principal_id, self._proposal_seconds
            )
            await self._record("kill.propose", row, {"reason": row["reason"]}, connection)
        elif kill.by_platform and not row["by_platform"]:
            row = await self._store.claim(connection, row["id"])
            await self._record("kill.claim", row, {"reason": kill.reason}, connection)
        return await self._approve_kill(row, approver, connection) if row["state"] == "PROPOSED" else row

    async def _approve_kill(self, row: Row, approver: Approver, connection: Connection) -> Row:
        required = self._policy.of(row["subject"]).kill
        key = approver.principal.key
        if key not in row["killed_by"] and len(row["killed_by"]) < required:
            check_may_kill(row, approver)
            if not approver.is_same_as(row["killed_by_principals"]):
                row = await self._store.approve(connection, row["id"], key, approver.principal_id)
                await self._record("kill.approve", row, {}, connection)
        if len(row["killed_by"]) >= required:
            row = await self._store.activate(connection, row["id"])
            change = {"before": "served", "after": "killed", "reason": row["reason"], "by": row["killed_by"]}
            await self._record("kill.kill", row, change, connection)
            await _publish(connection, KillActivated, row, row["reason"])
        return row

    async def _approve_lift(self, row: Row, approver: Approver, connection: Connection) -> Row:
        required = self._policy.of(row["subject"]).lift
        key = approver.principal.key
        if key not in row["lifted_by"] and not (row["lifted_by"] and approver.is_same_as(_approvers(row))):
            proposer = not row["lifted_by"]
            row = await self._store.approve_lift(connection, row["id"], key, approver.principal_id)
            if not proposer:
                await self._record("kill.lift.approve", row, {}, connection)
        if len(row["lifted_by"]) >= required:
            row = await self._end_kill(row, "LIFTED", "kill.lift", row["lift_reason"], connection)
        return row

    async def _end_kill(self, row: Row, state: str, action: str, reason: str, connection: Connection) -> Row:
        before = "killed" if row["state"] == "ACTIVE" else "served"
        row = await self._store.end(connection, row["id"], state)
        change = {"before": before, "after": "served", "reason": reason, "by": row["lifted_by"]}
        await self._record(action, row, change, connection)
        if state == "LIFTED":
            await _publish(connection, KillLifted, row, reason)
        return row

    async def _expire(self, kill: str, connection: Connection) -> bool:
        """End an expired proposal of a kill; return whether it had expired."""
        expired = await self._store.expire(connection, kill)
        for row in expired:
            await self._record_expired(row, connection)
        return bool(expired)

    async def _record_expired(self, row: Row, connection: Connection) -> None:
        await self._record("kill.expire", row, {"state": row["state"].lower()}, connection)

    async def _visible_kill(self, connection: Connection, principal: Principal, kill: str) -> Row:
        row = await self._store.get(connection, kill)
        if row is None or (row["org"] not in ("", principal.org) and ADMIN not in principal.scopes):
            raise NotFound(f"there is no kill {kill!r}; `drw kill list` shows the existing kills")
        if await self._expire(kill, connection):
            return await self._visible_kill(connection, principal, kill)
        return row

    async def _check_limits(self, kill: Kill, principal: Principal, connection: Connection) -> None:
        """Raise `RateLimited` if the org or all orgs together have the maximum number of kills.

        The limit of the org is checked first, without the lock that all orgs share.
        """
        per_org = self._limits.per_org
        total = self._limits.total
        if not kill.by_platform and await self._store.count_open_of(connection, principal.org) >= per_org:
            raise RateLimited(
                f"the org {principal.org!r} has {per_org} active or proposed kills, the maximum of one org "
                "(kill_limits.per_org): lift or withdraw some, or kill the desk or model instead"
            )
        total_open, org_open = await self._store.count_open(connection)
        maximum = total if kill.by_platform else total - self._limits.reserve
        if total_open >= total or (not kill.by_platform and org_open >= maximum):
            raise RateLimited(
                f"all orgs together have {maximum} active or proposed kills, the maximum of all orgs (kill_limits.total"
                f"{'' if kill.by_platform else ' less its reserve'}): an administrator of the platform can lift some"
            )

    def _as_kill(self, row: Row) -> Kill:
        kill = as_kill(row)
        if row["proposal_ends_at"] is not None:
            required = self._policy.of(row["subject"])
            if row["state"] == "PROPOSED":
                kill.approvals_missing = required.kill - len(row["killed_by"])
            else:
                kill.approvals_missing = required.lift - len(row["lifted_by"])
        return kill

    async def _record(self, action: str, row: Row, details: dict[str, object], connection: Connection) -> None:
        resource = f"{row['subject'].lower()}/{row['name']}"
        await self._audit.record(
            action, resource, details={"kill": row["id"], "org": row["org"], **details}, connection=connection
        )


async def _publish(
    connection: Connection, message: type[KillActivated] | type[KillLifted], row: Row, reason: str
) -> None:
    event = message(kill=row["id"], subject=row["subject"], name=row["name"], reason=reason)
    # Both events of a subject have one key: consumers receive them in order.
    resource = f"{row['subject'].lower()}/{row['name']}"
    await EVENTS.publish(connection, event, f"kill/{row['id']}", Owner(row["org"]), key=f"kill/{resource}")


def as_block(kill: Kill) -> Block | None:
    """Convert a kill to a block for data planes; None: a kill of a workflow, which data planes do not enforce."""
    if kill.subject == Kill.WORKFLOW:
        return None
    return Block(subject=Kill.Subject.Name(kill.subject), org=kill.org, name=kill.name, reason="KILLED")


def _approvers(row: Row) -> list[str]:
    """Return the principals that approved the current proposal."""
    principals: list[str] = row["killed_by_principals"] if row["state"] == "PROPOSED" else row["lifted_by_principals"]
    return principals


def _contention_error(name: str) -> Conflict:
    return Conflict(f"other callers are changing the kill of {name[:80]!r}: try again")
