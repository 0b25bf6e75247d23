"""Repository of limits, budgets, prices and blocks in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Limit, Price
from drw.billing.amounts import to_usd
from drw.billing.subjects import Subject
from drw.kernel.storage.database import Connection, Database

CHANNEL = "rate_limiting_changed"
CHANGED = "update change set number = number + 1"
NOTIFY = f"notify {CHANNEL}"
PUT_LIMIT = """
insert into subject_limit values (%(kind)s, %(org)s, %(name)s, %(desk)s, %(requests_per_minute)s,
    %(tokens_per_minute)s, %(concurrent)s, %(algorithm)s, %(when_lost)s, %(expires_at)s)
on conflict (kind, org, name) do update set requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute, concurrent = excluded.concurrent, algorithm = excluded.algorithm,
    when_lost = excluded.when_lost, expires_at = coalesce(excluded.expires_at, subject_limit.expires_at),
    desk = excluded.desk
"""
PUT_BUDGET = """
insert into budget values (%(kind)s, %(org)s, %(name)s, %(desk)s, %(period)s, %(unit)s, %(amount)s)
on conflict (kind, org, name, period, unit) do update set amount = excluded.amount, desk = excluded.desk
"""
PUT_PRICE = """
insert into price values (%s, %s, %s, %s, %s)
on conflict (model, version, effective_from) do update
set prompt = excluded.prompt, completion = excluded.completion
"""
# The desk of a blocked key comes from its limit or budget; every blocked key has one.
BLOCKS_WITH_DESKS = """
select block.*, coalesce(bound.desk, '') as desk from block left join lateral (
    select desk from subject_limit l where (l.kind, l.org, l.name) = (block.kind, block.org, block.name)
    union all select desk from budget b where (b.kind, b.org, b.name) = (block.kind, block.org, block.name)
    limit 1
) bound on true
where until is null or until > %s order by kind, org, name, reason
"""
ACTIVE_LIMITS = """
select subject_limit.*, counted_as
from subject_limit left join counted_as on kind = 'KEY' and counted_as.org = subject_limit.org and key = name
where expires_at is null or expires_at > now() order by name, kind, subject_limit.org
"""
SUBJECT_KINDS = {"KEY": Block.KEY, "DESK": Block.DESK, "ORG": Block.ORG, "MODEL": Block.MODEL}
UNIT_LETTERS = {"USD": "n", "TOKENS": "t"}
PERIOD_LETTERS = {"DAY": "d", "MONTH": "m", "TOTAL": "t"}


class LimitStore:
    """Reads limits, budgets, prices, blocks and the caps of the counters."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def limits(self) -> list[Limit]:
        """Return all limits that have not expired."""
        return [as_limit(row) for row in await self.database.all(ACTIVE_LIMITS)]

    async def budgets(self) -> list[tuple[Budget, str]]:
        """Return all budgets, each with the desk of its subject."""
        rows = await self.database.all("select * from budget order by kind, org, name, period, unit")
        return [(as_budget(row), row["desk"]) for row in rows]

    async def prices(self) -> list[Price]:
        """Return all prices, by model, version and start."""
        rows = await self.database.all("select * from price order by model, version, effective_from")
        return [as_price(row) for row in rows]

    async def blocks(self, now: datetime) -> list[Block]:
        """Return all blocks that have not expired."""
        query = "select * from block where until is null or until > %s order by kind, org, name, reason"
        return [as_block(row) for row in await self.database.all(query, now)]

    async def blocks_with_desks(self, now: datetime) -> list[tuple[Block, str]]:
        """Return all blocks that have not expired, each with the desk of its key."""
        return [(as_block(row), row["desk"]) for row in await self.database.all(BLOCKS_WITH_DESKS, now)]

    async def newest_change(self) -> int:
        """Return the number of the newest change."""
        return int((await self.database.all("select number from change"))[0]["number"])

    async def caps(self) -> tuple[int, list[tuple[Subject, str, str | int]]]:
        """Return the number of the newest change, and all caps as (subject, field of the counters, value)."""
        async with self.database.transaction() as connection:
            await connection.execute("set transaction isolation level repeatable read")
            number = await fetch_one(connection, "select number from change")
            limits = await (await connection.execute(ACTIVE_LIMITS)).fetchall()
            budgets = await (await connection.execute("select * from budget")).fetchall()
        caps = [cap for row in limits for cap in _limit_caps(row)]
        caps += [
            (_subject(row), f"C{PERIOD_LETTERS[row['period']]}{UNIT_LETTERS[row['unit']]}", row["amount"])
            for row in budgets
        ]
        return (number or {"number": 0})["number"], caps


async def fetch_one(connection: Connection, query: Any, *args: Any) -> dict[str, Any] | None:
    """Return the first row of a query inside a transaction, or None."""
    return await (await connection.execute(query, args)).fetchone()


async def record_change(connection: Connection) -> None:
    """Number a change and notify listeners at commit."""
    await connection.execute(CHANGED)
    await connection.execute(NOTIFY.encode())


def subject_columns(subject: Subject) -> dict[str, str]:
    """Return the columns that identify a subject in the tables."""
    return {"kind": Block.Subject.Name(subject.kind), "org": subject.org, "name": subject.name}


def as_limit(row: dict[str, Any]) -> Limit:
    """Convert a row to a limit."""
    limit = Limit(
        key=row["name"] if row["kind"] == "KEY" else "",
        requests_per_minute=row["requests_per_minute"],
        org=row["org"],
        desk=row["desk"],
        subject=row["kind"],
        model=row["name"] if row["kind"] == "MODEL" else "",
        tokens_per_minute=row["tokens_per_minute"],
        concurrent=row["concurrent"],
        algorithm=row["algorithm"],
        when_lost=row["when_lost"],
        counted_as=row.get("counted_as") or "",
    )
    if row["expires_at"]:
        limit.expires_at.FromDatetime(row["expires_at"])
    return limit


def as_budget(row: dict[str, Any]) -> Budget:
    """Convert a row to a budget, without its spending."""
    return Budget(
        subject=row["kind"],
        org=row["org"],
        name=row["name"],
        period=row["period"],
        unit=row["unit"],
        amount=format_amount(row["unit"], row["amount"]),
    )


def subject_of(record: Limit | Budget | Block) -> Subject:
    """Return the subject of a limit, budget or block."""
    if isinstance(record, Limit):
        name = {Block.DESK: record.desk, Block.ORG: "", Block.MODEL: record.model}.get(record.subject, record.key)
    else:
        name = record.name
    return Subject(record.subject or Block.KEY, record.org, name)


def as_price(row: dict[str, Any]) -> Price:
    """Convert a row to a price."""
    price = Price(
        model=row["model"],
        version=row["version"],
        prompt_usd_per_million=to_usd(row["prompt"]),
        completion_usd_per_million=to_usd(row["completion"]),
    )
    price.effective_from.FromDatetime(row["effective_from"].astimezone(UTC))
    return price


def as_block(row: dict[str, Any]) -> Block:
    """Convert a row to a block."""
    return Block(
        subject=row["kind"],
        org=row["org"],
        name=row["name"],
        reason=row["reason"],
    )


def format_amount(unit: str, value: int) -> str:
    """Format a number of tokens, or nano-dollars as dollars."""
    return str(value) if unit == "TOKENS" else to_usd(value)


def _subject(row: dict[str, Any]) -> Subject:
    return Subject(SUBJECT_KINDS[row["kind"]], row["org"], row["name"])


def _limit_caps(row: dict[str, Any]) -> Sequence[tuple[Subject, str, str | int]]:
    subject = _subject(row)
    algorithm = "s" if row["algorithm"] == "SLIDING" else "f"
    caps: list[tuple[Subject, str, str | int]] = []
    if row["tokens_per_minute"]:
        caps += [(subject, "Cw", row["tokens_per_minute"]), (subject, "Cwa", algorithm)]
    if row["concurrent"]:
        caps += [(subject, "Cc", row["concurrent"])]
    if row["requests_per_minute"] and subject.kind == Block.MODEL:
        caps += [(subject, "Cr", row["requests_per_minute"]), (subject, "Cra", algorithm)]
    return caps
