"""Transactional outbox: writes run events in the transaction of the change; the relay publishes them later."""

from __future__ import annotations

from drw.api.events.v1.workflows_pb2 import RunEnded
from drw.events.publisher import Publisher
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner
from drw.workflow.orchestration.ports import LeadershipLost

CHANNEL = "orchestration_outbox"
MAX_DETAIL = 500
TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
EVENTS = Publisher("orchestration")


async def lock_run(connection: Connection, run: str, fence: int) -> None:
    """Lock a run until the transaction ends. Every change of a run or its steps locks the run first.

    Raises:
        LeadershipLost: the run has ended, or another process owns it.
    """
    cursor = await connection.execute(
        "select from run where id = %s and fence = %s and state in ('QUEUED', 'RUNNING') for update", (run, fence)
    )
    if cursor.rowcount != 1:
        raise LeadershipLost(f"the run {run!r} has ended, or another process owns it", run=run)


async def add(connection: Connection, run: str, state: str, *, step: str = "", detail: str = "") -> None:
    """Add an event to a locked run. The end of the run is also an event on the event bus."""
    await connection.execute(
        "with numbered as (update run set events = events + 1 where id = %s returning id, events),"
        " added as (insert into outbox (run, number, step, state, detail)"
        " select id, events, %s, %s, %s from numbered returning number)"
        " select pg_notify(%s, '') from added",
        (run, step, state, detail[:MAX_DETAIL], CHANNEL),
    )
    if not step and state in TERMINAL_STATES:
        await _publish_end(connection, run, state, detail)


async def _publish_end(connection: Connection, run: str, state: str, error: str) -> None:
    cursor = await connection.execute(
        "select org, desk, walls, template_name, template_version, event_depth from run where id = %s", (run,)
    )
    if (row := await cursor.fetchone()) is None:
        return
    event = RunEnded(
        run=run,
        template=row["template_name"],
        template_version=row["template_version"],
        state=state,
        error=error[:MAX_DETAIL],
    )
    owner, depth = Owner(row["org"], row["desk"]), row["event_depth"]
    await EVENTS.publish(connection, event, f"run/{run}", owner, walls=row["walls"], depth=depth)
