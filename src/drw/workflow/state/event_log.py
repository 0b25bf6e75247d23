"""The event log of runs: permanent, and the source of the live view."""

from __future__ import annotations

from collections.abc import Sequence

from drw.api.workflow.v1.state_pb2 import RunEvent
from drw.kernel.storage.database import Database
from drw.workflow.state.ports import RunKey


class EventLog:
    """The table of events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, key: RunKey, event: RunEvent) -> None:
        """Store an event. Idempotent."""
        await self._database.all(
            "insert into event (org, desk, run, number, event) values (%s, %s, %s, %s, %s)"
            " on conflict do nothing returning number",
            key.org,
            key.desk,
            key.run,
            int(event.event_id),
            event.SerializeToString(),
        )

    async def events(self, key: RunKey) -> list[RunEvent]:
        """Return all events of a run; an empty list if the desk has no such run."""
        rows = await self._database.all(
            "select event from event where org = %s and desk = %s and run = %s order by number",
            key.org,
            key.desk,
            key.run,
        )
        return [RunEvent.FromString(row["event"]) for row in rows]

    async def delete(self, keys: Sequence[RunKey]) -> None:
        """Delete all events of these runs. Idempotent."""
        await self._database.all(
            "delete from event using unnest(%s::text[], %s::text[], %s::text[]) as gone (org, desk, run)"
            " where event.org = gone.org and event.desk = gone.desk and event.run = gone.run returning event.run",
            [key.org for key in keys],
            [key.desk for key in keys],
            [key.run for key in keys],
        )
