"""The outbox relay: publishes run events to the state service, in order."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.state_pb2 import RunEvent
from drw.api.workflow.v1.state_rpc import StateClient
from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.storage.database import Database
from drw.workflow.orchestration import events

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0
BATCH_SIZE = 200
RETRY_SECONDS = 1.0


class OutboxRelay:
    """Publishes events. Runs never wait for it; if the live view is unavailable, events are published later."""

    def __init__(self, database: Database, state: StateClient) -> None:
        self._database = database
        self._state = state
        self.error_message = ""
        """The error of the last batch, or an empty string."""

    async def run(self) -> None:
        """Relay events until cancelled."""
        async for _ in self._database.notifications(events.CHANNEL):
            while await self._relay_batch():
                pass

    async def _relay_batch(self) -> bool:
        """Relay a batch of events; return whether there may be more."""
        rows = await self._database.all(
            "select outbox.*, run.org, run.desk, run.walls from outbox join run on run.id = outbox.run"
            " order by outbox.id limit %s",
            BATCH_SIZE,
        )
        published: list[int] = []
        error_message = ""
        try:
            for row in rows:
                await self._publish(row)
                published.append(row["id"])
        except DrwError as error:
            error_message = error.message
        await self._database.all("delete from outbox where id = any(%s) returning id", published)
        await self._set_error(error_message)
        return bool(rows)

    async def _publish(self, row: dict[str, Any]) -> None:
        try:
            await self._state.publish_run_event(_event(row), timeout=PUBLISH_SECONDS)
        except InvalidRequest as error:
            log.error("dropped an invalid event: %s", error.message)

    async def _set_error(self, error_message: str) -> None:
        if error_message and not self.error_message:
            log.warning("the live view of runs is behind: %s", error_message)
        if self.error_message and not error_message:
            log.info("the live view of runs has caught up")
        self.error_message = error_message
        if error_message:
            await asyncio.sleep(RETRY_SECONDS)


def _event(row: dict[str, Any]) -> RunEvent:
    at = Timestamp()
    at.FromDatetime(row["at"])
    return RunEvent(
        event_id=str(row["number"]),
        run=row["run"],
        org=row["org"],
        desk=row["desk"],
        step=row["step"],
        state=row["state"],
        detail=row["detail"],
        at=at,
        walls=row["walls"],
    )
