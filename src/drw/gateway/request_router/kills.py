"""The kill switch: who may refuse calls and let them through again, and how many persons that takes.

A kill applies to the caller's org; only an administrator of the platform kills in another one, or a model or workflow
in all. The first key proposes; where the policy asks for more, further principals approve, by asking for the same or by
approving the proposal. A proposal that not enough approve in time ends by itself, and leaves things as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Self
from weakref import WeakValueDictionary

from pydantic import Field, model_validator

from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, Kill, Kills, LiftKillRequest, ListKillsRequest
from drw.gateway.request_router.kill_store import MOST_EXPIRED, KillStore, Row, as_kill
from drw.gateway.request_router.principals import ADMIN, Principals, Standing
from drw.kernel import call
from drw.kernel.audit import AuditWriter
from drw.kernel.call import Caller
from drw.kernel.database import Connection
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from drw.kernel.settings import Settings

MAX_NAME = 200
MAX_REASON = 500
DEFAULT_PAGE = 100
MAX_PAGE = 1000
NEWEST = (1 << 63) - 1
EXPIRY_SECONDS = 1.0
"""How often one looks for proposals that are over."""
PAUSE_SECONDS = 0.05
"""Between two lists of what is in force, so that whoever kills and lifts without end keeps nobody busy."""
MAX_TRIES = 5
"""Of a decision while others decide about the same kill."""

TENANTS = (Kill.KEY, Kill.DESK)
"""Subjects that belong to an org."""

Act = Callable[[Row, Standing, Connection], Awaitable[Row]]


class Approvals(Settings):
    """How many persons, that is principals, it takes."""

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


class KillLimits(Settings):
    """`kill_limits`: how many kills are in force or proposed at most. Data planes hold those in force in memory."""

    per_org: int = Field(default=100, ge=1, le=10_000)
    total: int = Field(default=2000, ge=1, le=10_000)
    reserve: int = Field(default=200, ge=0, le=10_000)
    """What of the total only administrators of the platform use."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.reserve >= self.total:
            raise ValueError(f"kill_limits: the reserve is {self.reserve}; it must be below the total, {self.total}")
        return self


class KillSwitch:
    """Kills and lifts, each change in one transaction with its audit record and the word to all who watch."""

    def __init__(
        self,
        store: KillStore,
        audit: AuditWriter,
        principals: Principals,
        policy: Policy,
        limits: KillLimits,
        proposal_seconds: float,
    ) -> None:
        self._store = store
        self._audit = audit
        self._principals = principals
        self._policy = policy
        self._limits = limits
        self._proposal_seconds = proposal_seconds
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def kill(self, request: CreateKillRequest) -> Kill:
        """Kill, propose to, or approve what another key proposed.

        Raises:
            InvalidRequest: the request lacks something, or would hit the caller's own key.
            Forbidden: the org is another one than the caller's.
            RateLimited: the org, or all orgs together, have as many kills as there can be.
        """
        who = call.caller()
        wanted = _wanted(request, who)
        several = self._policy.of(Kill.Subject.Name(wanted.subject)).kill > 1
        standing = Standing.alone(who)
        async with self._turn(who.org):
            for _ in range(MAX_TRIES):
                async with self._store.changing(wanted.org) as connection:
                    row = await self._open(connection, wanted)
                    voices = row["killed_by_principals"] if row and row["state"] == "PROPOSED" else []
                    others = [wanted.name, *voices] if wanted.subject == Kill.KEY else voices
                    if not several or standing.knows(others):
                        return self._shown(await self._killed(row, wanted, standing, connection))
                standing = await self._principals.standing(who, others)
        raise _changing(wanted.name)

    async def approve(self, kill: str) -> Kill:
        """Add the caller's voice to what is proposed.

        Raises:
            NotFound: there is no such kill that the caller may see.
            Conflict: nothing is proposed, or the caller's principal has a voice already.
            Forbidden: the caller may not decide about it.
        """

        async def act(row: Row, standing: Standing, connection: Connection) -> Row:
            if row["proposal_ends_at"] is None:
                raise Conflict(f"nothing is proposed for {kill!r}: it is {row['state'].lower()}")
            proposed = row["state"] == "PROPOSED"
            check = _check_may_kill if proposed else _check_may_lift
            check(row, standing)
            keys = row["killed_by"] if proposed else row["lifted_by"]
            if standing.who.key in keys[1:]:
                return row
            if keys and standing.is_one_with(_voices(row)):
                what = "proposed" if proposed else "proposed to lift"
                raise Conflict(
                    f"the key {standing.who.key!r} is of the same principal as {keys[0]!r}, which {what} {kill!r}, "
                    "or as another that approved it: another one must approve it"
                )
            voted = self._voted if proposed else self._lift_voted
            return await voted(row, standing, connection)

        return await self._decide(kill, act)

    async def lift(self, request: LiftKillRequest) -> Kill:
        """Lift a kill, propose to, or approve what another key proposed; withdraw a kill that is only proposed.

        Raises:
            InvalidRequest: there is no reason.
            NotFound: there is no such kill that the caller may see.
            Forbidden: the caller may not decide about it.
        """
        reason = _reason(request.reason, "lift")

        async def act(row: Row, standing: Standing, connection: Connection) -> Row:
            if row["state"] == "PROPOSED":
                _check_may_withdraw(row, standing)
                return await self._end(row, "WITHDRAWN", "kill.withdraw", reason, connection)
            if row["state"] != "ACTIVE":
                return row
            _check_may_lift(row, standing)
            if row["proposal_ends_at"] is None:
                row = await self._store.propose_lift(connection, row["id"], reason, self._proposal_seconds)
                await self._record("kill.lift.propose", row, {"reason": reason}, connection)
            return await self._lift_voted(row, standing, connection)

        return await self._decide(request.id, act)

    async def get(self, kill: str) -> Kill:
        """Return one kill; raises `NotFound` as `approve` does."""
        async with self._store.changing() as connection:
            return self._shown(await self._seen(connection, call.caller(), kill))

    async def list(self, request: ListKillsRequest) -> Kills:
        """Return a page of what the caller may see, newest first."""
        who, size = call.caller(), request.page_size or DEFAULT_PAGE
        if not 1 <= size <= MAX_PAGE:
            raise InvalidRequest(f"page_size is {size}; it can be 1 to {MAX_PAGE}", param="page_size")
        rows = await self._store.page(
            who.org,
            every_org=ADMIN in who.scopes,
            ended=request.all,
            before=_page_token(request.page_token),
            size=size + 1,
        )
        more = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return Kills(kills=[self._shown(row) for row in rows[:size]], next_page_token=more)

    async def watch(self) -> AsyncIterator[Kills]:
        """Yield all kills in force: now, and after each change, or after several that come together."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                yield Kills(kills=[self._shown(row) for row in await self._store.in_force()])
                await asyncio.sleep(PAUSE_SECONDS)

    async def expire(self) -> None:
        """End proposals whose time is over, again and again."""
        while True:
            async with self._store.changing() as connection:
                found = await self._store.expired(connection)
                for row in found:
                    await self._record_expired(row, connection)
            if len(found) < MOST_EXPIRED:
                await asyncio.sleep(EXPIRY_SECONDS)

    def _turn(self, org: str) -> asyncio.Lock:
        """Return what the callers of one org wait for: however many there are, they take one connection."""
        if (found := self._turns.get(org)) is None:
            self._turns[org] = found = asyncio.Lock()
        return found

    async def _decide(self, kill: str, act: Act) -> Kill:
        """Do something about a kill, once the caller has been compared with all who have a say in it.

        They are compared while nothing is locked, and again where others have decided meanwhile.
        """
        who = call.caller()
        standing = Standing.alone(who)
        async with self._turn(who.org):
            for _ in range(MAX_TRIES):
                async with self._store.changing() as connection:
                    row = await self._seen(connection, who, kill)
                    others = self._concerned(row)
                    if standing.knows(others):
                        return self._shown(await act(row, standing, connection))
                standing = await self._principals.standing(who, others or ())
        raise _changing(kill)

    def _concerned(self, row: Row) -> Sequence[str] | None:
        """Return with whom a caller must be compared to decide about a kill; None: with nobody."""
        subject = [row["name"]] if row["subject"] == "KEY" else []
        policy = self._policy.of(row["subject"])
        found = [*subject, *_voices(row)]
        return found if found or row["subject"] == "DESK" or max(policy.kill, policy.lift) > 1 else None

    async def _open(self, connection: Connection, wanted: Kill) -> Row | None:
        row = await self._store.open(connection, wanted)
        if row is not None and await self._expired(row["id"], connection):
            return await self._store.open(connection, wanted)
        return row

    async def _killed(self, row: Row | None, wanted: Kill, standing: Standing, connection: Connection) -> Row:
        if row is None:
            await self._check_room(wanted, standing.who, connection)
            row = await self._store.add(
                connection, wanted, standing.who.key, standing.principal, self._proposal_seconds
            )
            await self._record("kill.propose", row, {"reason": row["reason"]}, connection)
        elif wanted.by_platform and not row["by_platform"]:
            row = await self._store.claim(connection, row["id"])
            await self._record("kill.claim", row, {"reason": wanted.reason}, connection)
        return await self._voted(row, standing, connection) if row["state"] == "PROPOSED" else row

    async def _voted(self, row: Row, standing: Standing, connection: Connection) -> Row:
        needed, key = self._policy.of(row["subject"]).kill, standing.who.key
        if key not in row["killed_by"] and len(row["killed_by"]) < needed:
            _check_may_kill(row, standing)
            if not standing.is_one_with(row["killed_by_principals"]):
                row = await self._store.vote(connection, row["id"], key, standing.principal)
                await self._record("kill.approve", row, {}, connection)
        if len(row["killed_by"]) >= needed:
            row = await self._store.activate(connection, row["id"])
            change = {"before": "served", "after": "killed", "reason": row["reason"], "by": row["killed_by"]}
            await self._record("kill.kill", row, change, connection)
        return row

    async def _lift_voted(self, row: Row, standing: Standing, connection: Connection) -> Row:
        needed, key = self._policy.of(row["subject"]).lift, standing.who.key
        if key not in row["lifted_by"] and not (row["lifted_by"] and standing.is_one_with(_voices(row))):
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
        """End what is proposed for a kill if its time is over; return whether it was."""
        found = await self._store.expired(connection, kill)
        for row in found:
            await self._record_expired(row, connection)
        return bool(found)

    async def _record_expired(self, row: Row, connection: Connection) -> None:
        await self._record("kill.expire", row, {"state": row["state"].lower()}, connection)

    async def _seen(self, connection: Connection, who: Caller, kill: str) -> Row:
        row = await self._store.get(connection, kill)
        if row is None or (row["org"] not in ("", who.org) and ADMIN not in who.scopes):
            raise NotFound(f"there is no kill {kill!r}; `drw kill list` shows those that there are")
        if await self._expired(kill, connection):
            return await self._seen(connection, who, kill)
        return row

    async def _check_room(self, wanted: Kill, who: Caller, connection: Connection) -> None:
        """Raise where a bound is reached; that of the org comes first, and costs others nothing."""
        per_org, total = self._limits.per_org, self._limits.total
        if not wanted.by_platform and await self._store.count_open_of(connection, who.org) >= per_org:
            raise RateLimited(
                f"the org {who.org!r} has {per_org} kills in force or proposed, the most for one org "
                "(kill_limits.per_org): lift or withdraw some, or kill the desk or model instead"
            )
        found, of_orgs = await self._store.count_open(connection)
        most = total if wanted.by_platform else total - self._limits.reserve
        if found >= total or (not wanted.by_platform and of_orgs >= most):
            raise RateLimited(
                f"all orgs together have {most} kills in force or proposed, the most for them (kill_limits.total"
                f"{'' if wanted.by_platform else ' less its reserve'}): an administrator of the platform can lift some"
            )

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
    platform = ADMIN in who.scopes
    return Kill(subject=request.subject, org=org, name=request.name, reason=reason, by_platform=platform)


def _org(request: CreateKillRequest, who: Caller) -> str:
    if request.org not in ("", who.org) and ADMIN not in who.scopes:
        raise Forbidden(f"the caller belongs to the org {who.org!r}, not to {request.org!r}", scope=ADMIN)
    if len(request.org) > MAX_NAME or not request.org.isprintable():
        raise InvalidRequest(f"org: at most {MAX_NAME} printable characters", param="org")
    everywhere = request.subject not in TENANTS and ADMIN in who.scopes
    return request.org or ("" if everywhere else who.org)


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


def _voices(row: Row) -> list[str]:
    """Return the principals that have a voice in what is proposed."""
    found: list[str] = row["killed_by_principals"] if row["state"] == "PROPOSED" else row["lifted_by_principals"]
    return found


def _check_may_kill(row: Row, standing: Standing) -> None:
    """Raise where the caller is the subject, or an org would decide for every org."""
    if not row["org"]:
        _check_platform(row, standing.who)
    standing.check_not_subject(as_kill(row))


def _check_may_lift(row: Row, standing: Standing) -> None:
    """Raise where the caller is the subject, or an org would lift what the platform killed."""
    if row["by_platform"] or not row["org"]:
        _check_platform(row, standing.who)
    standing.check_not_subject(as_kill(row))


def _check_may_withdraw(row: Row, standing: Standing) -> None:
    """Raise unless the caller proposed the kill, or could both approve and lift it."""
    if standing.who.key == row["killed_by"][0] and not row["by_platform"]:
        return
    _check_may_lift(row, standing)
    standing.is_one_with(_voices(row))  # which raises where it cannot be told


def _check_platform(row: Row, who: Caller) -> None:
    if ADMIN not in who.scopes:
        raise Forbidden(
            f"the platform asked for {row['id']!r}: only a key with {ADMIN!r} decides about it", scope=ADMIN
        )


def _changing(name: str) -> Conflict:
    return Conflict(f"others are deciding about {name[:80]!r} at this moment: try again")


def _page_token(token: str) -> int:
    if not token:
        return NEWEST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest("page_token is not one that an earlier answer gave", param="page_token")
    return int(token)
