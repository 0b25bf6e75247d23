"""Events: CloudEvents 1.0 with the tenant, the walls and the actor as extension attributes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

MAX_BYTES = 64 << 10
"""Maximum size of an event as JSON."""
CONTENT_TYPE = "application/json"
FORMAT = JSONFormat()


class MalformedEvent(Exception):
    """A message of the broker is not an event of the platform."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. Events with the same key are delivered in the order of their transactions."""

    id: str
    type: str
    source: str
    """The publisher, as in `//drw/discovery`."""
    subject: str
    time: datetime
    key: str
    schema: str
    """The full name of the message that describes the data."""
    data: dict[str, Any]
    org: str = ""
    """Empty: an event of the platform."""
    desk: str = ""
    """Empty: an event of the org."""
    walls: tuple[str, ...] = ()
    actor: str = ""
    trace: str = ""
    """The W3C trace context of the change."""
    depth: int = 0
    """How many runs that an event started led to this event, one by another."""

    def to_cloudevent(self) -> CloudEvent:
        """Return the event as a CloudEvent."""
        extensions = {
            "partitionkey": self.key,
            "org": self.org,
            "desk": self.desk,
            "walls": " ".join(self.walls),
            "actor": self.actor,
            "traceparent": self.trace,
            "eventdepth": self.depth,
        }
        attributes = {
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time,
            "datacontenttype": CONTENT_TYPE,
            "dataschema": self.schema,
            **{name: value for name, value in extensions.items() if value},
        }
        return CloudEvent(attributes, self.data)

    @classmethod
    def from_cloudevent(cls, event: BaseCloudEvent) -> Event:
        """Return a CloudEvent as an event.

        Raises:
            MalformedEvent: it lacks an attribute, or its data is not an object.
        """
        attributes, data = event.get_attributes(), event.get_data()
        if not isinstance(data, dict):
            raise MalformedEvent(f"the data of the event {event.get_id()!r} is not a JSON object")
        text = {name: str(attributes.get(name) or "") for name in ("org", "desk", "walls", "actor", "traceparent")}
        return cls(
            id=event.get_id(),
            type=event.get_type(),
            source=event.get_source(),
            subject=event.get_subject() or "",
            time=event.get_time() or datetime.now(UTC),
            key=str(attributes.get("partitionkey") or ""),
            schema=event.get_dataschema() or "",
            data=data,
            org=text["org"],
            desk=text["desk"],
            walls=tuple(text["walls"].split()),
            actor=text["actor"],
            trace=text["traceparent"],
            depth=_depth(attributes.get("eventdepth")),
        )

    def to_json(self) -> bytes:
        """Return the event in the JSON format of CloudEvents."""
        return FORMAT.write(self.to_cloudevent())

    @classmethod
    def from_json(cls, text: bytes) -> Event:
        """Parse the output of `to_json`.

        Raises:
            MalformedEvent: the text is not a CloudEvent.
        """
        return cls.from_cloudevent(parsed(lambda: FORMAT.read(CloudEvent, text)))


def _depth(value: object) -> int:
    text = str(value or 0)
    if not text.isdecimal():
        raise MalformedEvent(f"eventdepth is {text[:80]!r}; it must be a whole number")
    return int(text)


def parsed(parse: Any) -> BaseCloudEvent:
    """Return the CloudEvent that `parse` returns.

    Raises:
        MalformedEvent: the message is not a CloudEvent.
    """
    try:
        event: BaseCloudEvent = parse()
    except (BaseCloudEventException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedEvent(f"not a CloudEvent: {error}") from error
    return event
