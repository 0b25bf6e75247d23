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

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, Kill, Kills, LiftKillRequest, ListKillsRequest
from drw.gateway.request_router.kills import requests
from drw.gateway.request_router.kills.approval_rules import (
    ADMIN,
    PrincipalRecord,
    Principals,
    check_may_kill,
    check_may_lift,
    check_may_withdraw,
)
from drw.gateway.request_router.kills.settings import KillLimits, KillPolicy
from drw.gateway.request_router.kills.store import EXPIRED_BATCH, KillStore, Row, as_kill
from drw.kernel.errors import Conflict, NotFound, RateLimited
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection

EXPIRY_SECONDS = 1.0
"""How often one looks for proposals that are over."""
PAUSE_SECONDS = 0.05
"""Minimum time between two lists of active kills, to bound the load of frequent changes."""
MAX_TRIES = 5
"""Of a decision while others decide about the same kill."""

Act = Callable[[Row, PrincipalRecord, Connection], Awaitable[Row]]


class KillSwitch:
    """Kills and lifts: each change is one transaction with its audit record and notification."""

    def __init__(
        self,
        store: KillStore,
        audit: AuditWriter,
        principals: Principals,
        policy: KillPolicy,
        limits: KillLimits,
        proposal_seconds: float,
    ) -> None:
        self._store = store
        self._audit = audit
        self._principals = principals
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
        several = self._policy.of(Kill.Subject.Name(kill.subject)).kill > 1
        standing = PrincipalRecord.uncompared(principal)
        for _ in range(MAX_TRIES):
            async with self._lock(principal.org), self._store.changing(kill.org) as connection:
                row = await self._open(connection, kill)
                voices = row["killed_by_principals"] if row and row["state"] == "PROPOSED" else []
                others = [kill.name, *voices] if kill.subject == Kill.KEY else voices
                if not several or standing.covers(others):
                    return self._shown(await self._killed(row, kill, standing, connection))
            standing = await self._principals.compare(principal, others)
        raise _changing(kill.name)

    async def approve(self, kill: str) -> Kill:
        """Approve a proposal.

        Raises:
            NotFound: the caller can see no such kill.
            Conflict: nothing is proposed, or the caller's principal has already approved.
            Forbidden: the caller cannot approve it.
        """

        async def act(row: Row, standing: PrincipalRecord, connection: Connection) -> Row:
            if row["proposal_ends_at"] is None:
                raise Conflict(f"nothing is proposed for {kill!r}: it is {row['state'].lower()}")
            proposed = row["state"] == "PROPOSED"
            check = check_may_kill if proposed else check_may_lift
            check(row, standing)
            keys = row["killed_by"] if proposed else row["lifted_by"]
            if standing.caller.key in keys[1:]:
                return row
            if keys and standing.is_same_as(_voices(row)):
                what = "proposed" if proposed else "proposed to lift"
                raise Conflict(
                    f"the key {standing.caller.key!r} is of the same principal as {keys[0]!r}, which {what} {kill!r}, "
                    "or as another that approved it: another one must approve it"
                )
            voted = self._voted if proposed else self._lift_voted
            return await voted(row, standing, connection)

        return await self._decide(kill, act)

    async def lift(self, request: LiftKillRequest) -> Kill:
        """Lift a kill, propose to lift it, approve such a proposal, or withdraw a proposed kill.

        Raises:
            InvalidRequest: the reason is missing.
            NotFound: the caller can see no such kill.
            Forbidden: the caller cannot approve it.
        """
        reason = requests.reason(request.reason, "lift")

        async def act(row: Row, standing: PrincipalRecord, connection: Connection) -> Row:
            if row["state"] == "PROPOSED":
                check_may_withdraw(row, standing)
                return await self._end(row, "WITHDRAWN", "kill.withdraw", reason, connection)
            if row["state"] != "ACTIVE":
                return row
            check_may_lift(row, standing)
            if row["proposal_ends_at"] is None:
                row = await self._store.propose_lift(connection, row["id"], reason, self._proposal_seconds)
                await self._record("kill.lift.propose", row, {"reason": reason}, connection)
            return await self._lift_voted(row, standing, connection)

        return await self._decide(request.id, act)

    async def get(self, kill: str) -> Kill:
        """Return one kill; raises `NotFound` as `approve` does."""
        async with self._store.changing() as connection:
            return self._shown(await self._seen(connection, context.caller(), kill))

    async def list(self, request: ListKillsRequest) -> Kills:
        """Return a page of kills that the caller can see, newest first."""
        principal = context.caller()
        size = requests.page_size(request.page_size)
        rows = await self._store.page(
            principal.org,
            every_org=ADMIN in principal.scopes,
            ended=request.all,
            before=requests.page_token(request.page_token),
            size=size + 1,
        )
        next_page_token = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return Kills(kills=[self._shown(row) for row in rows[:size]], next_page_token=next_page_token)

    async def watch(self) -> AsyncIterator[Kills]:
        """Yield all kills in force: now, and after each change, or after several that come together."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                yield Kills(kills=[self._shown(row) for row in await self._store.active()])
                await asyncio.sleep(PAUSE_SECONDS)

    async def expire(self) -> None:
        """End proposals whose time is over, again and again."""
        while True:
            async with self._store.changing() as connection:
                expired = await self._store.expired(connection)
                for row in expired:
                    await self._record_expired(row, connection)
            if len(expired) < EXPIRED_BATCH:
                await asyncio.sleep(EXPIRY_SECONDS)

    def _lock(self, org: str) -> asyncio.Lock:
        """Return the lock of an org, so that its callers use one connection at a time."""
        if (lock := self._locks.get(org)) is None:
            self._locks[org] = lock = asyncio.Lock()
        return lock

    async def _decide(self, kill: str, act: Act) -> Kill:
        """Decide about a kill after comparing the caller with its approvers.

        The comparison runs without locks, and is repeated if the approvers changed meanwhile.
        """
        principal = context.caller()
        standing = PrincipalRecord.uncompared(principal)
        for _ in range(MAX_TRIES):
            async with self._lock(principal.org), self._store.changing() as connection:
                row = await self._seen(connection, principal, kill)
                others = self._concerned(row)
                if standing.covers(others):
                    return self._shown(await act(row, standing, connection))
            standing = await self._principals.compare(principal, others or ())
        raise _changing(kill)

    def _concerned(self, row: Row) -> Sequence[str] | None:
        """Return the principals to compare the caller with; None: none."""
        subject = [row["name"]] if row["subject"] == "KEY" else []
        policy = self._policy.of(row["subject"])
        principals = [*subject, *_voices(row)]
        return principals if principals or row["subject"] == "DESK" or max(policy.kill, policy.lift) > 1 else None

    async def _open(self, connection: Connection, kill: Kill) -> Row | None:
        row = await self._store.open(connection, kill)
        if row is not None and await self._expired(row["id"], connection):
            return await self._store.open(connection, kill)
        return row

    async def _killed(self, row: Row | None, kill: Kill, standing: PrincipalRecord, connection: Connection) -> Row:
        if row is None:
            await self._check_room(kill, standing.caller, connection)
            row = await self._store.add(
                connection, kill, standing.caller.key, standing.principal, self._proposal_seconds
            )
            await self._record("kill.propose", row, {"reason": row["reason"]}, connection)
        elif kill.by_platform and not row["by_platform"]:
            row = await self._store.claim(connection, row["id"])
            await self._record("kill.claim", row, {"reason": kill.reason}, connection)
        return await self._voted(row, standing, connection) if row["state"] == "PROPOSED" else row

    async def _voted(self, row: Row, standing: PrincipalRecord, connection: Connection) -> Row:
        needed = self._policy.of(row["subject"]).kill
        key = standing.caller.key
        if key not in row["killed_by"] and len(row["killed_by"]) < needed:
            check_may_kill(row, standing)
            if not standing.is_same_as(row["killed_by_principals"]):
                row = await self._store.vote(connection, row["id"], key, standing.principal)
                await self._record("kill.approve", row, {}, connection)
        if len(row["killed_by"]) >= needed:
            row = await self._store.activate(connection, row["id"])
            change = {"before": "served", "after": "killed", "reason": row["reason"], "by": row["killed_by"]}
            await self._record("kill.kill", row, change, connection)
        return row

    async def _lift_voted(self, row: Row, standing: PrincipalRecord, connection: Connection) -> Row:
        needed = self._policy.of(row["subject"]).lift
        key = standing.caller.key
        if key not in row["lifted_by"] and not (row["lifted_by"] and standing.is_same_as(_voices(row))):
            proposer = not row["lifted_by"]
            row = await self._store.vote_to_lift(connection, row["id"], key, standing.principal)
            if not proposer:
                await self._record("kill.lift.approve", row, {}, connection)
        if len(row["lifted_by"]) >= needed:
            row = await self._end(row, "LIFTED", "kill.lift", row["lift_reason"], connection)
        return row

    async def _end(self, row: Row, state: str, action: str, reason: str, connection: Connection) -> Row:
        before = "killed" if row["state"] == "ACTIVE" else "served"
        row = await self._store.end(connection, row["id"], state)
        change = {"before": before, "after": "served", "reason": reason, "by": row["lifted_by"]}
        await self._record(action, row, change, connection)
        return row

    async def _expired(self, kill: str, connection: Connection) -> bool:
        """End an expired proposal of a kill; return whether it had expired."""
        expired = await self._store.expired(connection, kill)
        for row in expired:
            await self._record_expired(row, connection)
        return bool(expired)

    async def _record_expired(self, row: Row, connection: Connection) -> None:
        await self._record("kill.expire", row, {"state": row["state"].lower()}, connection)

    async def _seen(self, connection: Connection, principal: Principal, kill: str) -> Row:
        row = await self._store.get(connection, kill)
        if row is None or (row["org"] not in ("", principal.org) and ADMIN not in principal.scopes):
            raise NotFound(f"there is no kill {kill!r}; `drw kill list` shows those that there are")
        if await self._expired(kill, connection):
            return await self._seen(connection, principal, kill)
        return row

    async def _check_room(self, kill: Kill, principal: Principal, connection: Connection) -> None:
        """Raise where a bound is reached; that of the org comes first, and costs others nothing."""
        per_org = self._limits.per_org
        total = self._limits.total
        if not kill.by_platform and await self._store.count_open_of(connection, principal.org) >= per_org:
            raise RateLimited(
                f"the org {principal.org!r} has {per_org} kills in force or proposed, the most for one org "
                "(kill_limits.per_org): lift or withdraw some, or kill the desk or model instead"
            )
        in_all, of_orgs = await self._store.count_open(connection)
        maximum = total if kill.by_platform else total - self._limits.reserve
        if in_all >= total or (not kill.by_platform and of_orgs >= maximum):
            raise RateLimited(
                f"all orgs together have {maximum} kills in force or proposed, the most for them (kill_limits.total"
                f"{'' if kill.by_platform else ' less its reserve'}): an administrator of the platform can lift some"
            )

    def _shown(self, row: Row) -> Kill:
        kill = as_kill(row)
        if row["proposal_ends_at"] is not None:
            needed = self._policy.of(row["subject"])
            approvals = row
            missing = needed.kill - len(approvals["killed_by"])
            kill.approvals_missing = (
                missing if row["state"] == "PROPOSED" else needed.lift - len(approvals["lifted_by"])
            )
        return kill

    async def _record(self, action: str, row: Row, details: dict[str, object], connection: Connection) -> None:
        resource = f"{row['subject'].lower()}/{row['name']}"
        await self._audit.record(
            action, resource, details={"kill": row["id"], "org": row["org"], **details}, connection=connection
        )


def block(kill: Kill) -> Block | None:
    """Return the kill as a block for data planes; None for workflows."""
    if kill.subject == Kill.WORKFLOW:
        return None
    return Block(subject=Kill.Subject.Name(kill.subject), org=kill.org, name=kill.name, reason="KILLED")


def _voices(row: Row) -> list[str]:
    """Return the principals that approved the current proposal."""
    principals: list[str] = row["killed_by_principals"] if row["state"] == "PROPOSED" else row["lifted_by_principals"]
    return principals


def _changing(name: str) -> Conflict:
    return Conflict(f"others are deciding about {name[:80]!r} at this moment: try again")
