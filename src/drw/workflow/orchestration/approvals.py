"""Approvals: steps that wait for votes of other keys than the one that started the run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from drw.kernel.errors import Conflict, Forbidden, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.execution import signals
from drw.workflow.orchestration.execution.run_journal import Run

Row = dict[str, Any]
MAX_LISTED = 500
LATE = "the deadline has passed"


class Approvals:
    """The tables `approval` and `vote`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def open(self, run: Run, step: str, title: str, details: Any, quorum: int, deadline: datetime) -> None:
        """Ask for approvals. Idempotent.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            details_json = orjson.dumps(details).decode()
            cursor = await connection.execute(
                "insert into approval (run, step, title, details, quorum, deadline) values (%s, %s, %s, %s, %s, %s)"
                " on conflict do nothing",
                (run.id, step, title, details_json, quorum, deadline),
            )
            if cursor.rowcount:
                await events.add(connection, run.id, "waiting", step=step, detail=f"for approval: {title}")
                record = {"quorum": quorum, "deadline": deadline.isoformat(), "details": digest(details_json)}
                await self._audit.record("approval.request", f"{run.id}/{step}", details=record, connection=connection)

    async def outcome(self, run: Run, step: str) -> Row | None:
        """Return the output of an approval step once it is decided. A passed deadline decides.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            cursor = await connection.execute(
                "update approval set state = 'EXPIRED' where run = %s and step = %s and state = 'PENDING'"
                " and deadline <= clock_timestamp() returning run",
                (run.id, step),
            )
            if cursor.rowcount:
                await self._audit.record("approval.expire", f"{run.id}/{step}", outcome="denied", connection=connection)
            row = await _approval(connection, run.id, step)
            votes = await _votes(connection, run.id, step)
        if row is None or row["state"] == "PENDING":
            return None
        return {"approved": row["state"] == "APPROVED", "reason": _reason(row, votes), "votes": _listed(votes)}

    async def pending(self, caller: Principal) -> list[tuple[Row, list[Row]]]:
        """Return the waiting approvals of the desk's runs with their votes, oldest first."""
        rows = await self._database.all(
            "select a.*, r.template_name, r.key as started_by from approval a"
            " join visible_runs(%s, %s, %s) r on r.id = a.run"
            " where a.state = 'PENDING' and r.state = 'RUNNING' order by a.created_at limit %s",
            *_visibility(caller),
            MAX_LISTED,
        )
        votes = await self._database.all(
            "select * from vote where run = any(%s) order by at", [row["run"] for row in rows]
        )
        return [(row, [v for v in votes if (v["run"], v["step"]) == (row["run"], row["step"])]) for row in rows]

    async def vote(self, caller: Principal, run: str, step: str, decision: str, comment: str) -> tuple[Row, list[Row]]:
        """Record a decision; return the approval and its votes. The same vote again changes nothing.

        Raises:
            NotFound: the desk has no such run, or the step does not wait for approval.
            Forbidden: the caller's key started the run.
            Conflict: the approval is decided, or the key has decided otherwise.
        """
        async with self._database.transaction() as connection:
            row = await self._lock(connection, caller, run, step)
            votes = await _votes(connection, run, step)
            own = next((vote for vote in votes if vote["key"] == caller.key), None)
            if own is not None and own["decision"] == decision:
                return row, votes
            _check_open(row, own, run, step)
            await connection.execute(
                "insert into vote (run, step, key, decision, comment) values (%s, %s, %s, %s, %s)",
                (run, step, caller.key, decision, comment),
            )
            votes = await _votes(connection, run, step)
            approvals = sum(vote["decision"] == "APPROVE" for vote in votes)
            state = "REJECTED" if decision == "REJECT" else "APPROVED" if approvals >= row["quorum"] else "PENDING"
            await connection.execute("update approval set state = %s where run = %s and step = %s", (state, run, step))
            await events.add(connection, run, "waiting", step=step, detail=f"{decision.lower()} by {caller.key}")
            details = {"decision": decision, "state": state, "comment": digest(comment)}
            await self._audit.record("approval.vote", f"{run}/{step}", details=details, connection=connection)
            await signals.notify(connection)
        return {**row, "state": state}, votes

    async def _lock(self, connection: Connection, caller: Principal, run: str, step: str) -> Row:
        """Lock the run and return the approval. Every change of a run locks the run first."""
        cursor = await connection.execute(
            "select id from run where id = (select id from visible_runs(%s, %s, %s) where id = %s) for update",
            (*_visibility(caller), run),
        )
        if await cursor.fetchone() is None:
            raise NotFound(f"there is no run {run!r}")
        row = await _approval(connection, run, step)
        if row is None:
            raise NotFound(f"the step {step!r} of the run {run!r} does not wait for approval")
        if row["started_by"] == caller.key:
            raise Forbidden(f"the key {caller.key!r} started the run {run!r}; another key must decide")
        return row


def _check_open(row: Row, own: Row | None, run: str, step: str) -> None:
    if own is not None:
        raise Conflict(f"the key {own['key']!r} has decided {own['decision'].lower()}")
    if row["state"] != "PENDING" or row["run_state"] not in ("QUEUED", "RUNNING") or row["is_late"]:
        state = row["state"].lower() if row["state"] != "PENDING" else LATE if row["is_late"] else "the run has ended"
        raise Conflict(f"the approval {step!r} of the run {run!r} is closed: {state}")


async def _approval(connection: Connection, run: str, step: str) -> Row | None:
    cursor = await connection.execute(
        "select a.*, r.template_name, r.key as started_by, r.state as run_state,"
        " a.deadline <= clock_timestamp() as is_late"
        " from approval a join run r on r.id = a.run where a.run = %s and a.step = %s",
        (run, step),
    )
    return await cursor.fetchone()


async def _votes(connection: Connection, run: str, step: str) -> list[Row]:
    cursor = await connection.execute("select * from vote where run = %s and step = %s order by at", (run, step))
    return await cursor.fetchall()


def _reason(row: Row, votes: list[Row]) -> str:
    if row["state"] == "EXPIRED":
        return f"{LATE}: {len(votes)} of {row['quorum']} approvals"
    if row["state"] == "REJECTED":
        vote = next(vote for vote in votes if vote["decision"] == "REJECT")
        return f"rejected by {vote['key']}" + (f": {vote['comment']}" if vote["comment"] else "")
    return ""


def _listed(votes: list[Row]) -> list[Row]:
    return [
        {"key": v["key"], "decision": v["decision"], "comment": v["comment"], "at": v["at"].isoformat()} for v in votes
    ]


def _visibility(caller: Principal) -> tuple[str, str, list[str]]:
    return caller.org, caller.desk, sorted(caller.walls)
