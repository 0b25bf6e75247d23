"""The kill switch: who may refuse calls and let them through again, and how many persons that takes.

The first key proposes; where the policy asks for more, further keys approve, by asking for the same or by approving
the proposal. A proposal that not enough keys approve in time ends by itself, and leaves things as they were.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from pydantic import Field

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, Kill, Kills, LiftKillRequest
from drw.gateway.request_router.kill_store import KillStore, Row, as_kill
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.call import Caller
from drw.kernel.database import Connection
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.settings import Settings

ADMIN = "platform:admin"
MAX_NAME = 200
MAX_REASON = 500
MOST_IN_FORCE = 1000
"""Open kills: what data planes hold in memory, and compare each stream with."""

TENANTS = (Kill.KEY, Kill.DESK)
"""Subjects that belong to an org."""


class Approvals(Settings):
    """How many persons, that is keys, it takes."""

    kill: int = Field(default=1, ge=1, le=5)
    lift: int = Field(default=1, ge=1, le=5)


class Policy(Settings):
    """`kill_approvals`, for each kind of subject."""

    key: Approvals = Approvals()
    desk: Approvals = Approvals()
    model: Approvals = Approvals()
    workflow: Approvals = Approvals()

    def of(self, subject: str) -> Approvals:
        """Return those of a subject, as in "MODEL"."""
        found: Approvals = getattr(self, subject.lower())
        return found


class KillSwitch:
    """Kills and lifts, each change in one transaction with its audit record and the word to all who watch."""

    def __init__(self, store: KillStore, audit: AuditWriter, policy: Policy, proposal_seconds: float) -> None:
        self._store = store
        self._audit = audit
        self._policy = policy
        self._proposal_seconds = proposal_seconds

    async def kill(self, request: CreateKillRequest) -> Kill:
        """Kill, propose to, or approve what another key proposed.

        Raises:
            InvalidRequest: the request lacks something, or would hit the caller's own key.
            Forbidden: the key or desk is another org's.
        """
        who = call.caller()
        wanted = _wanted(request, who)
        async with self._store.changing() as connection:
            await self._expire(connection)
            row = await self._store.open(connection, wanted)
            if row is None:
                await self._check_room(connection)
                row = await self._store.add(connection, wanted, who.key, self._proposal_seconds)
                await self._record("kill.propose", row, {"reason": row["reason"]}, connection)
            return self._shown(await self._voted(row, who, connection))

    async def approve(self, kill: str) -> Kill:
        """Add the caller's voice to what is proposed.

        Raises:
            NotFound: there is no such kill that the caller may see.
            Conflict: nothing is proposed, or the caller proposed it.
        """
        who = call.caller()
        async with self._store.changing() as connection:
            await self._expire(connection)
            row = await self._seen(connection, who, kill)
            if row["proposal_ends_at"] is None:
                raise Conflict(f"nothing is proposed for {kill!r}: it is {row['state'].lower()}")
            _check_not_self(as_kill(row).subject, row["org"], row["name"], who)
            if row["state"] == "PROPOSED":
                if row["killed_by"] == [who.key]:
                    raise Conflict(f"the key {who.key!r} proposed {kill!r}: another one must approve it")
                return self._shown(await self._voted(row, who, connection))
            if row["lifted_by"] == [who.key]:
                raise Conflict(f"the key {who.key!r} proposed to lift {kill!r}: another one must approve it")
            return self._shown(await self._lift_voted(row, who, connection))

    async def lift(self, request: LiftKillRequest) -> Kill:
        """Lift a kill, propose to, or approve what another key proposed; withdraw a kill that is only proposed.

        Raises:
            InvalidRequest: there is no reason.
            NotFound: there is no such kill that the caller may see.
        """
        who = call.caller()
        reason = _reason(request.reason, "lift")
        async with self._store.changing() as connection:
            await self._expire(connection)
            row = await self._seen(connection, who, request.id)
            if row["state"] == "PROPOSED":
                return self._shown(await self._end(row, "WITHDRAWN", "kill.withdraw", reason, connection))
            if row["state"] != "ACTIVE":
                return self._shown(row)
            if row["proposal_ends_at"] is None:
                row = await self._store.propose_lift(connection, row["id"], reason, self._proposal_seconds)
                await self._record("kill.lift.propose", row, {"reason": reason}, connection)
            return self._shown(await self._lift_voted(row, who, connection))

    async def get(self, kill: str) -> Kill:
        """Return one kill; raises `NotFound` as `approve` does."""
        async with self._store.changing() as connection:
            await self._expire(connection)
            return self._shown(await self._seen(connection, call.caller(), kill))

    async def list(self, *, ended: bool) -> Kills:
        """Return what the caller may see, newest first."""
        async with self._store.changing() as connection:
            await self._expire(connection)
        who = call.caller()
        rows = await self._store.page(who.org, every_org=ADMIN in who.scopes, ended=ended)
        return Kills(kills=[self._shown(row) for row in rows])

    async def watch(self) -> AsyncIterator[Kills]:
        """Yield all kills in force: now, and after each change."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                yield Kills(kills=[self._shown(row) for row in await self._store.in_force()])

    async def _voted(self, row: Row, who: Caller, connection: Connection) -> Row:
        needed = self._policy.of(row["subject"]).kill
        if who.key not in row["killed_by"]:
            row = await self._store.vote(connection, row["id"], who.key)
            await self._record("kill.approve", row, {}, connection)
        if row["state"] == "PROPOSED" and len(row["killed_by"]) >= needed:
            row = await self._store.activate(connection, row["id"])
            change = {"before": "served", "after": "killed", "reason": row["reason"], "by": row["killed_by"]}
            await self._record("kill.kill", row, change, connection)
        return row

    async def _lift_voted(self, row: Row, who: Caller, connection: Connection) -> Row:
        needed = self._policy.of(row["subject"]).lift
        if who.key not in row["lifted_by"]:
            proposer = not row["lifted_by"]
            row = await self._store.vote_to_lift(connection, row["id"], who.key)
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

    async def _expire(self, connection: Connection) -> None:
        for row in await self._store.expired(connection):
            await self._record("kill.expire", row, {"state": row["state"].lower()}, connection)

    async def _seen(self, connection: Connection, who: Caller, kill: str) -> Row:
        row = await self._store.get(connection, kill)
        if row is None or (row["org"] not in ("", who.org) and ADMIN not in who.scopes):
            raise NotFound(f"there is no kill {kill!r}; `drw kill list` shows those that there are")
        return row

    async def _check_room(self, connection: Connection) -> None:
        if await self._store.count_open(connection) >= MOST_IN_FORCE:
            raise RateLimited(f"{MOST_IN_FORCE} kills are in force or proposed: lift some, or kill the desk or model")

    def _shown(self, row: Row) -> Kill:
        kill = as_kill(row)
        if row["proposal_ends_at"] is not None:
            needed, given = self._policy.of(row["subject"]), row
            missing = needed.kill - len(given["killed_by"])
            kill.approvals_missing = missing if row["state"] == "PROPOSED" else needed.lift - len(given["lifted_by"])
        return kill

    async def _record(self, action: str, row: Row, details: dict[str, object], connection: Connection) -> None:
        resource = f"{row['subject'].lower()}/{row['name']}"
        await self._audit.record(
            action, resource, details={"kill": row["id"], "org": row["org"], **details}, connection=connection
        )


def block(kill: Kill) -> Block | None:
    """Return the kill as what data planes refuse; None where they have nothing to do with it."""
    if kill.subject == Kill.WORKFLOW:
        return None
    return Block(subject=Kill.Subject.Name(kill.subject), org=kill.org, name=kill.name, reason="KILLED")


def _wanted(request: CreateKillRequest, who: Caller) -> Kill:
    if request.subject not in Kill.Subject.values() or request.subject == Kill.SUBJECT_UNSPECIFIED:
        raise InvalidRequest("subject is missing; it can be KEY, DESK, MODEL or WORKFLOW", param="subject")
    if not 1 <= len(request.name) <= MAX_NAME or not request.name.isprintable():
        raise InvalidRequest(f"name: 1 to {MAX_NAME} printable characters", param="name")
    org = _org(request, who)
    _check_not_self(request.subject, org, request.name, who)
    reason = _reason(request.reason, "kill")
    return Kill(subject=request.subject, org=org, name=request.name, reason=reason)


def _org(request: CreateKillRequest, who: Caller) -> str:
    if request.subject not in TENANTS:
        if request.org:
            raise InvalidRequest("a model or a workflow belongs to no org: leave `org` out", param="org")
        return ""
    if request.org not in ("", who.org) and ADMIN not in who.scopes:
        raise Forbidden(f"the caller belongs to the org {who.org!r}, not to {request.org!r}", scope=ADMIN)
    if len(request.org) > MAX_NAME or not request.org.isprintable():
        raise InvalidRequest(f"org: at most {MAX_NAME} printable characters", param="org")
    return request.org or who.org


def _check_not_self(subject: int, org: str, name: str, who: Caller) -> None:
    if subject == Kill.KEY and (org, name) == (who.org, who.key):
        raise InvalidRequest(f"this would stop your own key {name!r}: `drw keys revoke` ends it for good", param="name")
    if subject == Kill.DESK and (org, name) == (who.org, who.desk):
        message = f"this would stop your own desk {name!r}, and you could not lift it: use a key of another desk"
        raise InvalidRequest(message, param="name")


def _reason(text: str, what: str) -> str:
    if not 1 <= len(text.strip()) <= MAX_REASON:
        raise InvalidRequest(f"a {what} needs a reason of 1 to {MAX_REASON} characters", param="reason")
    return text.strip()
