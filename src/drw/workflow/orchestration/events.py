"""Transactional outbox: writes run events in the transaction of the change; the relay publishes them later."""

from __future__ import annotations

from drw.kernel.storage.database import Connection
from drw.workflow.orchestration.ports import LeadershipLost

CHANNEL = "orchestration_outbox"
MAX_DETAIL = 500


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
    """Add an event to a locked run."""
    await connection.execute(
        "with numbered as (update run set events = events + 1 where id = %s returning id, events),"
        " added as (insert into outbox (run, number, step, state, detail)"
        " select id, events, %s, %s, %s from numbered returning number)"
        " select pg_notify(%s, '') from added",
        (run, step, state, detail[:MAX_DETAIL], CHANNEL),
    )
