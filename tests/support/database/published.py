"""Events that services have published, as they wait in the outbox."""

from __future__ import annotations

import json

import psycopg

from support.json_types import JsonObject


def published(dsn: str, name: str) -> list[JsonObject]:
    """Return the events with a name such as `run.ended`, oldest first, in the JSON format of CloudEvents."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select event from bus.outbox order by id").fetchall()
    events: list[JsonObject] = [json.loads(bytes(row[0])) for row in rows]
    return [event for event in events if event["type"] == f"com.drw.ai.{name}.v1"]
