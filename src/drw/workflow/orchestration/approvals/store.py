"""The tables `approval` and `vote`: what waits, for whom, until when, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.approvals import form
from drw.workflow.orchestration.approvals.arguments import ApprovalArguments
from drw.workflow.orchestration.execution.journal.run_journal import Run

Row = dict[str, Any]
MAX_LISTED = 500
LATE = "the deadline has passed"

COLUMNS = """
select a.*, r.org, r.desk, r.walls, r.template_name, r.key as started_by, r.state as run_state,
       a.deadline <= clock_timestamp() as is_late, r.starters
"""
"""An approval with its run. `starters` are the keys that started it, the runs above it, and those they continue."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The output of a decided approval, or None; and the present deadline."""

    output: Row | None
    deadline: datetime


class Approvals:
    """Opens approvals and reads them."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def open(self, run: Run, step: str, arguments: ApprovalArguments, deadline: datetime) -> None:
        """Ask for approvals. Idempotent.

        Raises:
            InvalidRequest: the form is not a JSON Schema.
            LeadershipLost: this process no longer owns the run.
        """
        if arguments.form is not None:
            form.check_schema(arguments.form)
        details = orjson.dumps(arguments.details).decode()
        approvers = arguments.approvers or [f"desk:{run.caller.desk}"]
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            cursor = await connection.execute(
                "insert into approval (run, step, title, details, quorum, deadline, approvers, form, escalation)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
                (
                    *(run.id, step, arguments.title, details, arguments.quorum, deadline, approvers),
                    None if arguments.form is None else orjson.dumps(arguments.form).decode(),
                    orjson.dumps([escalation.model_dump() for escalation in arguments.escalation]).decode(),
                ),
            )
            if cursor.rowcount:
                await events.add(connection, run.id, "waiting", step=step, detail=f"for approval: {arguments.title}")
                record = {
                    "quorum": arguments.quorum,
                    "approvers": approvers,
                    "deadline": deadline.isoformat(),
                    "details": digest(details),
                }
                await self._audit.record("approval.request", f"{run.id}/{step}", details=record, connection=connection)

    async def outcome(self, run: Run, step: str) -> Outcome:
        """Return the output of an approval step once it is decided. A passed deadline escalates it or decides.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            row = await by_step(connection, run.id, step)
            assert row is not None  # `open` has inserted it
            if row["state"] == "PENDING" and row["is_late"]:
                row = await self._pass_deadline(connection, row)
            votes = await votes_of(connection, run.id, step)
        if row["state"] == "PENDING":
            return Outcome(None, row["deadline"])
        approved = row["state"] == "APPROVED"
        output = {
            "approved": approved,
            "reason": _reason(row, votes),
            "votes": [_listed(vote) for vote in votes],
            "values": row["form_values"] if approved else None,
        }
        return Outcome(output, row["deadline"])

    async def pending(self, caller: Principal) -> list[tuple[Row, list[Row]]]:
        """Return the waiting approvals that a caller sees with their votes, oldest first."""
        rows = await self._database.all(
            COLUMNS + " from visible_approvals(%s, %s, %s, %s) a join run r on r.id = a.run"
            " where a.state = 'PENDING' and r.state = 'RUNNING' order by a.created_at limit %s",
            *_visibility(caller),
            MAX_LISTED,
        )
        votes = await self._database.all(
            "select * from vote where run = any(%s) order by at", [row["run"] for row in rows]
        )
        return [(row, [v for v in votes if (v["run"], v["step"]) == (row["run"], row["step"])]) for row in rows]

    async def get(self, caller: Principal, run: str, step: str) -> tuple[Row, list[Row]]:
        """Return an approval that a caller sees, with its votes.

        Raises:
            NotFound: there is none.
        """
        async with self._database.transaction() as connection:
            row = await visible(connection, caller, run, step)
            return row, await votes_of(connection, run, step)

    async def _pass_deadline(self, connection: Connection, row: Row) -> Row:
        run, step = row["run"], row["step"]
        if row["escalations"] < len(row["escalation"]):
            following = row["escalation"][row["escalations"]]
            await connection.execute(
                "update approval set approvers = %s, escalations = escalations + 1,"
                " deadline = clock_timestamp() + make_interval(secs => %s) where run = %s and step = %s",
                (following["to"], following["deadline_seconds"], run, step),
            )
            to = ", ".join(following["to"])
            await events.add(connection, run, "waiting", step=step, detail=f"{LATE}; escalated to {to}")
            details = {"from": row["approvers"], "to": following["to"]}
            await self._audit.record("approval.escalate", f"{run}/{step}", details=details, connection=connection)
        else:
            await connection.execute("update approval set state = 'EXPIRED' where run = %s and step = %s", (run, step))
            await self._audit.record("approval.expire", f"{run}/{step}", outcome="denied", connection=connection)
        passed = await by_step(connection, run, step)
        assert passed is not None
        return passed


async def visible(connection: Connection, caller: Principal, run: str, step: str) -> Row:
    """Return an approval that a caller sees.

    Raises:
        NotFound: there is none.
    """
    cursor = await connection.execute(
        COLUMNS
        + " from visible_approvals(%s, %s, %s, %s) a join run r on r.id = a.run where a.run = %s and a.step = %s",
        (*_visibility(caller), run, step),
    )
    if (row := await cursor.fetchone()) is not None:
        return row
    cursor = await connection.execute(
        "select id from visible_runs(%s, %s, %s) where id = %s",
        (caller.org, caller.desk, sorted(caller.walls), run),
    )
    if await cursor.fetchone() is None:
        raise NotFound(f"there is no run {run!r}")
    raise NotFound(f"the step {step!r} of the run {run!r} does not wait for approval")


async def by_step(connection: Connection, run: str, step: str) -> Row | None:
    """Return the approval of a step of a locked run."""
    cursor = await connection.execute(
        COLUMNS + " from approval a join run r on r.id = a.run where a.run = %s and a.step = %s", (run, step)
    )
    return await cursor.fetchone()


async def votes_of(connection: Connection, run: str, step: str) -> list[Row]:
    """Return the votes of an approval, oldest first."""
    cursor = await connection.execute("select * from vote where run = %s and step = %s order by at", (run, step))
    return await cursor.fetchall()


def closed_reason(row: Row) -> str:
    """Return why nobody can decide any more; empty: it waits."""
    if row["state"] != "PENDING":
        return str(row["state"]).lower()
    if row["is_late"]:
        return LATE
    return "" if row["run_state"] in ("QUEUED", "RUNNING") else "the run has ended"


def _reason(row: Row, votes: list[Row]) -> str:
    if row["state"] == "EXPIRED":
        return f"{LATE}: {len(votes)} of {row['quorum']} approvals"
    if row["state"] == "REJECTED":
        vote = next(vote for vote in votes if vote["decision"] == "REJECT")
        return f"rejected by {vote['key']}" + (f": {vote['comment']}" if vote["comment"] else "")
    return ""


def _listed(vote: Row) -> Row:
    listed = {name: vote[name] for name in ("key", "decision", "comment")} | {"at": vote["at"].isoformat()}
    return listed | ({"on_behalf_of": vote["on_behalf_of"]} if vote["on_behalf_of"] else {})


def _visibility(caller: Principal) -> tuple[str, str, str, list[str]]:
    return caller.org, caller.desk, caller.key, sorted(caller.walls)
