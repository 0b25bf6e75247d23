"""Types of events and the messages that describe their data."""

from __future__ import annotations

import importlib
from functools import cache

from google.protobuf.message import Message

from drw.catalog import EVENT_TYPES, EventType

MODULES = ("documents", "gateway", "models", "workflows")
"""The proto files of drw.api.events.v1."""


@cache
def message_classes() -> dict[str, type[Message]]:
    """Return the message class of each type of events in the catalog."""
    classes: dict[str, type[Message]] = {}
    for name in MODULES:
        module = importlib.import_module(f"drw.api.events.v1.{name}_pb2")
        for message in module.DESCRIPTOR.message_types_by_name:
            classes[message] = getattr(module, message)
    return {event.type: classes[event.message] for event in EVENT_TYPES}


def event_type_of(message: Message) -> EventType:
    """Return the type of events whose data is such a message.

    Raises:
        LookupError: the catalog has no such type.
    """
    for event_type in EVENT_TYPES:
        if event_type.schema == message.DESCRIPTOR.full_name:
            return event_type
    raise LookupError(f"{message.DESCRIPTOR.full_name} is not in EVENT_TYPES of src/drw/catalog.py")
