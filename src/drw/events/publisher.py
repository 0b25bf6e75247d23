"""Transactional outbox: writes events in the transaction of the change; the relay publishes them later."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import NAMESPACE_OID, uuid4, uuid5

from google.protobuf.message import Message

from drw.events.event import MAX_BYTES, Event
from drw.events.schemas import event_type_of
from drw.kernel.errors import ConfigError, InvalidRequest
from drw.kernel.observability import telemetry
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.storage.database import Connection, Database
from drw.kernel.tenancy import Owner

SCHEMA = "bus"
PACKAGE = "drw.events"
CHANNEL = "events_outbox"
INSERT = """
with locked as materialized (select pg_advisory_xact_lock(hashtextextended(%s, 7771)))
insert into bus.outbox (event_id, event) select %s, %s from locked
"""
"""Locks the key until the transaction ends, so that ids of one key have the order of their commits."""


class Publisher:
    """Publishes the events of one service."""

    def __init__(self, service: str) -> None:
        self._service = service

    async def publish(
        self,
        connection: Connection,
        data: Message,
        subject: str,
        owner: Owner,
        *,
        walls: Iterable[str] = (),
        key: str = "",
        depth: int | None = None,
        event_id: str = "",
    ) -> None:
        """Publish an event when the transaction of the connection commits.

        Args:
            connection: the transaction of the change. It holds a lock on the key until it ends.
            data: a message of drw.api.events.v1.
            subject: the resource, as in `run/run_1`.
            owner: the tenant. Callers of other tenants do not see the event.
            walls: the walls of the resource.
            key: events with the same key are delivered in order; default: the subject.
            depth: how many runs that an event started led to this one; default: that of the request.
            event_id: consumers apply events with the same id once; default: a new id.

        Raises:
            ConfigError: the catalog names another publisher of this type.
            InvalidRequest: the event is larger than `MAX_BYTES`.
        """
        event_type = event_type_of(data)
        if event_type.publisher != self._service:
            raise ConfigError(f"{self._service!r} publishes {event_type.name!r}: the catalog says otherwise")
        principal = context.caller_or_none()
        event = Event(
            id=event_id or uuid4().hex,
            type=event_type.type,
            source=f"//drw/{self._service}",
            subject=subject,
            time=datetime.now(UTC),
            key="/".join((owner.org, owner.desk, key or subject)),
            schema=event_type.schema,
            data=to_json(data),
            org=owner.org,
            desk=owner.desk,
            walls=tuple(sorted(walls)),
            actor=principal.key if principal else "platform",
            trace=telemetry.outgoing_headers().get("traceparent", ""),
            depth=context.event_depth() if depth is None else depth,
        )
        text = event.to_json()
        if len(text) > MAX_BYTES:
            raise InvalidRequest(f"an event of {len(text)} bytes; at most {MAX_BYTES}")
        await connection.execute(INSERT, (event.key, event.id, text))
        await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


def derived_id(owner: Owner, name: str, key: str) -> str:
    """Return the same event id for the same tenant, name and idempotency key."""
    return uuid5(NAMESPACE_OID, "\0".join((owner.org, owner.desk, name, key))).hex


async def create_tables(database: Database) -> None:
    """Create the tables of the outbox and the inbox, in their own schema."""
    await database.migrate(SCHEMA, PACKAGE)
