"""The recorded schemas of events: a breaking change fails `drw generate --check`.

`drw generate` adds new messages and fields to the record. It never changes or removes what is recorded: consumers and
retained events rely on it. A breaking change needs a new message and a new type of events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from drw.catalog import BY_NAME, EVENT_TYPES
from drw.generate.protos import ROOT, Field, Protos, compiled

PATH = "proto/drw/api/events/v1/recorded.json"
PACKAGE = "drw.api.events.v1."

Fields = dict[str, str]
"""The name and type of each field by its number."""


def files() -> dict[str, str]:
    """Return the text of the record by its path."""
    return {PATH: json.dumps(merged(_recorded(), current(compiled())), indent=2, sort_keys=True) + "\n"}


def problems() -> list[str]:
    """Return breaking changes, and differences between the messages and the catalog."""
    schemas = current(compiled())
    return [*breaking_changes(_recorded(), schemas), *catalog_problems(schemas)]


def current(protos: Protos) -> dict[str, Fields]:
    """Return the fields of each message of events."""
    return {
        name.removeprefix(PACKAGE): {str(field.number): _described(field) for field in message.fields}
        for name, message in protos.messages.items()
        if name.startswith(PACKAGE)
    }


def merged(recorded: dict[str, Fields], schemas: dict[str, Fields]) -> dict[str, Fields]:
    """Return the record with new messages and fields."""
    return {name: schemas.get(name, {}) | recorded.get(name, {}) for name in recorded.keys() | schemas.keys()}


def breaking_changes(recorded: dict[str, Fields], schemas: dict[str, Fields]) -> Iterator[str]:
    """Find removed messages and fields, and fields with another number, name or type."""
    remedy = f"events and consumers rely on it (see {PATH}); add a new message and a new type instead"
    for name, fields in sorted(recorded.items()):
        if name not in schemas:
            yield f"the event schema {name} is gone: {remedy}"
            continue
        for number, before in fields.items():
            after = schemas[name].get(number, "gone")
            if after != before:
                yield f"field {number} of the event schema {name} was {before!r} and is {after!r}: {remedy}"


def catalog_problems(schemas: dict[str, Fields]) -> Iterator[str]:
    """Compare the messages with the types of events in the catalog."""
    listed = {event.message for event in EVENT_TYPES}
    for name in sorted(schemas.keys() - listed):
        yield f"{PACKAGE}{name} is not in EVENT_TYPES of src/drw/catalog.py"
    for name in sorted(listed - schemas.keys()):
        yield f"EVENT_TYPES of src/drw/catalog.py lists {name}, which is not in {PACKAGE.rstrip('.')}"
    for event in EVENT_TYPES:
        for service in sorted({event.publisher, *event.consumers} - BY_NAME.keys()):
            yield f"{event.name} is published or consumed by {service!r}, which is no service"


def _described(field: Field) -> str:
    kind = f"map<string, {field.of}>" if field.type == "map" else field.of or field.type
    return f"{'repeated ' if field.repeated else ''}{kind} {field.name}"


def _recorded() -> dict[str, Fields]:
    file = ROOT / PATH
    if not file.is_file():
        return {}
    recorded: dict[str, Fields] = json.loads(file.read_text(encoding="utf-8"))
    return recorded
