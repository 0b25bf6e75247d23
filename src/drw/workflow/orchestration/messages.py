"""Conversion of database rows to contract messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.orchestration_pb2 import Run, Step


def run(row: dict[str, Any], steps: list[dict[str, Any]]) -> Run:
    """Return a run with its steps."""
    return Run(
        id=row["id"],
        template=row["template_name"],
        template_version=row["template_version"],
        state=row["state"],
        inputs=json_format.ParseDict(row["inputs"], Struct()),
        output=_value(row["output"]),
        error=row["error"],
        created_at=_time(row["created_at"]),
        ended_at=_time(row["ended_at"]),
        steps=[_step(each) for each in steps],
        desk=row["desk"],
        started_by=row["key"],
        walls=row["walls"],
    )


def plain(struct: Struct) -> dict[str, Any]:
    """Return a `Struct` as plain Python values."""
    value: dict[str, Any] = json_format.MessageToDict(struct)
    return value


def _step(row: dict[str, Any]) -> Step:
    return Step(
        id=row["id"],
        state=row["state"],
        attempts=row["attempts"],
        error=row["error"],
        started_at=_time(row["started_at"]),
        ended_at=_time(row["ended_at"]),
        output=_value(row["output"]),
    )


def _value(value: Any) -> Value | None:
    return None if value is None else json_format.ParseDict(value, Value())


def _time(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
