"""Parked events: those that a consumer gave up on, for the callers of their tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import orjson

from drw.api.bus.v1.events_pb2 import ListParkedEventsRequest, ParkedEvent, RedriveParkedEventsRequest
from drw.catalog import EVENT_TYPES
from drw.events.consumer import REDRIVE_CHANNEL
from drw.events.event import Event, MalformedEvent
from drw.kernel import tenancy
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from drw.kernel.tenancy import PLATFORM_ADMIN, Owner

MAX_REDRIVEN = 1_000
"""Maximum events of one redrive."""

VISIBLE: LiteralString = """
select * from bus.parked
where (%(every_org)s or (
        not malformed and org = %(org)s and (%(every_desk)s or desk = %(desk)s)
        and events.inside(walls, %(walls)s) and type = any(%(types)s::text[])))
    and (%(consumer)s = '' or consumer = %(consumer)s) and (%(type)s = '' or type = %(type)s)
    and (%(before)s = 0 or id < %(before)s) and (%(ids)s::bigint[] is null or id = any(%(ids)s))
order by id desc limit %(limit)s
"""
RELEASE = """
update bus.parked set redrive_at = clock_timestamp() where id = any(%s) and not malformed
returning id, event_id, consumer
"""


class ParkedEvents:
    """The table `bus.parked`. A caller sees and redrives the events of its desk, and of its org as `org:admin`."""

    def __init__(self, database: Database, audit: AuditWriter) -> None:
        self._database = database
        self._audit = audit

    async def page(self, principal: Principal, request: ListParkedEventsRequest, size: int) -> list[dict[str, Any]]:
        """Return parked events, newest first, after the page token of the request."""
        if request.page_token and not request.page_token.isdecimal():
            raise InvalidRequest("page_token is not one that an earlier response returned", param="page_token")
        parameters = _visibility(principal, request.consumer, request.type)
        parameters |= {"before": int(request.page_token or 0), "ids": None, "limit": size}
        async with self._database.transaction() as connection:
            return await (await connection.execute(VISIBLE, parameters)).fetchall()

    async def release(self, principal: Principal, request: RedriveParkedEventsRequest) -> int:
        """Let the consumers of parked events apply them again; return how many. Nothing is released on an error.

        Raises:
            InvalidRequest: the request has neither ids nor `all`.
            NotFound: the caller cannot see one of the events, or it is malformed.
        """
        ids = sorted({int(text) for text in request.parked})
        if bool(ids) == request.all:
            raise InvalidRequest("give either ids of parked events or all", param="parked")
        parameters = _visibility(principal, request.consumer, request.type)
        parameters |= {"before": 0, "ids": ids or None, "limit": MAX_REDRIVEN}
        async with self._database.transaction() as connection:
            visible = await (await connection.execute(VISIBLE, parameters)).fetchall()
            cursor = await connection.execute(RELEASE, ([row["id"] for row in visible],))
            rows = await cursor.fetchall()
            if missing := sorted(set(ids) - {row["id"] for row in rows}):
                raise NotFound(f"there is no parked event {str(missing[0])!r} that can be applied again")
            for row in rows:
                details = {"event": row["event_id"], "consumer": row["consumer"]}
                await self._audit.record("event.redrive", str(row["id"]), details=details, connection=connection)
            await connection.execute("select pg_notify(%s, '')", (REDRIVE_CHANNEL,))
        return len(rows)


def message(row: dict[str, Any]) -> ParkedEvent:
    """Return a parked event; a malformed message has neither a subject nor data."""
    texts = {name: row[name] for name in ("consumer", "type", "org", "desk", "walls", "error", "malformed")}
    parked = ParkedEvent(id=str(row["id"]), event=row["event_id"], redrives=row["redrives"], **texts)
    parked.redriving = row["redrive_at"] is not None
    parked.parked_at.FromDatetime(row["at"])
    try:
        event = Event.from_json(row["event"])
    except MalformedEvent:
        return parked
    parked.subject = event.subject
    parked.data.CopyFrom(json_message(orjson.loads(orjson.dumps(event.data))))
    return parked


def _visibility(principal: Principal, consumer: str, type_: str) -> dict[str, Any]:
    """Return the parameters of `VISIBLE`. Only `platform:admin` sees events of the platform, and malformed messages."""
    return {
        "every_org": PLATFORM_ADMIN in principal.scopes,
        "org": principal.org,
        "every_desk": tenancy.may_change(Owner(principal.org), principal),
        "desk": principal.desk,
        "walls": sorted(principal.walls),
        "types": _readable_types(principal),
        "consumer": consumer,
        "type": type_,
    }


def _readable_types(principal: Principal) -> Sequence[str]:
    return [event.type for event in EVENT_TYPES if event.scope in principal.scopes]
