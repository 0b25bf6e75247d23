"""The event, the filter and the inputs of a trigger: checks when it is created, and evaluation for an event."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from drw.api.workflow.v1.triggers_pb2 import TriggerSpec
from drw.catalog import EventType, consumed_by
from drw.events.event import Event
from drw.events.schemas import message_classes
from drw.expressions import cel
from drw.expressions.placeholders import placeholders, texts_in
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal
from drw.workflow.orchestration import messages

UPLOAD = "document.indexed"
EVENT_TYPES = {event.name: event for event in consumed_by("orchestration")}
READ = "events:read"
ATTRIBUTES = ("id", "type", "source", "subject", "time", "actor", "org", "desk")
TYPES = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_INT64: "int",
    FieldDescriptor.CPPTYPE_STRING: "string",
}


def event_type(spec: TriggerSpec) -> EventType:
    """Return the type of events of a trigger.

    Raises:
        InvalidRequest: there is no such type, or its events have no collection.
    """
    name = spec.event or (UPLOAD if spec.collection else "")
    if (found := EVENT_TYPES.get(name)) is None:
        names = ", ".join(sorted(EVENT_TYPES))
        raise InvalidRequest(f"{name!r} is not a type of events; there are: {names}", param="event")
    if spec.collection and name != UPLOAD:
        raise InvalidRequest(f"only {UPLOAD!r} events have a collection, and {name!r} events have none", param="event")
    return found


def check_may_read(caller: Principal, of: EventType) -> None:
    """Check that a caller can see events of a type.

    Raises:
        Forbidden: a scope is missing.
    """
    for scope in (READ, of.scope):
        if scope not in caller.scopes:
            raise Forbidden(
                f"{of.name!r} events need the scope {scope!r}; the key {caller.key!r} lacks it", scope=scope
            )


def check(spec: TriggerSpec, of: EventType) -> None:
    """Check the filter and the expressions of the inputs.

    Raises:
        InvalidRequest: an expression has wrong syntax, names a field that the event does not have, or is no condition.
    """
    variables = {f"event.{name}": "string" for name in ATTRIBUTES} | _fields(message_classes()[of.type])
    if spec.filter:
        if cel.has_comprehension(spec.filter):
            raise InvalidRequest("a filter cannot iterate: 'map', 'filter', 'all' and 'exists' are not allowed")
        if (kind := cel.check(spec.filter, variables)) not in ("bool", "dyn"):
            raise InvalidRequest(f"the filter {spec.filter!r} is of the type {kind}; it must be bool", param="filter")
    for _, text in texts_in(messages.inputs(spec.inputs)):
        for placeholder in placeholders(text):
            cel.check(placeholder.expression, variables)


def variables_of(event: Event) -> dict[str, Any]:
    """Return the variable `event` of expressions."""
    attributes = {name: getattr(event, name) for name in ATTRIBUTES} | {"time": event.time.isoformat()}
    return {**attributes, "data": event.data}


def matches(expression: str, variables: dict[str, Any]) -> bool:
    """Return whether a filter is true for an event.

    Raises:
        InvalidRequest: it cannot be evaluated, or is neither true nor false.
    """
    value = cel.evaluate(expression, {"event": variables}) if expression else True
    if not isinstance(value, bool):
        raise InvalidRequest(f"the filter is {str(value)[:80]!r}; it must be true or false")
    return value


def inputs(spec: TriggerSpec, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of the run of an event.

    Raises:
        InvalidRequest, TooLarge: an expression cannot be evaluated.
    """
    rendered: dict[str, Any] = cel.render(messages.inputs(spec.inputs), {"event": variables})
    return rendered


def _fields(message: type[Message]) -> dict[str, str]:
    return {f"event.data.{field.name}": _type(field) for field in message.DESCRIPTOR.fields}


def _type(field: Any) -> str:  # a FieldDescriptor, of the library's C or Python implementation
    if field.message_type is not None:
        return "map" if field.message_type.GetOptions().map_entry else "dyn"
    kind = TYPES.get(field.cpp_type, "dyn")
    return f"list({kind})" if field.is_repeated else kind
