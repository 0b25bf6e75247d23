"""Runs for API callers: start, get, list, cancel. Every query is filtered by org, desk and walls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from drw.api.workflow.v1.orchestration_pb2 import ListRunsRequest
from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events, run_search
from drw.workflow.orchestration.compensation import steps as undo
from drw.workflow.orchestration.execution import dependency_graph
from drw.workflow.orchestration.metrics import ENDED_RUNS
from drw.workflow.orchestration.payloads.payload_store import PayloadStore
from drw.workflow.orchestration.payloads.run_values import StoredInputs, inline_inputs, store_inputs

CHANNEL = "orchestration_run"
"""Notification channel for started and cancelled runs."""

Row = dict[str, Any]
PLATFORM_DEFAULT = -1
"""Retention of a run whose template sets none, in the column `retention_days`."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A request to start a run."""

    request_id: str
    template: str
    inputs: dict[str, Any]
    priority: int = field(default=0, kw_only=True)
    """-1: low, 0: normal, 1: high."""

    @property
    def fingerprint(self) -> str:
        """Hash of the fields that must be equal when the request is repeated."""
        fields = [self.template, self.inputs, *([self.priority] if self.priority else [])]
        return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """Details of the request for the audit log."""
        return {"inputs": self.fingerprint}


@dataclass(frozen=True, slots=True)
class ParentRun:
    """The run whose step starts another run."""

    id: str
    depth: int
    """The number of runs above it."""


@dataclass(frozen=True, slots=True)
class KeptSteps:
    """The steps of an ended run whose outputs a new run keeps."""

    run: str
    steps: list[str]
    from_step: str = ""
    is_fork: bool = False
    """The new run forks or retries the old one. Otherwise it is the redrive of a dead letter."""


KEEP_STEPS = """
update step set state = 'SUCCEEDED', attempts = old_step.attempts, output = old_step.output,
       output_payload = old_step.output_payload,
       started_at = old_step.started_at, ended_at = old_step.ended_at
from step old_step
where step.run = %(run)s and step.id = any(%(steps)s)
  and old_step.run = %(old_run)s and old_step.id = step.id and old_step.state = 'SUCCEEDED'
"""


class Runs:
    """The tables `run` and `step`, as used by API callers."""

    def __init__(self, database: Database, audit: AuditWriter, max_open: int, payloads: PayloadStore) -> None:
        self._database = database
        self._audit = audit
        self._max_open = max_open
        self.payloads = payloads

    async def find_by_request_id(self, caller: Principal, request: RunRequest) -> str | None:
        """Return the id of the run that an earlier, equal request started, or None.

        Raises:
            Conflict: the request id was used with other contents.
        """
        row = await self._database.one(
            "select id, fingerprint from run where org = %s and desk = %s and request_id = %s and walls = %s",
            caller.org,
            caller.desk,
            request.request_id,
            sorted(caller.walls),
        )
        if row is None:
            return None
        if row["fingerprint"] != request.fingerprint:
            raise Conflict(f"the request id {request.request_id!r} was used for another run, {row['id']!r}")
        return str(row["id"])

    async def start(
        self,
        caller: Principal,
        request: RunRequest,
        template: Template,
        inputs: dict[str, Any],
        *,
        kept: KeptSteps | None = None,
        parent: ParentRun | None = None,
    ) -> str:
        """Queue a run for the leader; return its id. Child runs do not count as the desk's unfinished runs.

        Raises:
            Conflict: the request id was used with other contents.
            RateLimited: the desk has too many unfinished runs.
            TooLarge: the desk has too many bytes of payloads.
        """
        run = f"run_{uuid4().hex}"
        stored = await store_inputs(self.payloads, caller, run, inputs)
        async with self._database.transaction() as connection:
            if parent is None:
                await self.check_open_runs(connection, caller)
            if await self.insert(
                connection, caller, run, request, template, inputs, kept=kept, parent=parent, stored=stored
            ):
                return run
        existing = await self.find_by_request_id(caller, request)
        assert existing is not None
        return existing

    async def insert(
        self,
        connection: Connection,
        caller: Principal,
        run: str,
        request: RunRequest,
        template: Template,
        inputs: dict[str, Any],
        origin: Mapping[str, str] | None = None,
        *,
        kept: KeptSteps | None = None,
        parent: ParentRun | None = None,
        stored: StoredInputs | None = None,
    ) -> bool:
        """Queue a run for the leader as part of a transaction; return False if its request id has a run already.

        The audit record contains `origin`. Inputs above 64 KiB are `stored` before.
        """
        trace = telemetry.outgoing_headers().get("traceparent", "")
        stored = stored or inline_inputs(inputs)
        if parent:  # a pause of the parent locks it before its children
            await connection.execute("select from run where id = %s for share", (parent.id,))
        cursor = await connection.execute(
            "insert into run (id, org, desk, key, scopes, walls, request_id, fingerprint, template, template_name,"
            " template_version, inputs, inputs_payload, trace, restart_of, forked_from, from_step, priority, parent,"
            " depth, retention_days, starters)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
            " array(select %s union select unnest(starters) from run where id = any(%s)))"
            " on conflict (org, desk, request_id, walls) do nothing returning id",
            (
                *(run, caller.org, caller.desk, caller.key, sorted(caller.scopes), sorted(caller.walls)),
                *(request.request_id, request.fingerprint, template.SerializeToString()),
                *(template.name, template.version, stored.inline, stored.reference, trace),
                *(kept.run if kept and not kept.is_fork else "", kept.run if kept and kept.is_fork else ""),
                *(kept.from_step if kept else "", request.priority),
                *(parent.id if parent else None, parent.depth + 1 if parent else 0),
                template.retention_days if template.HasField("retention_days") else PLATFORM_DEFAULT,
                *(caller.key, [each for each in (kept and kept.run, parent and parent.id) if each]),
            ),
        )
        if await cursor.fetchone() is None:
            return False
        await self._insert_steps(connection, run, template, inputs)
        if depth := context.event_depth():
            await connection.execute("update run set event_depth = %s where id = %s", (depth, run))
        if kept:
            await connection.execute(KEEP_STEPS, {"run": run, "old_run": kept.run, "steps": kept.steps})
            await self.payloads.keep(connection, caller, kept.run, run)
        await events.add(connection, run, "queued")
        details = {"template": template.name, "version": template.version, **request.details}
        await self._audit.record("run.start", run, details=details | dict(origin or {}), connection=connection)
        await connection.execute("select pg_notify(%s, '')", (CHANNEL,))
        return True

    async def check_visible(self, caller: Principal, run: str) -> None:
        """Raise `NotFound` if the desk has no such run."""
        if not await self._database.one(
            "select id from visible_runs(%s, %s, %s) where id = %s", *_visibility(caller), run
        ):
            raise not_found(run)

    async def get(self, caller: Principal, run: str, *, steps: bool = True) -> tuple[Row, list[Row]]:
        """Return a run and its steps, unless they are not needed.

        Raises:
            NotFound: the desk has no such run.
        """
        row = await self._database.one(
            "select *, run_is_paused(id) as is_paused, array(select fork.id from visible_runs(%s, %s, %s) fork"
            " where (fork.forked_from = run.id and fork.forked_from <> '')"
            " or (fork.restart_of = run.id and fork.restart_of <> '') order by fork.created_at desc limit 100) as forks"
            " from visible_runs(%s, %s, %s) run where id = %s",
            *(*_visibility(caller), *_visibility(caller), run),
        )
        if row is None:
            raise not_found(run)
        if not steps:
            return row, []
        return row, await self._database.all("select * from step where run = %s order by position", run)

    async def page(self, caller: Principal, request: ListRunsRequest, size: int) -> list[Row]:
        """Return the desk's runs that match the request, after its page token, newest first.

        Raises:
            InvalidRequest: the page token is not the id of a run of the desk.
        """
        after = request.page_token
        if after and not await self._database.one(
            "select id from visible_runs(%s, %s, %s) where id = %s", *_visibility(caller), after
        ):
            raise InvalidRequest("page_token is not one that an earlier response returned", param="page_token")
        query, parameters = run_search.query(caller, request, size)
        async with self._database.transaction() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def cancel(self, caller: Principal, run: str) -> None:
        """Cancel an unfinished run.

        Raises:
            NotFound: the desk has no such run.
        """
        async with self._database.transaction() as connection:
            if (await lock_visible(connection, caller, run))["state"] not in ("QUEUED", "RUNNING"):
                return
            ended = await self.end_cancelled(connection, run, f"by {caller.key}")
        if ended:
            ENDED_RUNS.labels("cancelled").inc()

    async def end_cancelled(self, connection: Connection, run: str, reason: str) -> bool:
        """Cancel a locked, unfinished run as part of a transaction; return False if it undoes its steps first."""
        return await cancel_locked(connection, self._audit, run, reason, f"cancelled {reason}")

    async def check_open_runs(self, connection: Connection, caller: Principal) -> None:
        """Check that the desk can have another run.

        Raises:
            RateLimited: it has too many unfinished runs.
        """
        cursor = await connection.execute(
            "select count(*) as open from visible_runs(%s, %s, %s) where state in ('QUEUED', 'RUNNING')"
            " and parent is null",
            _visibility(caller),
        )
        row = await cursor.fetchone()
        if row and row["open"] >= self._max_open:
            raise RateLimited(
                f"the desk {caller.desk!r} has {row['open']} runs that have not ended; at most {self._max_open}",
                retry_after="10",
            )

    async def _insert_steps(self, connection: Connection, run: str, template: Template, inputs: dict[str, Any]) -> None:
        ids = [step.id for step in dependency_graph.build_steps(template.nodes, inputs)]
        await connection.execute(
            "insert into step (run, id, position) select %s, id, position from unnest(%s::text[])"
            " with ordinality as planned (id, position)",
            (run, ids),
        )


async def lock_visible(connection: Connection, caller: Principal, run: str) -> Row:
    """Lock a run that the caller sees until the transaction ends, and return it.

    Raises:
        NotFound: the desk has no such run.
    """
    cursor = await connection.execute(
        "select * from run where id = (select id from visible_runs(%s, %s, %s) where id = %s) for update",
        (*_visibility(caller), run),
    )
    if (row := await cursor.fetchone()) is None:
        raise not_found(run)
    return row


async def cancel_locked(connection: Connection, audit: AuditWriter, run: str, reason: str, error: str) -> bool:
    """Cancel a locked, unfinished run and its descendants; return False if it undoes its steps first."""
    cursor = await connection.execute("select template, undo_state from run where id = %s", (run,))
    row = await cursor.fetchone()
    if row is None or row["undo_state"]:
        return False
    if await undo.begin(connection, run, Template.FromString(row["template"]), "CANCELLED", error):
        # The process that executes it writes nothing more for its steps. With the new fence, it undoes them.
        await connection.execute("update run set fence = fence + 1, paused_at = null where id = %s", (run,))
        action, outcome = "run.undo", "ok"
    else:
        await events.add(connection, run, "cancelled", detail=reason)
        await connection.execute(
            "update run set state = 'CANCELLED', error = %s, ended_at = clock_timestamp() where id = %s", (error, run)
        )
        action, outcome = "run.end", "cancelled"
    await cancel_open_steps(connection, run)
    await cancel_children(connection, audit, run)
    await audit.record(action, run, outcome=outcome, connection=connection)
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))
    return action == "run.end"


async def cancel_open_steps(connection: Connection, run: str) -> None:
    """Cancel the unfinished steps of an ended run."""
    await connection.execute(
        "update step set state = 'CANCELLED', ended_at = clock_timestamp()"
        " where run = %s and state in ('QUEUED', 'RUNNING', 'RETRYING')",
        (run,),
    )


async def cancel_children(connection: Connection, audit: AuditWriter, run: str) -> None:
    """Cancel the unfinished descendants of an ended run. Parents are locked before their children."""
    cursor = await connection.execute(
        "select id from run where parent = %s and state in ('QUEUED', 'RUNNING') order by id for update", (run,)
    )
    for row in await cursor.fetchall():
        reason = f"its parent {run} has ended"
        await cancel_locked(connection, audit, row["id"], reason, reason)


def _visibility(caller: Principal) -> tuple[str, str, list[str]]:
    return caller.org, caller.desk, sorted(caller.walls)


def not_found(run: str) -> NotFound:
    """Return the error for a run that the caller does not see."""
    return NotFound(f"there is no run {run!r}")
