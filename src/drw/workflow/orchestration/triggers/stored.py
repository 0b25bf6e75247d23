"""Triggers and their firings as rows, and their conversion to messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from drw.api.workflow.v1.triggers_pb2 import Firing, Trigger, TriggerSpec
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration.messages import timestamp

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """A row of the table `trigger`."""

    id: str
    name: str
    owner: Principal
    """The key that created it."""
    spec: TriggerSpec
    event: str
    """The name of its type of events."""

    @classmethod
    def of(cls, row: Row) -> StoredTrigger:
        """Return the trigger of a row."""
        owner = Principal(row["org"], row["desk"], row["key"], frozenset(row["scopes"]), frozenset(row["walls"]))
        return cls(row["id"], row["name"], owner, TriggerSpec.FromString(row["spec"]), row["event"])


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that matched a trigger and has no run yet."""

    trigger: StoredTrigger
    event: str
    """The id of the event."""
    variables: dict[str, Any]
    depth: int
    """How many runs that an event started led to it, one by another."""

    @property
    def run(self) -> str:
        """The id of the run that it starts: always the same for a trigger and an event."""
        return f"run_{hashlib.sha256(self.request_id.encode()).hexdigest()[:32]}"

    @property
    def request_id(self) -> str:
        """The request id of that run. One of a caller never starts with a space, so that none can be in the way."""
        return f" {self.trigger.id}|{self.event}"


def trigger_message(row: Row) -> Trigger:
    """Return a trigger without its firings."""
    return Trigger(
        id=row["id"],
        name=row["name"],
        spec=TriggerSpec.FromString(row["spec"]),
        state=row["state"],
        detail=row["detail"],
        desk=row["desk"],
        created_by=row["key"],
        walls=row["walls"],
        created_at=timestamp(row["created_at"]),
        waiting=row["waiting"],
    )


def firing_message(row: Row) -> Firing:
    """Return what became of an event."""
    return Firing(
        event=row["event"],
        subject=row["subject"],
        at=timestamp(row["at"]),
        outcome=row["state"],
        run=row["run"],
        detail=row["detail"],
    )
