"""Conversion of database rows to contract messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.error_handling_pb2 import DeadLetter, DeadLetterGroup, Redrive, RedriveGroup
from drw.kernel.rpc.json_messages import json_message
from drw.workflow.error_handling.letters import Row


def letter(row: Row) -> DeadLetter:
    """Return a letter, with its inputs if the row has them."""
    return DeadLetter(
        id=row["id"],
        state=row["state"],
        run=row["run"],
        template=row["template"],
        template_version=row["template_version"],
        step=row["step"],
        failure_class=row["failure_class"],
        reason=row["reason"],
        error=row["error"],
        attempts=row["attempts"],
        group=row["group_id"],
        failed_at=_timestamp(row["failed_at"]),
        inputs=json_message(row["inputs"]) if "inputs" in row else None,
        started_by=row["key"],
        walls=row["walls"],
        restart_of=row["restart_of"],
        redrive=row["redrive"],
        redriven_run=row["redriven_run"],
        redrive_error=row["redrive_error"],
    )


def group(row: Row) -> DeadLetterGroup:
    """Return a group of open letters."""
    return DeadLetterGroup(
        group=row["group_id"],
        dead_letters=row["dead_letters"],
        template=row["template"],
        node=row["node"],
        failure_class=row["failure_class"],
        reason=row["reason"],
        error=row["error"],
        first_failed_at=_timestamp(row["first_failed_at"]),
        last_failed_at=_timestamp(row["last_failed_at"]),
    )


def redrive(row: Row, groups: list[Row], counts: dict[str, int]) -> Redrive:
    """Return a redrive with its groups and the number of its letters by state."""
    return Redrive(
        id=row["id"],
        state=row["state"],
        dead_letters=sum(counts.values()),
        waiting=counts.get("WAITING", 0),
        started=counts.get("STARTED", 0),
        failed=counts.get("FAILED", 0),
        put_back=counts.get("PUT_BACK", 0),
        groups=[
            RedriveGroup(
                group=group["group_id"],
                state=group["state"],
                dead_letters=group["dead_letters"],
                probe_run=group["probe_run"],
                error=group["error"],
            )
            for group in groups
        ],
        runs_per_minute=row["runs_per_minute"],
        template_version=row["template_version"],
        from_step=row["from_step"],
        edited_inputs=sorted(row["inputs"]),
        requested_by=row["key"],
        created_at=_timestamp(row["created_at"]),
        ended_at=_timestamp(row["ended_at"]) if row["ended_at"] else None,
    )


def dry_run(letters_by_group: dict[str, int]) -> Redrive:
    """Return the redrive that a request would start."""
    groups = [RedriveGroup(group=name, dead_letters=letters) for name, letters in letters_by_group.items()]
    return Redrive(state=Redrive.DRY_RUN, dead_letters=sum(letters_by_group.values()), groups=groups)


def _timestamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
