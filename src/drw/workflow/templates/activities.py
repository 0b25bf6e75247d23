"""What template nodes can use, with the types of arguments and outputs.

A type is one of CEL: `string`, `int`, `double`, `bool`, `list(T)`, `map` or `dyn`, which is any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONTROL = ("loop", "map", "switch")
"""Nodes with nodes inside."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The keys under `with` and the fields of the output, with their types."""

    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, str] | None = None
    """Fields of the output; None: any value."""


_INDEX = Activity(
    {"file": "string", "collection": "string"},
    output={"file": "string", "collection": "string", "pages": "int", "chunks": "int", "unchanged": "bool"},
)
_SUMMARY = {
    "file": "string",
    "name": "string",
    "summary": "string",
    "sentences": "list(dyn)",
    "truncated": "bool",
}
_VERSION = {
    "version": "string",
    "model": "string",
    "stage": "string",
    "permitted": "bool",
    "blocked": "string",
    "aliases": "list(string)",
}
_PROMOTION = {
    "promotion": "string",
    "alias": "string",
    "version": "string",
    "state": "string",
    "requested_by": "string",
    "decided_by": "string",
    "reason": "string",
}

ACTIVITIES = {
    "documents.index": _INDEX,
    "ingest": _INDEX,
    "serving.summarise": Activity(
        {"file": "string"}, {"model": "string", "max_characters": "int", "max_tokens": "int"}, _SUMMARY
    ),
    "documents.digest": Activity(
        {"title": "string", "summaries": "list(dyn)"},
        output={"file": "string", "name": "string", "text": "string", "truncated": "bool"},
    ),
    "documents.report": Activity(
        {"title": "string", "sections": "list(dyn)"},
        output={"file": "string", "name": "string", "text": "string", "truncated": "bool"},
    ),
    "documents.write": Activity(
        {"name": "string", "text": "string"}, output={"file": "string", "name": "string", "bytes": "int"}
    ),
    "model": Activity(
        {"prompt": "string"},
        {"system": "string", "model": "string", "max_tokens": "int", "temperature": "double", "passages": "list(dyn)"},
        {
            "text": "string",
            "finish_reason": "string",
            "truncated": "bool",
            "supported": "bool",
            "sentences": "list(dyn)",
            "unsupported_figures": "list(string)",
        },
    ),
    "models.version": Activity({"version": "string"}, output=_VERSION),
    "models.target": Activity({"name": "string"}, output={"found": "bool", "model": "string"}),
    "models.evaluation": Activity(
        {"version": "string", "suite": "string", "metrics": "map"}, {"data": "string"}, {"version": "string"}
    ),
    "models.promote": Activity({"alias": "string", "version": "string", "reason": "string"}, output=_PROMOTION),
    "models.promotion": Activity({"alias": "string", "promotion": "string"}, output=_PROMOTION),
    "retrieve": Activity(
        {"collection": "string", "question": "string"},
        {"limit": "int", "files": "list(string)"},
        {"passages": "list(dyn)", "found": "int"},
    ),
    "http": Activity(
        {"url": "string"},
        {"method": "string", "query": "map", "headers": "map", "body": "dyn", "expect": "list(int)"},
        {"status": "int", "content_type": "string", "body": "dyn"},
    ),
    "event": Activity({"name": "string"}, {"data": "map", "key": "string"}, {"event": "string"}),
    "python": Activity({"function": "string"}, {"arguments": "map"}),
    "workflow": Activity({"template": "string"}, {"inputs": "map"}),
    "wait": Activity(
        {},
        {
            **{"seconds": "double", "until": "string"},
            **{"signal": "string", "schema": "map", "deadline_seconds": "int", "if_late": "string"},
        },
        {"until": "string", "received": "bool", "payload": "dyn", "sent_by": "string", "signal_id": "string"},
    ),
    "approval": Activity(
        {"title": "string"},
        {
            "details": "dyn",
            "form": "map",
            "quorum": "int",
            "approvers": "list(string)",
            "deadline_seconds": "int",
            "escalation": "list(dyn)",
            "if_denied": "string",
        },
        {"approved": "bool", "reason": "string", "votes": "list(dyn)", "values": "dyn"},
    ),
}
"""Activities by name. Orchestration implements them; a test compares the two lists."""

WAITING = ("approval", "wait", "workflow")
"""Activities that wait. They cannot be compensations."""
KEYED = ("event", "http", "python")
"""Activities with effects outside of the platform, which an idempotency key names."""
SECRET_ARGUMENTS = {"http": ("headers", "body"), "python": ("arguments",)}
"""The arguments that can contain secrets."""

ARGUMENTS_OF_CONTROL = {
    "map": Activity({"items": "list(dyn)"}, {"concurrency": "int"}),
    "loop": Activity({"max_iterations": "int"}),
    "switch": Activity({}),
}
