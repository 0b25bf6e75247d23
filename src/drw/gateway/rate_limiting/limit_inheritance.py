"""What binds a new key: requests a minute within its maker's, or all that binds the key whose place it takes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from drw.api.gateway.v1.rate_limiting_pb2 import BindKeyRequest, Block
from drw.billing.counters.client import Counters, NotOpen
from drw.billing.counters.rebuild import LOCK
from drw.billing.ledger import sums
from drw.billing.ledger.carryover import keep, parts
from drw.billing.subjects import Subject
from drw.gateway.rate_limiting import validation
from drw.gateway.rate_limiting.store import one
from drw.kernel.errors import Forbidden
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection

REQUESTS = "select requests_per_minute as rpm from subject_limit where kind = 'KEY' and org = %s and name = %s"
LIMIT = """
insert into subject_limit values ('KEY', %(org)s, %(key)s, %(desk)s, %(rpm)s, 0, 0, 'FIXED', 'LOCAL_SHARE', %(end)s)
on conflict do nothing returning *
"""
LIMIT_OF = """
insert into subject_limit
select kind, org, %(key)s, desk, requests_per_minute, tokens_per_minute, concurrent, algorithm, when_lost, %(end)s
from subject_limit where kind = 'KEY' and org = %(org)s and name = %(old)s
on conflict do nothing returning *
"""
BUDGETS_OF = """
insert into budget select kind, org, %(key)s, desk, period, unit, amount
from budget where kind = 'KEY' and org = %(org)s and name = %(old)s
on conflict do nothing returning *
"""
COUNTED_AS = """
insert into counted_as values (%(org)s, %(key)s, coalesce(
    (select counted_as from counted_as where org = %(org)s and key = %(old)s), %(old)s))
on conflict do nothing
"""
UNBOUND = (
    "delete from subject_limit where kind = 'KEY' and org = %s and name = %s returning *",
    "delete from budget where kind = 'KEY' and org = %s and name = %s returning *",
    "delete from counted_as where org = %s and key = %s",
    "delete from metering.carried where org = %s and key = %s",
)


class ChangedLimits(NamedTuple):
    """The rows that were written or deleted."""

    limits: list[dict[str, Any]]
    budgets: list[dict[str, Any]]


async def bind(
    connection: Connection, counters: Counters, request: BindKeyRequest, default: int, now: datetime
) -> ChangedLimits:
    """Write the limits and budgets of a new key; `default` is the requests per minute of keys without their own limit.

    Raises:
        Forbidden: the key would have more requests per minute than the caller, who lacks "limits:write".
        CountersAway: the spending of its predecessor is not available.
    """
    args: dict[str, Any] = {"org": request.org, "key": request.key, "desk": request.desk, "old": request.predecessor}
    args["end"] = request.expires_at.ToDatetime(UTC)
    if not request.predecessor:
        args["rpm"] = await _within(connection, request.requests_per_minute, default)
        return ChangedLimits(await _rows(connection, LIMIT, args) if args["rpm"] else [], [])
    await _within(connection, await _requests(connection, request.org, request.predecessor) or default, default)
    await connection.execute(COUNTED_AS, args)
    changed = ChangedLimits(await _rows(connection, LIMIT_OF, args), await _rows(connection, BUDGETS_OF, args))
    if changed.budgets:
        await _carry_over(connection, counters, request, now)
    return changed


async def unbind(connection: Connection, key: Subject) -> ChangedLimits:
    """Delete what `bind` wrote."""
    limits, budgets, *_ = [await connection.execute(query, (key.org, key.name)) for query in UNBOUND]
    return ChangedLimits(await limits.fetchall(), await budgets.fetchall())


async def _requests(connection: Connection, org: str, key: str) -> int:
    row = await one(connection, REQUESTS, org, key)
    return row["rpm"] if row else 0


async def _within(connection: Connection, requested: int, default: int) -> int:
    """Return the requests per minute that the caller can grant; 0: the default."""
    principal = context.caller()
    maximum = await _requests(connection, principal.org, principal.key) or default
    if validation.LIMITS in principal.scopes or (requested or default) <= maximum:
        return requested
    if requested:
        raise Forbidden(
            f"the key {principal.key!r} has {maximum} requests a minute; "
            f"a key with {requested} needs {validation.LIMITS!r}",
            scope=validation.LIMITS,
        )
    return maximum


async def _carry_over(connection: Connection, counters: Counters, request: BindKeyRequest, now: datetime) -> None:
    """Carry the spending of the predecessor over to the key, in the ledger and in the counters.

    No rebuild of the counters runs in between, so it is counted once.
    """
    await connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
    old, new = (Subject(Block.KEY, request.org, name) for name in (request.predecessor, request.key))
    read = counters.now_ms()
    spent = list(parts((await sums.spent(connection, [old], now))[old], now))
    await keep(connection, new, spent)
    rows = [
        (f"carried/{new.org}/{new.name}/{number}", at.timestamp() * 1000, [(new, cost, tokens)])
        for number, (at, cost, tokens) in enumerate(spent)
    ]
    with suppress(NotOpen):
        await counters.post(rows, read)


async def _rows(connection: Connection, query: Any, args: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await connection.execute(query, args)).fetchall()
