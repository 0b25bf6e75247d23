"""Conversion of database rows to contract messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.kernel.v1.kernel_pb2 import Json
from drw.api.workflow.v1.orchestration_pb2 import Approval, Run, Step, Vote
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_messages import json_message, json_value


def run(row: dict[str, Any], steps: list[dict[str, Any]]) -> Run:
    """Return a run with its steps."""
    return Run(
        id=row["id"],
        template=row["template_name"],
        template_version=row["template_version"],
        state=row["state"],
        inputs=json_message(row["inputs"]),
        output=_value(row["output"]),
        error=row["error"],
        created_at=_timestamp(row["created_at"]),
        ended_at=_timestamp(row["ended_at"]),
        steps=[_step(step) for step in steps],
        desk=row["desk"],
        started_by=row["key"],
        walls=row["walls"],
    )


def approval(row: dict[str, Any], votes: list[dict[str, Any]]) -> Approval:
    """Return an approval with its votes."""
    return Approval(
        run=row["run"],
        step=row["step"],
        template=row["template_name"],
        title=row["title"],
        details=_value(row["details"]),
        quorum=row["quorum"],
        state=row["state"],
        deadline=_timestamp(row["deadline"]),
        votes=[
            Vote(key=vote["key"], decision=vote["decision"], comment=vote["comment"], at=_timestamp(vote["at"]))
            for vote in votes
        ],
        started_by=row["started_by"],
    )


def inputs(message: Json) -> dict[str, Any]:
    """Return the inputs of a request for a run.

    Raises:
        InvalidRequest: the inputs are not a JSON object.
    """
    value = json_value(message)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"inputs is {message.text[:80]}; it must be an object of inputs by name", param="inputs")
    return value


def _step(row: dict[str, Any]) -> Step:
    return Step(
        id=row["id"],
        state=row["state"],
        attempts=row["attempts"],
        error=row["error"],
        started_at=_timestamp(row["started_at"]),
        ended_at=_timestamp(row["ended_at"]),
        output=_value(row["output"]),
    )


def _value(value: Any) -> Json | None:
    return None if value is None else json_message(value)


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
