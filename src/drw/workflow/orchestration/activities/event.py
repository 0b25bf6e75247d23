"""The `event` activity: publishes an event that the operator has declared, in the transaction that ends the step."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import uuid4

import jsonschema_rs
import orjson
from pydantic import Field

from drw.api.events.v1.workflows_pb2 import WorkflowPublished
from drw.events.publisher import derived_id
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.storage.database import Connection
from drw.kernel.tenancy import Owner
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext, Transactional
from drw.workflow.orchestration.events import EVENTS

MAX_DATA_BYTES = 48 * 1024


class EventArguments(Arguments):
    """The declared name of the event, its data, and the key within which events keep their order."""

    name: str = Field(min_length=1, max_length=100)
    data: dict[str, Any] = Field(default_factory=dict)
    key: str = Field(default="", max_length=200)


async def perform(services: Services, step_context: StepContext, arguments: EventArguments) -> Transactional:
    """Return the id of the event, and its publication.

    Raises:
        InvalidRequest: the event is not declared, or its data is too large or does not match the schema.
    """
    declared = services.declared_events.get(arguments.name)
    if declared is None:
        names = ", ".join(sorted(services.declared_events)) or "none"
        raise InvalidRequest(f"the event {arguments.name!r} is not declared; there are: {names}")
    if (size := len(orjson.dumps(arguments.data))) > MAX_DATA_BYTES:
        raise InvalidRequest(f"the data of the event has {size} bytes; at most {MAX_DATA_BYTES}")
    _check_data(arguments, orjson.dumps(declared.data_schema).decode())
    caller = context.caller()
    owner = Owner(caller.org, caller.desk)
    event = derived_id(owner, arguments.name, step_context.key) if step_context.key else uuid4().hex
    message = WorkflowPublished(
        name=arguments.name,
        run=step_context.run,
        step=step_context.step,
        template=step_context.template,
        template_version=step_context.template_version,
        data=json_message(arguments.data),
    )
    subject = f"run/{step_context.run}"
    key = f"event/{arguments.key}" if arguments.key else subject

    async def publish(connection: Connection) -> None:
        await EVENTS.publish(connection, message, subject, owner, walls=caller.walls, key=key, event_id=event)

    return Transactional({"event": event}, publish)


def _check_data(arguments: EventArguments, schema: str) -> None:
    error = next(_validator(schema).iter_errors(arguments.data), None)
    if error is not None:
        place = ".".join(map(str, error.instance_path)) or "the data"
        rule = "/".join(map(str, error.schema_path))
        raise InvalidRequest(f"the data of the event {arguments.name!r} is invalid: {place} breaks the rule {rule!r}")


@lru_cache(maxsize=200)
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(orjson.loads(schema))


ACTIVITY = Activity(EventArguments, (), perform)
