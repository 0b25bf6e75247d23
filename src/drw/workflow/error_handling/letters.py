"""The store of dead letters. Every query of a caller is filtered by org, desk and walls."""

from __future__ import annotations

from typing import Any

import orjson

from drw.api.events.v1.workflows_pb2 import DeadLetterCreated
from drw.api.workflow.v1.error_handling_pb2 import DeadLetterFilter, ListDeadLettersRequest
from drw.api.workflow.v1.orchestration_pb2 import Failure, FailureClass
from drw.events.publisher import Publisher
from drw.kernel import paging
from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import SQL
from drw.kernel.tenancy import Owner
from drw.workflow.error_handling import groups, letter_filter
from drw.workflow.error_handling.letter_filter import VISIBLE, tenant
from drw.workflow.error_handling.metrics import STORED_LETTERS

Row = dict[str, Any]

EVENTS = Publisher("error_handling")
MAX_ERROR = 500
"""Characters of the error in an event."""
MAX_GROUPS = 500
COLUMNS = (
    "number, id, state, run, key, template, template_version, step, failure_class, reason, error, attempts, group_id,"
    " failed_at, walls, restart_of, redrive, redriven_run, redrive_error"
)
"""All columns of a letter in a list: without the inputs."""

INSERT = """
insert into dead_letter (id, org, desk, walls, run, key, template, template_version, inputs, step, node, failure_class,
    reason, error, attempts, restart_of, group_id, failed_at)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s))
on conflict (run) do nothing returning number
"""
GROUPS = f"""
select group_id, count(*)::int as dead_letters, min(failed_at) as first_failed_at, max(failed_at) as last_failed_at,
       max(number) as newest
from dead_letter where {VISIBLE} and state = 'OPEN'
group by group_id order by dead_letters desc, group_id limit {MAX_GROUPS}
"""  # noqa: S608 - constants
PURGE = """
delete from dead_letter where number in (
    select number from dead_letter where closed_at < clock_timestamp() - %s * interval '1 day' limit 1000
) returning number
"""
PURGE_REDRIVES = "delete from redrive where ended_at < clock_timestamp() - %s * interval '1 day' returning id"


class Letters:
    """The table `dead_letter`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def last_failure(self) -> int:
        """Return the number of the last failure that `put` stored."""
        row = await self._database.one("select failure from progress")
        assert row is not None
        return int(row["failure"])

    async def put(self, failures: list[Failure]) -> None:
        """Store failures, in their order, as dead letters. Idempotent."""
        async with self._database.transaction() as connection:
            for failure in failures:
                cursor = await connection.execute(INSERT, _values(failure))
                if cursor.rowcount:
                    await _announce(connection, failure)
            await connection.execute("update progress set failure = greatest(failure, %s)", (failures[-1].number,))

    async def page(self, caller: Principal, request: ListDeadLettersRequest, size: int) -> list[Row]:
        """Return the letters after the page token, newest first.

        Raises:
            InvalidRequest: the page token is invalid.
        """
        condition, parameters = letter_filter.of_list(caller, request)
        query = SQL("select {} from dead_letter where {} and number < %(number)s order by number desc limit %(size)s")
        number = paging.number_of(request.page_token)
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                query.format(SQL(COLUMNS), condition), parameters | {"number": number, "size": size}
            )
            return await cursor.fetchall()

    async def get(self, caller: Principal, letter: str) -> Row:
        """Return a letter with its inputs.

        Raises:
            NotFound: the desk has no such letter.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                SQL("select * from dead_letter where {} and id = %(id)s").format(SQL(VISIBLE)),
                tenant(caller) | {"id": letter},
            )
            row = await cursor.fetchone()
        if row is None:
            raise NotFound(f"there is no dead letter {letter!r}")
        return row

    async def open_groups(self, caller: Principal) -> list[Row]:
        """Return the groups of open letters, the largest first, each with the columns of its newest letter."""
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(GROUPS, tenant(caller))).fetchall()
            cursor = await connection.execute(
                "select number, template, node, failure_class, reason, error from dead_letter where number = any(%s)",
                ([row["newest"] for row in rows],),
            )
            newest = {row["number"]: row for row in await cursor.fetchall()}
        return [row | newest[row["newest"]] for row in rows]

    async def discard(self, caller: Principal, request: DeadLetterFilter, reason: str, *, dry_run: bool) -> int:
        """Close open letters without a redrive; return their number."""
        condition, parameters = letter_filter.of_open(caller, request)
        async with self._database.transaction() as connection:
            if dry_run:
                query = SQL("select count(*) as letters from dead_letter where {}").format(condition)
                row = await (await connection.execute(query, parameters)).fetchone()
                return int(row["letters"]) if row else 0
            await lock_desk(connection, caller)
            close = SQL("update dead_letter set state = 'DISCARDED', closed_at = clock_timestamp() where {}")
            cursor = await connection.execute(close.format(condition), parameters)
            if cursor.rowcount:
                details = {"dead_letters": cursor.rowcount, "reason": reason, **described(request)}
                await self._audit.record("dead_letter.discard", "dead_letters", details=details, connection=connection)
            return cursor.rowcount

    async def purge(self, days: int) -> int:
        """Delete redrives that ended longer ago, and at most 1,000 letters that were closed; return their number."""
        await self._database.all(PURGE_REDRIVES, days)
        return len(await self._database.all(PURGE, days))


async def lock_desk(connection: Connection, caller: Principal) -> None:
    """Serialise changes of the letters of a desk until the transaction ends."""
    name = orjson.dumps([caller.org, caller.desk]).decode()
    await connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


async def _announce(connection: Connection, failure: Failure) -> None:
    """Announce a new dead letter, in the transaction that stores it."""
    failure_class = FailureClass.Name(failure.failure_class).lower()
    letter = _id(failure)
    event = DeadLetterCreated(
        dead_letter=letter,
        run=failure.run,
        step=failure.step,
        template=failure.template,
        error_class=failure_class,
        fingerprint=groups.fingerprint(failure),
        error=failure.error[:MAX_ERROR],
    )
    owner = Owner(failure.org, failure.desk)
    await EVENTS.publish(connection, event, f"dead_letter/{letter}", owner, walls=failure.walls)
    STORED_LETTERS.labels(failure_class).inc()


def _id(failure: Failure) -> str:
    return f"dl_{failure.run.removeprefix('run_')}"


def described(request: DeadLetterFilter) -> dict[str, Any]:
    """Return a filter for the audit log."""
    fields = {field.name: value for field, value in request.ListFields() if isinstance(value, str)}
    if request.failure_class:
        fields["failure_class"] = FailureClass.Name(request.failure_class)
    times = {
        name: getattr(request, name).ToJsonString()
        for name in ("failed_after", "failed_before")
        if request.HasField(name)
    }
    return {"filter": fields | times | ({"ids": list(request.ids)} if request.ids else {})}


def _values(failure: Failure) -> tuple[Any, ...]:
    return (
        _id(failure),
        failure.org,
        failure.desk,
        list(failure.walls),
        failure.run,
        failure.key,
        failure.template,
        failure.template_version,
        failure.inputs.text or orjson.dumps({}).decode(),
        failure.step,
        groups.node_of(failure.step),
        FailureClass.Name(failure.failure_class),
        failure.reason,
        failure.error,
        failure.attempts,
        failure.restart_of,
        groups.fingerprint(failure),
        failure.failed_at.ToMicroseconds() / 1e6,
    )
