"""The activities that template nodes can call, by name, with the scopes that each requires."""

from __future__ import annotations

from collections.abc import Iterable

from drw.workflow.orchestration.activities import (
    digest,
    event,
    http,
    index,
    model,
    python_function,
    report,
    retrieve,
    summarise,
    write,
)
from drw.workflow.orchestration.activities.activity import Activity, Services, StepContext

__all__ = ["ACTIVITIES", "Activity", "Services", "StepContext", "scopes"]

ACTIVITIES: dict[str, Activity] = {
    "documents.index": index.ACTIVITY,
    "serving.summarise": summarise.ACTIVITY,
    "documents.digest": digest.ACTIVITY,
    "documents.report": report.ACTIVITY,
    "documents.write": write.ACTIVITY,
    "event": event.ACTIVITY,
    "http": http.ACTIVITY,
    "ingest": index.ACTIVITY,
    "model": model.ACTIVITY,
    "python": python_function.ACTIVITY,
    "retrieve": retrieve.ACTIVITY,
}


def scopes(names: Iterable[str]) -> list[str]:
    """Return the scopes that a run with these activities requires."""
    return sorted({scope for name in names for scope in ACTIVITIES[name].scopes})
