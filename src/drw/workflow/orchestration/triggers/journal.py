"""Firings of triggers: recorded in the transaction that receives an event, handled in one transaction each.

The inbox and the key of a firing drop an event that arrives again. The run of a firing has an id that depends only on
the trigger and the event. So each event starts exactly one run of a trigger, at whatever line a process is killed.
PostgreSQL ends the transaction of a frozen process after ten seconds, and with it its locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from google.protobuf.message import Message

from drw.catalog import EVENT_TYPES
from drw.events.event import Event
from drw.kernel.errors import DrwError
from drw.kernel.rpc import context
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration.metrics import FIRINGS
from drw.workflow.orchestration.runs import Runs
from drw.workflow.orchestration.schedules.preparation import PreparedRun
from drw.workflow.orchestration.settings import Settings
from drw.workflow.orchestration.triggers import conditions
from drw.workflow.orchestration.triggers.stored import Row, StoredTrigger, WaitingEvent

CHANNEL = "orchestration_trigger"
KEPT_FIRINGS = 100
"""Handled firings that are kept for each trigger."""
MAX_DETAIL = 500
NAMES = {event.type: event.name for event in EVENT_TYPES}

MATCHING = """
select * from run_trigger
where event = %(event)s and state = 'ACTIVE' and created_at <= %(time)s
    and (%(org)s = '' or org = %(org)s) and (%(desk)s = '' or desk = %(desk)s) and inside(%(walls)s, walls)
    and collection in ('', %(collection)s)
order by id
"""
DUE = """
select t.*, f.event as event_id, f.variables, f.depth from (
    select *, row_number() over (partition by org, desk order by due_at, id) as turn
    from run_trigger where state = 'ACTIVE' and waiting > 0 and due_at <= clock_timestamp()
) as t cross join lateral (
    select * from trigger_firing where trigger = t.id and state = 'PENDING' order by number limit 1
) as f
order by t.turn, t.due_at, t.id limit %s
"""
PRUNE = """
delete from trigger_firing where trigger = %s and state <> 'PENDING' and number <= (
    select number from trigger_firing where trigger = %s and state <> 'PENDING' order by number desc offset %s limit 1
)
"""


class TriggerJournal:
    """The tables `trigger` and `trigger_firing`, as used by the consumer of events and by the dispatcher."""

    def __init__(self, database: Database, audit: AuditWriter, runs: Runs, settings: Settings) -> None:
        self._database = database
        self._audit = audit
        self._runs = runs
        self._settings = settings

    async def record(self, connection: Connection, event: Event, _: Message) -> None:
        """Record an event for each trigger that it matches, as part of the transaction that receives it."""
        parameters = {
            "event": NAMES[event.type],
            "time": event.time,
            "org": event.org,
            "desk": event.desk,
            "walls": list(event.walls),
            "collection": str(event.data.get("collection") or ""),
        }
        triggers = [StoredTrigger.of(row) for row in await (await connection.execute(MATCHING, parameters)).fetchall()]
        if not triggers:
            return
        depth = max(event.depth, await _depth_of_run(connection, str(event.data.get("run") or "")))
        for trigger in triggers:
            await self._record(connection, trigger, event, depth)
        await connection.execute("select pg_notify(%s, '')", (CHANNEL,))

    async def due(self, limit: int) -> list[WaitingEvent]:
        """Return the oldest waiting event of each trigger that is due, in turns of orgs and desks."""
        rows = await self._database.all(DUE, limit)
        return [WaitingEvent(StoredTrigger.of(row), row["event_id"], row["variables"], row["depth"]) for row in rows]

    async def start(self, waiting: WaitingEvent, prepared: PreparedRun) -> bool:
        """Start the run of an event, unless the trigger has started too many; return whether the event is handled.

        Raises:
            RateLimited: the desk has too many unfinished runs.
        """
        async with self._changing(waiting) as (connection, row):
            if row is None:
                return False
            if await self._postponed_by_rate(connection, waiting.trigger):
                return False
            await self._runs.check_open_runs(connection, prepared.caller)
            origin = {"trigger": waiting.trigger.id, "event": waiting.event}
            with context.acting_for(prepared.caller), context.at_event_depth(waiting.depth + 1):
                started = await self._runs.insert(
                    connection,
                    prepared.caller,
                    waiting.run,
                    prepared.request,
                    prepared.template,
                    prepared.inputs,
                    origin,
                )
            if started:
                await connection.execute(
                    "update run set trigger = %s, event = %s where id = %s",
                    (waiting.trigger.id, waiting.event, waiting.run),
                )
            await self._handled(connection, waiting, "STARTED", run=waiting.run)
        return True

    async def refuse(self, waiting: WaitingEvent, detail: str) -> bool:
        """Handle an event without a run; return False if another process handles it."""
        async with self._changing(waiting) as (connection, row):
            if row is not None:
                await self._handled(connection, waiting, "REFUSED", detail=detail)
        return row is not None

    async def stop(self, trigger: StoredTrigger, reason: str) -> None:
        """Stop a trigger permanently, forget the events that wait, and cancel its open runs."""
        with context.acting_for(trigger.owner):
            async with self._transaction() as connection:
                cursor = await connection.execute(
                    "update run_trigger set state = 'STOPPED', detail = %s, waiting = 0 where id = %s"
                    " and state <> 'STOPPED'",
                    (reason, trigger.id),
                )
                if cursor.rowcount != 1:
                    return
                await connection.execute(
                    "update trigger_firing set state = 'REFUSED', detail = 'the trigger has stopped'"
                    " where trigger = %s and state = 'PENDING'",
                    (trigger.id,),
                )
                await connection.execute(PRUNE, (trigger.id, trigger.id, KEPT_FIRINGS))
                cursor = await connection.execute(
                    "select id from run where trigger = %s and state in ('QUEUED', 'RUNNING') for update",
                    (trigger.id,),
                )
                for run in await cursor.fetchall():
                    await self._runs.end_cancelled(connection, run["id"], f"since {reason}")
                await self._audit.record(
                    "trigger.stop", trigger.id, outcome="denied", details={"reason": reason}, connection=connection
                )

    async def postpone(self, trigger: StoredTrigger, seconds: float, detail: str) -> None:
        """Handle the waiting events of a trigger later."""
        await self._database.all(
            "update run_trigger set due_at = clock_timestamp() + make_interval(secs => %s), detail = %s where id = %s"
            " and state <> 'STOPPED' returning id",
            *(seconds, detail[:MAX_DETAIL], trigger.id),
        )

    async def postpone_desk(self, trigger: StoredTrigger, seconds: float, detail: str) -> None:
        """Handle the waiting events of all triggers of a desk later."""
        await self._database.all(
            "update run_trigger set due_at = clock_timestamp() + make_interval(secs => %s), detail = %s"
            " where org = %s and desk = %s and state = 'ACTIVE' and waiting > 0 returning id",
            *(seconds, detail[:MAX_DETAIL], trigger.owner.org, trigger.owner.desk),
        )

    async def _record(self, connection: Connection, trigger: StoredTrigger, event: Event, depth: int) -> None:
        """Record an event for one trigger. Nothing in a trigger can fail it: others wait for the same event."""
        variables, state, detail = conditions.variables_of(event), "PENDING", ""
        try:
            if not conditions.matches(trigger.spec.filter, variables):
                return
        except DrwError as error:
            state, detail = "REFUSED", error.message
        if depth >= self._settings.max_event_depth:
            state = "REFUSED"
            detail = f"{depth} runs led to the event, one by another; at most {self._settings.max_event_depth}"
        cursor = await connection.execute("select waiting from run_trigger where id = %s for update", (trigger.id,))
        row = await cursor.fetchone()
        if row and state == "PENDING" and row["waiting"] >= self._settings.max_trigger_backlog:
            state, detail = "DROPPED", f"{row['waiting']} events wait"
        # Nothing is inserted if the trigger was stopped or deleted meanwhile.
        cursor = await connection.execute(
            "insert into trigger_firing (trigger, event, subject, variables, depth, state, detail)"
            " select id, %s, %s, %s, %s, %s, %s from run_trigger where id = %s and state = 'ACTIVE'"
            " on conflict (trigger, event) do nothing",
            (
                *(event.id, event.subject, orjson.dumps(variables).decode(), depth, state, detail[:MAX_DETAIL]),
                trigger.id,
            ),
        )
        if not cursor.rowcount:
            return
        if state == "PENDING":
            await connection.execute("update run_trigger set waiting = waiting + 1 where id = %s", (trigger.id,))
        else:
            await self._count(connection, trigger, event.id, state, detail)

    async def _handled(
        self, connection: Connection, waiting: WaitingEvent, state: str, *, run: str = "", detail: str = ""
    ) -> None:
        trigger = waiting.trigger
        await connection.execute(
            "update trigger_firing set state = %s, run = %s, detail = %s where trigger = %s and event = %s",
            (state, run, detail[:MAX_DETAIL], trigger.id, waiting.event),
        )
        await connection.execute(
            "update run_trigger set waiting = waiting - 1, detail = '' where id = %s", (trigger.id,)
        )
        await self._count(connection, trigger, waiting.event, state, detail)

    async def _count(self, connection: Connection, trigger: StoredTrigger, event: str, state: str, detail: str) -> None:
        """Count a handled firing, audit one that started no run, and delete the oldest."""
        await connection.execute(PRUNE, (trigger.id, trigger.id, KEPT_FIRINGS))
        if state != "STARTED":
            details = {"event": event, "detail": detail[:MAX_DETAIL]}
            with context.acting_for(trigger.owner):
                await self._audit.record(
                    "trigger.fire", trigger.id, outcome=state.lower(), details=details, connection=connection
                )
        FIRINGS.labels(state.lower()).inc()

    async def _postponed_by_rate(self, connection: Connection, trigger: StoredTrigger) -> bool:
        maximum = self._settings.max_trigger_runs_per_minute
        limit = min(trigger.spec.max_runs_per_minute or maximum, maximum)
        cursor = await connection.execute(
            "update run_trigger set detail = %s, due_at = last.created_at + interval '1 minute' from ("
            " select created_at from run where trigger = %s order by created_at desc offset %s limit 1) as last"
            " where id = %s and last.created_at > clock_timestamp() - interval '1 minute'",
            (f"it starts at most {limit} runs in a minute", trigger.id, limit - 1, trigger.id),
        )
        return cursor.rowcount > 0

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '10s'")
            yield connection

    @asynccontextmanager
    async def _changing(self, waiting: WaitingEvent) -> AsyncIterator[tuple[Connection, Row | None]]:
        """Yield the locked trigger; None if the event is handled already, or another process handles it."""
        with context.acting_for(waiting.trigger.owner):
            async with self._transaction() as connection:
                cursor = await connection.execute(
                    "select t.* from run_trigger t join trigger_firing f on f.trigger = t.id"
                    " where t.id = %s and t.state = 'ACTIVE' and f.event = %s and f.state = 'PENDING'"
                    " for update of t skip locked",
                    (waiting.trigger.id, waiting.event),
                )
                yield connection, await cursor.fetchone()


async def _depth_of_run(connection: Connection, run: str) -> int:
    """Return the depth of the run of an event, whoever published it; 0 without one."""
    cursor = await connection.execute("select event_depth from run where id = %s", (run,))
    row = await cursor.fetchone()
    return row["event_depth"] if row else 0
