"""Retention of the outbox, the inbox and parked events."""

from __future__ import annotations

import asyncio

from drw.kernel.storage.database import Database

INTERVAL_SECONDS = 60.0
INBOX_DAYS = 7
"""Longer than a broker delivers an acknowledged event again."""
PARKED_DAYS = 30
MAX_PARKED = 10_000
BATCH_SIZE = 10_000
"""Rows of one statement, so that none holds locks for long."""

DELETE_SENT = """
delete from bus.outbox where id in
    (select id from bus.outbox where sent_at < clock_timestamp() - make_interval(secs => %s) limit %s)
"""
DELETE_RECEIVED = """
delete from bus.inbox where (consumer, event_id) in
    (select consumer, event_id from bus.inbox where at < clock_timestamp() - make_interval(days => %s) limit %s)
"""
DELETE_PARKED = """
delete from bus.parked where id in
    (select id from bus.parked where at < clock_timestamp() - make_interval(days => %s) limit %s)
"""
DELETE_MOST_PARKED = """
delete from bus.parked where id <= (select id from bus.parked order by id desc offset %s limit 1)
"""


class Retention:
    """Deletes old rows."""

    def __init__(self, database: Database, replay_seconds: int) -> None:
        self._database = database
        self._replay_seconds = replay_seconds

    async def run(self) -> None:
        """Delete old rows periodically."""
        while True:
            await self.delete()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def delete(self) -> None:
        """Delete all rows that are older than their retention."""
        for query, age in (
            (DELETE_SENT, self._replay_seconds),
            (DELETE_RECEIVED, INBOX_DAYS),
            (DELETE_PARKED, PARKED_DAYS),
        ):
            while await self._delete_batch(query, age) == BATCH_SIZE:
                pass
        async with self._database.transaction() as connection:
            await connection.execute(DELETE_MOST_PARKED, (MAX_PARKED,))

    async def _delete_batch(self, query: str, age: int) -> int:
        async with self._database.transaction() as connection:
            return (await connection.execute(query.encode(), (age, BATCH_SIZE))).rowcount
