"""Limits of new keys: a created key has at most its creator's requests per minute, a successor copies its predecessor.

A successor has the limits, the budgets and the spending of its predecessor.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from drw.api.gateway.v1.rate_limiting_pb2 import BindKeyRequest, Block
from drw.billing.counters.client import Counters, NotOpen
from drw.billing.counters.rebuild import REBUILD_LOCK
from drw.billing.ledger import sums
from drw.billing.ledger.carryover import add_amounts, amounts_by_period
from drw.billing.subjects import Subject
from drw.gateway.rate_limiting import validation
from drw.gateway.rate_limiting.store import fetch_one
from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection

SELECT_REQUESTS = "select requests_per_minute as rpm from subject_limit where kind = 'KEY' and org = %s and name = %s"
INSERT_LIMIT = """
insert into subject_limit values ('KEY', %(org)s, %(key)s, %(desk)s, %(rpm)s, 0, 0, 'FIXED', 'LOCAL_SHARE', %(end)s)
on conflict do nothing returning *
"""
COPY_LIMIT = """
insert into subject_limit
select kind, org, %(key)s, desk, requests_per_minute, tokens_per_minute, concurrent, algorithm, when_lost, %(end)s
from subject_limit where kind = 'KEY' and org = %(org)s and name = %(old)s
on conflict do nothing returning *
"""
COPY_BUDGETS = """
insert into budget select kind, org, %(key)s, desk, period, unit, amount
from budget where kind = 'KEY' and org = %(org)s and name = %(old)s
on conflict do nothing returning *
"""
INSERT_COUNTED_AS = """
insert into counted_as values (%(org)s, %(key)s, coalesce(
    (select counted_as from counted_as where org = %(org)s and key = %(old)s), %(old)s))
on conflict do nothing
"""
DELETES = (
    "delete from subject_limit where kind = 'KEY' and org = %s and name = %s returning *",
    "delete from budget where kind = 'KEY' and org = %s and name = %s returning *",
    "delete from counted_as where org = %s and key = %s",
    "delete from metering.carried where org = %s and key = %s",
)


class ChangedLimits(NamedTuple):
    """Rows of limits and budgets that were written or deleted."""

    limits: list[dict[str, Any]]
    budgets: list[dict[str, Any]]


async def bind(
    connection: Connection, counters: Counters, request: BindKeyRequest, default: int, now: datetime
) -> ChangedLimits:
    """Write the limits and budgets of a new key; `default` is the requests per minute of keys without their own limit.

    Raises:
        Forbidden: the key would have more requests per minute than the caller, who lacks "limits:write".
        CountersUnavailable: the spending of its predecessor is not available.
    """
    args: dict[str, Any] = {"org": request.org, "key": request.key, "desk": request.desk, "old": request.predecessor}
    args["end"] = request.expires_at.ToDatetime(UTC)
    if not request.predecessor:
        args["rpm"] = await _grantable_requests(connection, request.requests_per_minute, default)
        return ChangedLimits(await _fetch_all(connection, INSERT_LIMIT, args) if args["rpm"] else [], [])
    requests_per_minute = await _requests_per_minute(connection, request.org, request.predecessor)
    await _grantable_requests(connection, requests_per_minute or default, default)
    await connection.execute(INSERT_COUNTED_AS, args)
    limits = await _fetch_all(connection, COPY_LIMIT, args)
    budgets = await _fetch_all(connection, COPY_BUDGETS, args)
    if budgets:
        await _carry_over(connection, counters, request, now)
    return ChangedLimits(limits, budgets)


async def unbind(connection: Connection, key: Subject) -> ChangedLimits:
    """Delete the limits and budgets that `bind` wrote."""
    limits, budgets, *_ = [await connection.execute(query, (key.org, key.name)) for query in DELETES]
    return ChangedLimits(await limits.fetchall(), await budgets.fetchall())


async def _requests_per_minute(connection: Connection, org: str, key: str) -> int:
    row = await fetch_one(connection, SELECT_REQUESTS, org, key)
    return row["rpm"] if row else 0


async def _grantable_requests(connection: Connection, requested: int, default: int) -> int:
    """Return the requests per minute that a key gets; 0: the default.

    Raises:
        Forbidden: the requested number is above the caller's, who lacks "limits:write".
    """
    principal = context.caller()
    maximum = await _requests_per_minute(connection, principal.org, principal.key) or default
    if validation.LIMITS_SCOPE in principal.scopes or (requested or default) <= maximum:
        return requested
    if requested:
        raise Forbidden(
            f"the key {principal.key!r} has {maximum} requests a minute; "
            f"a key with {requested} needs {validation.LIMITS_SCOPE!r}",
            scope=validation.LIMITS_SCOPE,
        )
    return maximum


async def _carry_over(connection: Connection, counters: Counters, request: BindKeyRequest, now: datetime) -> None:
    """Add the spending of the predecessor to the key's, in the ledger and in the counters.

    It locks out rebuilds of the counters, which would count the spending twice.
    """
    await connection.execute("select pg_advisory_xact_lock(%s)", (REBUILD_LOCK,))
    predecessor, successor = (Subject(Block.KEY, request.org, name) for name in (request.predecessor, request.key))
    read_ms = counters.now_ms()
    spending = list(amounts_by_period((await sums.spending(connection, [predecessor], now))[predecessor], now))
    await add_amounts(connection, successor, spending)
    postings = [
        (f"carried/{successor.org}/{successor.name}/{number}", at.timestamp() * 1000, [(successor, cost, tokens)])
        for number, (at, cost, tokens) in enumerate(spending)
    ]
    with suppress(NotOpen):
        await counters.post(postings, read_ms)


async def _fetch_all(connection: Connection, query: Any, args: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await connection.execute(query, args)).fetchall()
