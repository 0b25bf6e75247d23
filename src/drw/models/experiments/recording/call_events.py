"""Exposures and outcomes of calls: reads the events of serving from the outbox, each exactly once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from drw.api.models.v1.experiments_pb2 import Metric
from drw.billing.amounts import NANO
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.sql import DatabaseError, Jsonb
from drw.models.experiments.recording.recorder import Recorder
from drw.models.experiments.recording.unit_writes import Value, add_exposures, add_values
from drw.models.experiments.rollouts import shadow_calls
from drw.models.experiments.store import StoredExperiment, stored_experiment

log = logging.getLogger(__name__)

BATCH = 500
TAKE: LiteralString = """
delete from audit.outbox where id in (
    select id from audit.outbox where topic = 'experiments' order by id limit %s for update skip locked
) returning id, body, at
"""
BACKLOG: LiteralString = """
select count(*) as n from (select from audit.outbox where topic = 'experiments' limit %s) waiting
"""
OUTCOMES = {
    Metric.FIRST_TOKEN_MS: ("FIRST_TOKEN_MS", 1.0),
    Metric.TOTAL_MS: ("TOTAL_MS", 1.0),
    Metric.COST_USD: ("COST_NANO", NANO),
    Metric.ERROR: ("ERROR", 1.0),
    Metric.TOKENS: ("TOKENS", 1.0),
}
"""The name of each source in an event, and its divisor."""


@dataclass(slots=True)
class _Batch:
    """The events of one experiment."""

    calls: list[tuple[dict[str, Any], datetime]] = field(default_factory=list)
    shadows: list[dict[str, Any]] = field(default_factory=list)
    lost: int = 0
    not_assigned: int = 0


class CallEvents:
    """Applies the events of calls to running experiments. Several replicas share the work."""

    def __init__(self, database: Database, recorder: Recorder, seconds: float, max_backlog: int) -> None:
        self._database = database
        self._recorder = recorder
        self._seconds = seconds
        self._max_backlog = max_backlog

    async def run(self) -> None:
        """Apply events until cancelled."""
        while True:
            if await self.consume() < BATCH:
                await asyncio.sleep(self._seconds)

    async def consume(self) -> int:
        """Apply a batch of events in one transaction; return how many."""
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(TAKE, (BATCH,))).fetchall()
            rows.sort(key=lambda row: row["id"])
            batches = _by_experiment(rows)
            # In one order, so that two replicas do not wait for each other in a circle.
            cursor = await connection.execute(
                "select * from experiment where key = any(%s) and state <> 'DRAFT' order by key for no key update",
                (list(batches),),
            )
            for row in await cursor.fetchall():
                stored, batch = stored_experiment(row), batches[row["key"]]
                try:
                    async with connection.transaction():
                        await self._apply(connection, stored, batch, row["stopped_at"])
                except (DatabaseError, KeyError, TypeError, ValueError):
                    if connection.closed:
                        raise
                    # Of this experiment only: others must not wait for it forever.
                    log.exception("exposures cannot be recorded", extra={"fields": {"experiment": stored.key}})
                    await _count(connection, stored.key, 0, batch.lost + len(batch.calls), batch.not_assigned)
        return len(rows)

    async def is_behind(self) -> bool:
        """Return whether too many events wait to be read."""
        row = await self._database.one(BACKLOG, self._max_backlog)
        return bool(row and row["n"] >= self._max_backlog)

    async def _apply(
        self, connection: Connection, stored: StoredExperiment, batch: _Batch, stopped_at: datetime | None
    ) -> None:
        """Add the events until the stop; serving assigns calls until it hears of the stop."""
        calls = [(event, at) for event, at in batch.calls if stopped_at is None or at <= stopped_at]
        if calls and await self._recorder.is_full(stored):
            batch.lost += len(calls)
            calls = []
        if calls:
            await add_exposures(connection, stored.key, {_unit(event): event["arm"] for event, _ in calls})
            await add_values(connection, stored, _values(stored, (event for event, _ in calls)))
        recorded = await _add_events(connection, stored.key, calls) if calls else 0
        if batch.shadows:
            await shadow_calls.add(connection, stored.key, batch.shadows)
        await _count(connection, stored.key, recorded, batch.lost, batch.not_assigned)


def response_hash(response_id: str) -> bytes:
    """Return what stands for a response in the database.

    The ids of one response in several APIs, such as "chatcmpl-1a2b" and "msg_1a2b", differ only by their prefix.
    """
    return hashlib.sha256(re.split("[-_]", response_id)[-1].encode()).digest()[:16]


def _by_experiment(rows: Iterable[dict[str, Any]]) -> dict[int, _Batch]:
    batches: dict[int, _Batch] = {}
    for row in rows:
        event = row["body"]
        batch = batches.setdefault(event["experiment"], _Batch())
        batch.lost += event.get("lost", 0)
        batch.not_assigned += event.get("not_assigned", 0)
        if "unit" in event:
            batch.calls.append((event, row["at"]))
        if "shadow" in event:
            batch.shadows.append(event["shadow"])
    return batches


def _unit(event: dict[str, Any]) -> bytes:
    return bytes.fromhex(event["unit"])


def _values(stored: StoredExperiment, events: Iterable[dict[str, Any]]) -> Iterable[Value]:
    sources = [
        (number, *OUTCOMES[metric.source]) for number, metric in enumerate(stored.experiment.metrics) if metric.source
    ]
    for event in events:
        outcomes = event.get("outcomes", {})
        for number, name, divisor in sources:
            if name in outcomes:
                yield Value(number, _unit(event), outcomes[name] / divisor)


async def _count(connection: Connection, experiment: int, recorded: int, lost: int, not_assigned: int) -> None:
    await connection.execute(
        """
        insert into delivery (experiment, recorded, lost, not_assigned) values (%s, %s, %s, %s)
        on conflict (experiment) do update set recorded = delivery.recorded + excluded.recorded,
            lost = delivery.lost + excluded.lost, not_assigned = delivery.not_assigned + excluded.not_assigned
        """,
        (experiment, recorded, lost, not_assigned),
    )


async def _add_events(connection: Connection, experiment: int, calls: list[tuple[dict[str, Any], datetime]]) -> int:
    """Add the events of calls; return how many calls are new. Retrieval and serving can write one call each."""
    cursor = await connection.execute(
        """
        insert into call_event (experiment, response, unit, arm, outcomes, at, settings, walls)
        select %s, response, unit, arm, outcomes, at, settings, array(select jsonb_array_elements_text(walls))
        from unnest(%s::bytea[], %s::bytea[], %s::smallint[], %s::jsonb[], %s::timestamptz[], %s::bytea[], %s::jsonb[])
            call(response, unit, arm, outcomes, at, settings, walls)
        on conflict do nothing
        """,
        (
            experiment,
            [response_hash(event["response"]) for event, _ in calls],
            [_unit(event) for event, _ in calls],
            [event["arm"] for event, _ in calls],
            [Jsonb(event["outcomes"]) if "outcomes" in event else None for event, _ in calls],
            [at for _, at in calls],
            [bytes.fromhex(event["settings"]) if event.get("settings") else None for event, _ in calls],
            [Jsonb(event.get("walls", [])) for event, _ in calls],
        ),
    )
    return cursor.rowcount
