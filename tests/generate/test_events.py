"""The AsyncAPI description of the event bus, and the check for breaking changes of event schemas.

asyncapi-3.0.0.schema.json is the JSON Schema of the AsyncAPI Initiative (npm @asyncapi/specs 6.11.1, Apache-2.0).
"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from drw.catalog import BY_NAME, EVENT_TYPES
from drw.events.schemas import message_classes
from drw.generate import event_schemas
from drw.generate.protos import ROOT, compiled
from drw.generate.reference import asyncapi
from drw.kernel.rpc.json_messages import to_json
from support.json_types import JsonObject

SCHEMA = json.loads(Path(__file__).with_name("asyncapi-3.0.0.schema.json").read_text())


@pytest.fixture(scope="module")
def document() -> JsonObject:
    document: JsonObject = json.loads((ROOT / asyncapi.PATH).read_text())
    return document


def errors(document: JsonObject) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(document)]


def test_the_document_is_valid_asyncapi_3(document: JsonObject) -> None:
    assert errors(document) == []


@pytest.mark.parametrize(
    "change",
    [
        {"asyncapi": "2.6.0"},
        {"channels": {"events": {"address": 7}}},
        {"operations": {"x": {"action": "publish", "channel": {"$ref": "#/channels/events"}}}},
        {"unknown": {}},
    ],
)
def test_an_invalid_document_is_found(document: JsonObject, change: JsonObject) -> None:
    assert errors(document | change)


def test_the_references_of_the_document_exist(document: JsonObject) -> None:
    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [ref for item in value.values() for ref in references(item)]
        return [ref for item in value for ref in references(item)] if isinstance(value, list) else []

    assert len(references(document)) > len(EVENT_TYPES)
    for reference in references(document):
        target: object = document
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict) and part in target, reference
            target = target[part]


def test_each_event_names_its_publisher_and_its_consumers(document: JsonObject) -> None:
    operations = set(document["operations"])
    for event in EVENT_TYPES:
        assert f"{event.publisher}.send.{event.name}" in operations
        assert {f"{consumer}.receive.{event.name}" for consumer in event.consumers} <= operations


def test_published_data_fits_the_schema(document: JsonObject) -> None:
    for event in EVENT_TYPES:
        payload = document["components"]["messages"][event.name]["payload"]
        message = message_classes()[event.type]
        data = to_json(message())
        jsonschema.Draft7Validator(payload | {"additionalProperties": False}).validate(data)
        unset = {field.name for field in message.DESCRIPTOR.fields if field.message_type and not field.is_repeated}
        assert set(payload["properties"]) == set(data) | unset


RECORDED = {"RunEnded": {"1": "string run", "2": "int32 steps"}}


@pytest.mark.parametrize(
    ("schemas", "problem"),
    [
        ({}, "RunEnded is gone"),
        ({"RunEnded": {"1": "string run"}}, "field 2 of the event schema RunEnded was 'int32 steps' and is 'gone'"),
        ({"RunEnded": {"1": "string run", "2": "string steps"}}, "and is 'string steps'"),
        ({"RunEnded": {"1": "string id", "2": "int32 steps"}}, "was 'string run' and is 'string id'"),
        ({"RunEnded": {"1": "string run", "3": "int32 steps"}}, "field 2"),
    ],
)
def test_a_breaking_change_is_a_problem(schemas: dict[str, event_schemas.Fields], problem: str) -> None:
    (found,) = event_schemas.breaking_changes(RECORDED, schemas)
    assert problem in found
    assert event_schemas.merged(RECORDED, schemas)["RunEnded"].items() >= RECORDED["RunEnded"].items()


def test_new_fields_and_messages_are_recorded() -> None:
    schemas = {"RunEnded": RECORDED["RunEnded"] | {"3": "string error"}, "RunStarted": {"1": "string run"}}
    assert list(event_schemas.breaking_changes(RECORDED, schemas)) == []
    assert event_schemas.merged(RECORDED, schemas) == schemas


def test_the_recorded_schemas_are_those_of_this_release() -> None:
    assert event_schemas.problems() == []
    assert set(event_schemas.current(compiled())) == {event.message for event in EVENT_TYPES}


def test_a_message_that_no_type_has_is_a_problem() -> None:
    schemas = event_schemas.current(compiled()) | {"Orphan": {}}
    assert [problem for problem in event_schemas.catalog_problems(schemas) if "Orphan" in problem]
    assert all(event.publisher in BY_NAME for event in EVENT_TYPES)
