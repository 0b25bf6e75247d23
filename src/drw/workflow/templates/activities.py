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
_SUMMARY = {"file": "string", "name": "string", "summary": "string", "truncated": "bool"}

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
            "unsupported_figures": "list(string)",
        },
    ),
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
    "wait": Activity({}, {"seconds": "double", "until": "string"}, {"until": "string"}),
    "approval": Activity(
        {"title": "string"},
        {"details": "dyn", "quorum": "int", "deadline_seconds": "int", "if_denied": "string"},
        {"approved": "bool", "reason": "string", "votes": "list(dyn)"},
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
