"""Schedules and back-fills as rows, and their conversion to messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drw.api.workflow.v1.schedules_pb2 import Backfill, Schedule, ScheduleSpec, Tick
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration.messages import timestamp
from drw.workflow.orchestration.schedules.occurrence import Occurrence

DEFAULT_CATCH_UP_SECONDS = 3600

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A row of the table `schedule`."""

    id: str
    name: str
    owner: Principal
    """The key that created it."""
    spec: ScheduleSpec
    state: str
    next: Occurrence | None
    waiting: Occurrence | None
    handled_at: datetime

    @classmethod
    def of(cls, row: Row) -> StoredSchedule:
        """Return the schedule of a row."""
        owner = Principal(row["org"], row["desk"], row["key"], frozenset(row["scopes"]), frozenset(row["walls"]))
        return cls(
            id=row["id"],
            name=row["name"],
            owner=owner,
            spec=ScheduleSpec.FromString(row["spec"]),
            state=row["state"],
            next=_occurrence(row["next_key"], row["next_at"], row["session"]),
            waiting=_occurrence(row["waiting_key"], row["waiting_at"], row["waiting_session"]),
            handled_at=row["handled_at"],
        )

    @property
    def catch_up_seconds(self) -> int:
        """How late an occurrence may start."""
        return self.spec.catch_up_seconds if self.spec.HasField("catch_up_seconds") else DEFAULT_CATCH_UP_SECONDS


def schedule_message(row: Row) -> Schedule:
    """Return a schedule without its preview, ticks and back-fills."""
    return Schedule(
        id=row["id"],
        name=row["name"],
        spec=ScheduleSpec.FromString(row["spec"]),
        state=row["state"],
        detail=row["detail"],
        desk=row["desk"],
        created_by=row["key"],
        walls=row["walls"],
        created_at=timestamp(row["created_at"]),
        next_at=timestamp(row["next_at"]) if row["state"] == "ACTIVE" else None,
    )


def tick_message(row: Row) -> Tick:
    """Return a handled occurrence."""
    return Tick(at=timestamp(row["at"]), outcome=row["outcome"], run=row["run"], detail=row["detail"])


def backfill_message(row: Row) -> Backfill:
    """Return a back-fill."""
    message = Backfill(
        id=row["id"],
        state=row["state"],
        occurrences=len(row["occurrences"]),
        handled=row["position"],
        existing=row["existing"],
        detail=row["detail"],
        created_by=row["created_by"],
        to=timestamp(row["to_at"]),
    )
    getattr(message, "from").FromDatetime(row["from_at"])  # a keyword of Python
    return message


def _occurrence(key: str | None, at: datetime | None, session: Any) -> Occurrence | None:
    return None if key is None or at is None else Occurrence(key, at, session)
