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
AT_ONCE = 200
AGAIN_SECONDS = 1.0


class OutboxRelay:
    """Publishes events. Runs never wait for it; if the live view is unavailable, events are published later."""

    def __init__(self, database: Database, state: StateClient) -> None:
        self._database = database
        self._state = state
        self.trouble = ""
        """The reason why nothing can be published at present, or an empty string."""

    async def run(self) -> None:
        """Relay events until cancelled."""
        async for _ in self._database.notifications(events.CHANNEL):
            while await self._some():
                pass

    async def _some(self) -> bool:
        """Relay a batch of events; return whether there may be more."""
        rows = await self._database.all(
            "select outbox.*, run.org, run.desk, run.walls from outbox join run on run.id = outbox.run"
            " order by outbox.id limit %s",
            AT_ONCE,
        )
        shown: list[int] = []
        trouble = ""
        try:
            for row in rows:
                await self._show(row)
                shown.append(row["id"])
        except DrwError as error:
            trouble = error.message
        await self._database.all("delete from outbox where id = any(%s) returning id", shown)
        await self._note(trouble)
        return bool(rows)

    async def _show(self, row: dict[str, Any]) -> None:
        try:
            await self._state.publish_run_event(_event(row), timeout=PUBLISH_SECONDS)
        except InvalidRequest as error:
            log.error("an event that cannot be shown is left out: %s", error.message)

    async def _note(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.warning("the live view of runs is behind: %s", trouble)
        if self.trouble and not trouble:
            log.info("the live view of runs has caught up")
        self.trouble = trouble
        if trouble:
            await asyncio.sleep(AGAIN_SECONDS)


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
