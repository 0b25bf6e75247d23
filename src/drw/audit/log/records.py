"""Conversion of audit records: hashed line, database row, response message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from drw.api.audit.v1.log_pb2 import Record
from drw.audit.tlog.merkle import leaf_hash
from drw.kernel.rpc.json_messages import json_message

TEXT_COLUMNS = ("service", "action", "org", "desk", "actor", "resource", "outcome", "trace_id")
"""Columns that repeat text fields of the entry."""
COLUMNS = ("index", "entry", "leaf_hash", "at", "walls", *TEXT_COLUMNS)
INVALID_WALLS = ["*"]
"""The walls of an entry with malformed walls: no caller is inside of them."""
UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


def row(index: int, entry: str) -> dict[str, Any]:
    """Return the row of an entry. A malformed entry gets a row too, so that it cannot stop the log."""
    fields = _fields(entry)
    texts = {column: _text(fields.get(column)) for column in TEXT_COLUMNS}
    return {
        "index": index,
        "entry": entry,
        "leaf_hash": leaf_hash(entry.encode()),
        "at": _time(fields.get("at")),
        "walls": _walls(fields.get("walls", [])),
        **texts,
    }


def message(row: Mapping[str, Any]) -> Record:
    """Return a row as a message."""
    details = _fields(row["entry"]).get("details")
    record = Record(
        index=row["index"],
        leaf_hash=row["leaf_hash"].hex(),
        details=json_message(details if isinstance(details, dict) else {}),
        walls=row["walls"],
        **{column: row[column] for column in TEXT_COLUMNS},
    )
    record.at.FromDatetime(row["at"])
    return record


def difference(stored: Mapping[str, Any], entry: bytes) -> str:
    """Return the first column that differs from the entry; empty: none."""
    expected = row(stored["index"], entry.decode(errors="replace"))
    return next((column for column in COLUMNS if stored[column] != expected[column]), "")


def _fields(entry: str) -> dict[str, Any]:
    try:
        value = orjson.loads(entry)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and "\x00" not in value else ""


def _walls(value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(wall, str) and wall and "\x00" not in wall for wall in value):
        return value
    return INVALID_WALLS


def _time(value: Any) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return UNKNOWN_TIME
    return at if at.tzinfo else at.replace(tzinfo=UTC)
