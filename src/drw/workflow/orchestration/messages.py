"""Conversion of database rows to contract messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.kernel.v1.kernel_pb2 import Json
from drw.api.workflow.v1.orchestration_pb2 import (
    HIGH,
    LOW,
    NORMAL,
    Failure,
    PayloadReference,
    Priority,
    Run,
    Signal,
    Step,
)
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.json_messages import json_message, json_value

PRIORITIES: dict[int, Priority] = {-1: LOW, 0: NORMAL, 1: HIGH}


def run(row: dict[str, Any], steps: list[dict[str, Any]]) -> Run:
    """Return a run with its steps."""
    return Run(
        id=row["id"],
        template=row["template_name"],
        template_version=row["template_version"],
        state="PAUSED" if row["is_paused"] and row["state"] in ("QUEUED", "RUNNING") else row["state"],
        inputs=json_message(row["inputs"]),
        output=optional_json(row["output"]),
        error=row["error"],
        created_at=timestamp(row["created_at"]),
        ended_at=timestamp(row["ended_at"]),
        steps=[_step(step) for step in steps],
        desk=row["desk"],
        started_by=row["key"],
        walls=row["walls"],
        restart_of=row["restart_of"],
        schedule=row["schedule"],
        scheduled_for=timestamp(row["scheduled_for"]),
        inputs_payload=_payload(row["inputs_payload"]),
        output_payload=_payload(row["output_payload"]),
        priority=PRIORITIES[row["priority"]],
        paused_by=row["paused_by"],
        paused_at=timestamp(row["paused_at"]),
        forked_from=row["forked_from"],
        from_step=row["from_step"],
        forks=row.get("forks", []),
        trigger=row["trigger"],
        event=row["event"],
        undo_reason=row["undo_reason"],
    )


def failure(row: dict[str, Any]) -> Failure:
    """Return a failed run with its cause."""
    return Failure(
        number=row["failure"],
        org=row["org"],
        desk=row["desk"],
        walls=row["walls"],
        run=row["id"],
        key=row["key"],
        template=row["template_name"],
        template_version=row["template_version"],
        inputs=json_message(row["inputs"]),
        step=row["step"],
        failure_class=row["failure_class"],
        reason=row["reason"],
        error=row["cause"],
        attempts=row["attempts"],
        failed_at=timestamp(row["ended_at"]),
        restart_of=row["restart_of"],
    )


def priority(value: Priority) -> int:
    """Return a priority as the journal has it: -1, 0 or 1."""
    return next((number for number, name in PRIORITIES.items() if name == value), 0)


def signal(row: dict[str, Any]) -> Signal:
    """Return a signal."""
    return Signal(
        run=row["run"],
        name=row["name"],
        signal_id=row["id"],
        payload=json_message(row["payload"]),
        sent_by=row["key"],
        received_at=timestamp(row["received_at"]),
        delivered_to=row["step"] or "",
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
        started_at=timestamp(row["started_at"]),
        ended_at=timestamp(row["ended_at"]),
        output=optional_json(row["output"]),
        failure_class=row["failure_class"] or None,
        output_payload=_payload(row["output_payload"]),
    )


def _payload(reference: dict[str, Any] | None) -> PayloadReference | None:
    return None if reference is None else PayloadReference(**reference)


def optional_json(value: Any) -> Json | None:
    """Return a JSON value as a message, or None."""
    return None if value is None else json_message(value)


def timestamp(at: datetime | None) -> Timestamp | None:
    """Return a time as a message."""
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message
