"""Audit writer: writes records in the caller's transaction, or in a group commit before the response."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg

from drw.kernel.errors import InvalidRequest, Unavailable
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.storage.database import Connection, Database
from drw.kernel.storage.group_commit import GroupCommit

MAX_RECORD_BYTES = 60_000
# Binary: the text form of an array escapes every quote of the JSON.
INSERT = "insert into audit.inbox (record) select unnest(%b::text[])"
INSERT_EVENTS = "insert into audit.outbox (topic, body) select * from unnest(%b::text[], %s::jsonb[])"
INSERT_WITH_EVENTS = f"with recorded as ({INSERT}) {INSERT_EVENTS}"


class Line(str):
    """A serialised audit record, and an event that is committed with it for the consumer of a topic of the outbox."""

    topic: str
    event: str

    @classmethod
    def with_event(cls, record: str, topic: str, event: str) -> Line:
        """Return a record with an event; `event` is JSON."""
        line = cls(record)
        line.topic, line.event = topic, event
        return line


class AuditWriter:
    """Writes the records of one service.

    A record contains hashes and ids, never prompts, answers or secrets. It contains the walls of its caller.
    """

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        self._batches = GroupCommit(self._write)

    async def record(
        self,
        action: str,
        resource: str,
        *,
        outcome: str = "ok",
        details: Mapping[str, Any] | None = None,
        connection: Connection | None = None,
    ) -> None:
        """Write one record, and return when it is committed.

        With a connection, the record is part of that transaction. Without one, it is committed together with other
        waiting records.

        Raises:
            Unavailable: the database does not respond; the caller must not acknowledge anything.
        """
        line = self.line(action, resource, outcome, details or {})
        if connection is not None:
            await self.write([line], connection)
        else:
            await self.put(line)

    async def put(self, line: str) -> None:
        """Write a record made by `line`, in one commit with all other waiting records.

        Raises:
            Unavailable: the record cannot be written; the caller must not acknowledge anything.
        """
        try:
            await self._batches.put(line)
        except psycopg.Error as error:
            message = "the audit record cannot be written, so there is no answer"
            raise Unavailable(message, part="postgres") from error

    def line(self, action: str, resource: str, outcome: str, details: Mapping[str, Any]) -> str:
        """Serialise a record, to write it together with other data: see `INSERT`."""
        principal = context.caller_or_none()
        record = {
            "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "service": self._service,
            "action": action,
            "org": principal.org if principal else "",
            "desk": principal.desk if principal else "",
            "actor": principal.key if principal else "platform",
            "resource": resource,
            "outcome": outcome,
            "trace_id": telemetry.current_trace_id(),
            "details": dict(details),
        }
        if principal and principal.walls:  # most keys have none
            record["walls"] = sorted(principal.walls)
        line = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        if len(line) > MAX_RECORD_BYTES:
            raise InvalidRequest(f"an audit record of {len(line)} bytes; at most {MAX_RECORD_BYTES}")
        return line.decode()

    async def write(self, lines: Sequence[str], connection: Connection) -> None:
        """Write records made by `line`, with their events, as part of a transaction."""
        await insert(connection, lines)

    async def _write(self, lines: Sequence[str]) -> None:
        if events := events_of(lines):
            await self._database.run(INSERT_WITH_EVENTS, list(lines), *events)
        else:
            await self._database.run(INSERT, list(lines))


async def insert(connection: Connection, lines: Sequence[str]) -> None:
    """Write audit lines, with their events, as part of a transaction."""
    await connection.execute(INSERT, (list(lines),))
    if events := events_of(lines):
        await connection.execute(INSERT_EVENTS, events)


def events_of(lines: Iterable[str]) -> tuple[list[str], list[str]] | None:
    """Return the topics and events of audit lines, the parameters of `INSERT_EVENTS`; None if there are none."""
    with_events = [line for line in lines if isinstance(line, Line)]
    if not with_events:
        return None
    return [line.topic for line in with_events], [line.event for line in with_events]


def digest(text: str | bytes) -> str:
    """Return the SHA-256 of a text in hex, for records that must not contain the text."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
