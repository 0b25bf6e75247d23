"""Signals: messages to runs, stored before they are acknowledged and received by one step each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from drw.api.workflow.v1.run_control_pb2 import SendSignalRequest
from drw.api.workflow.v1.templates_pb2 import Template
from drw.kernel.errors import NEVER, Conflict, InvalidRequest, RateLimited, TooLarge
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.storage.audit import AuditWriter, digest
from drw.kernel.storage.database import Connection, Database
from drw.workflow.orchestration import events
from drw.workflow.orchestration.execution import dependency_graph
from drw.workflow.orchestration.execution.journal import signals
from drw.workflow.orchestration.execution.journal.run_journal import Run
from drw.workflow.orchestration.runs import Row, lock_visible

MAX_PAYLOAD_BYTES = 64 * 1024

RECEIVE = """
update run_signal set step = %(step)s where number = (
    select number from run_signal
    where run = %(run)s and name = %(name)s and step is null and received_at <= %(deadline)s order by number limit 1
) returning *
"""


class RunSignals:
    """The table `run_signal`."""

    def __init__(self, database: Database, audit: AuditWriter, max_signals: int) -> None:
        self._database = database
        self._audit = audit
        self._max_signals = max_signals

    async def send(self, caller: Principal, request: SendSignalRequest) -> Row:
        """Store a signal; return it. The same signal again changes nothing.

        Raises:
            NotFound: the desk has no such run.
            InvalidRequest: no step waits for the name, or the payload does not match its schema.
            Conflict: the run has ended, or its id was used for another signal.
            RateLimited: the run has too many signals.
        """
        payload = json_value(request.payload)
        payload_json = orjson.dumps(payload)
        if len(payload_json) > MAX_PAYLOAD_BYTES:
            raise TooLarge(f"payload has {len(payload_json)} bytes; at most {MAX_PAYLOAD_BYTES}", param="payload")
        fingerprint = digest(orjson.dumps([request.signal, payload], option=orjson.OPT_SORT_KEYS))
        async with self._database.transaction() as connection:
            run = await lock_visible(connection, caller, request.run)
            if (existing := await _existing(connection, request, fingerprint)) is not None:
                return existing
            if run["state"] not in ("QUEUED", "RUNNING"):
                raise Conflict(f"the run {request.run!r} is {run['state'].lower()}: it receives no signals")
            _check_payload(Template.FromString(run["template"]), request.signal, payload)
            await self._check_number(connection, request.run)
            cursor = await connection.execute(
                "insert into run_signal (run, id, name, payload, fingerprint, key) values (%s, %s, %s, %s, %s, %s)"
                " returning *",
                (request.run, request.signal_id, request.signal, payload_json.decode(), fingerprint, caller.key),
            )
            row = await cursor.fetchone()
            assert row is not None
            await events.add(connection, request.run, "waiting", detail=f"signal {request.signal} from {caller.key}")
            details = {"name": request.signal, "signal_id": request.signal_id, "payload": fingerprint}
            await self._audit.record("run.signal", request.run, details=details, connection=connection)
            await signals.notify(connection)
        return row

    async def receive(self, run: Run, step: str, name: str, deadline: datetime) -> dict[str, Any] | None:
        """Return the output of a step that waits for a signal, once it has one or the deadline has passed.

        A step that has received a signal receives the same one again after a crash.

        Raises:
            LeadershipLost: this process no longer owns the run.
        """
        names = {"run": run.id, "step": step, "name": name, "deadline": deadline}
        async with self._database.transaction() as connection:
            await events.lock_run(connection, run.id, run.fence)
            cursor = await connection.execute("select * from run_signal where run = %(run)s and step = %(step)s", names)
            row = await cursor.fetchone() or await (await connection.execute(RECEIVE, names)).fetchone()
            if row is not None:
                return _output(row)
            cursor = await connection.execute("select %(deadline)s <= clock_timestamp() as is_late", names)
            is_late = (await cursor.fetchone() or {})["is_late"]
        return {"received": False, "payload": None, "sent_by": "", "signal_id": ""} if is_late else None

    async def _check_number(self, connection: Connection, run: str) -> None:
        cursor = await connection.execute("select count(*) as signals from run_signal where run = %s", (run,))
        row = await cursor.fetchone()
        if row and row["signals"] >= self._max_signals:
            raise RateLimited(f"the run {run!r} has {row['signals']} signals, the maximum", retry_after=NEVER)


async def _existing(connection: Connection, request: SendSignalRequest, fingerprint: str) -> Row | None:
    cursor = await connection.execute(
        "select * from run_signal where run = %s and id = %s", (request.run, request.signal_id)
    )
    row = await cursor.fetchone()
    if row is not None and row["fingerprint"] != fingerprint:
        raise Conflict(f"the signal id {request.signal_id!r} was used for another signal, {row['name']!r}")
    return row


def _check_payload(template: Template, name: str, payload: Any) -> None:
    schemas = dict(_declared(template))
    if name not in schemas:
        names = ", ".join(sorted(schemas)) or "none"
        raise InvalidRequest(
            f"no node of the template {template.name!r} waits for the signal {name!r}; there are: {names}",
            param="signal",
        )
    if (error := next(_validator(json.dumps(schemas[name])).iter_errors(payload), None)) is not None:
        place = ".".join(map(str, error.instance_path)) or "payload"
        rule = "/".join(map(str, error.schema_path))
        raise InvalidRequest(
            f"the payload does not match the schema of the signal {name!r}: {place} breaks the rule {rule!r}",
            param="payload",
        )


def _declared(template: Template) -> Iterator[tuple[str, Any]]:
    """Yield the names of signals with the schemas of their payloads. All nodes of a name have the same schema."""
    for node in dependency_graph.all_nodes(template.nodes):
        if node.uses == "wait" and "signal" in (arguments := orjson.loads(node.with_json or "{}")):
            yield arguments["signal"], arguments.get("schema", {})


@lru_cache(maxsize=200)
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(orjson.loads(schema))


def _output(row: Row) -> dict[str, Any]:
    return {"received": True, "payload": row["payload"], "sent_by": row["key"], "signal_id": row["id"]}
