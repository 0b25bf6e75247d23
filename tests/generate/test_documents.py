"""The generated documents are valid and match the REST binding."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from drw.api.audit.v1 import log_pb2, log_rpc
from drw.api.contract import Contract
from drw.catalog import Service
from drw.generate.protos import Contract as ProtoContract
from drw.generate.protos import Field, Message, Method, Protos, compiled
from drw.generate.reference import openapi, pages
from drw.generate.reference.operations import Operation, description, operations
from drw.kernel.errors import HTTP, InvalidRequest, http_body
from drw.kernel.rpc.context import SCOPES
from drw.kernel.rpc.http import rest
from drw.kernel.rpc.json_messages import json_message, to_json
from support.json_types import Json, JsonObject

PARAMETER = {
    "type": "object",
    "required": ["name", "in", "schema"],
    "properties": {
        "name": {"type": "string"},
        "in": {"enum": ["path", "query", "header"]},
        "required": {"type": "boolean"},
        "description": {"type": "string", "minLength": 1},
        "schema": {"type": "object"},
    },
    "if": {"properties": {"in": {"const": "path"}}},
    "then": {"required": ["required"], "properties": {"required": {"const": True}}},
    "additionalProperties": False,
}
RESPONSE = {
    "type": "object",
    "properties": {
        "$ref": {"type": "string"},
        "description": {"type": "string", "minLength": 1},
        "content": {"type": "object"},
    },
    "oneOf": [{"required": ["$ref"]}, {"required": ["description"]}],
    "additionalProperties": False,
}
OPERATION = {
    "type": "object",
    "required": ["operationId", "tags", "summary", "security", "responses"],
    "properties": {
        "operationId": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"type": "string"}},
        "summary": {"type": "string", "minLength": 1},
        "description": {"type": "string", "minLength": 1},
        "externalDocs": {"type": "object", "required": ["url"]},
        "security": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["key"]}},
        "parameters": {"type": "array", "items": PARAMETER},
        "requestBody": {"type": "object", "required": ["content"]},
        "responses": {"type": "object", "minProperties": 1, "additionalProperties": RESPONSE},
    },
    "additionalProperties": False,
}
# What OpenAPI 3.1.0 says of the objects that the document is made of.
OPENAPI = {
    "type": "object",
    "required": ["openapi", "info", "paths", "components"],
    "properties": {
        "openapi": {"const": "3.1.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {"type": "array", "items": {"type": "object", "required": ["url"]}},
        "tags": {"type": "array", "uniqueItems": True, "items": {"type": "object", "required": ["name"]}},
        "paths": {
            "type": "object",
            "patternProperties": {
                "^/": {
                    "type": "object",
                    "propertyNames": {"enum": ["get", "put", "post", "delete", "patch"]},
                    "additionalProperties": OPERATION,
                }
            },
            "additionalProperties": False,
        },
        "components": {
            "type": "object",
            "properties": {"schemas": {"propertyNames": {"pattern": "^[a-zA-Z0-9._-]+$"}}},
        },
    },
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def document() -> JsonObject:
    return openapi.document(compiled())


def values_of(value: Json, key: str) -> list[Json]:
    """Return all values of a key, at any depth."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    values = [value[key]] if isinstance(value, dict) and key in value else []
    return values + [each for child in children for each in values_of(child, key)]


def test_document_is_valid_openapi(document: JsonObject) -> None:
    errors = list(Draft202012Validator(OPENAPI).iter_errors(document))
    assert errors == []
    every_operation = [o for path in document["paths"].values() for o in path.values()]
    ids = [o["operationId"] for o in every_operation]
    assert len(set(ids)) == len(ids) > 40
    assert {s for o in every_operation for need in o["security"] for s in need["key"]} <= SCOPES.keys()
    tags = {tag["name"] for tag in document["tags"]}
    assert all(set(o["tags"]) <= tags for o in every_operation)


def test_every_reference_resolves(document: JsonObject) -> None:
    for reference in values_of(document, "$ref"):
        at = document
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]


def test_every_schema_is_a_valid_json_schema(document: JsonObject) -> None:
    schemas = [s for s in values_of(document, "schema") if isinstance(s, dict)]
    for schema in [*schemas, *document["components"]["schemas"].values()]:
        Draft202012Validator.check_schema(schema)


def test_path_templates_match_their_parameters(document: JsonObject) -> None:
    for path, verbs in document["paths"].items():
        for operation in verbs.values():
            declared = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
            assert sorted(re.findall(r"{(\w+)}", path)) == sorted(declared)


def test_rest_responses_match_the_openapi_document(document: JsonObject) -> None:
    record = log_pb2.Record(index=1 << 40, action="model.chat")
    record.at.GetCurrentTime()
    record.details.CopyFrom(json_message({"prompt": {"tokens": 3}}))
    answer = to_json(log_pb2.ListRecordsResponse(records=[record], next_page_token="7"))
    schema = {"$ref": "#/components/schemas/audit.ListRecordsResponse", "components": document["components"]}
    strict = json.loads(json.dumps(schema))
    for each in strict["components"]["schemas"].values():
        each.setdefault("additionalProperties", False)
    Draft202012Validator(strict).validate(answer)
    error = {"$ref": "#/components/schemas/Error", "components": document["components"]}
    for cls in HTTP:
        Draft202012Validator(error).validate(http_body(cls("no", param="action")))


def test_every_rest_route_is_in_the_document(document: JsonObject) -> None:
    class Log(log_rpc.Log):
        pass

    routes = {(r.path, verb.lower()) for r in rest.routes(Log()) for verb in (r.methods or set()) - {"HEAD"}}
    documented = {(p, v) for p, verbs in document["paths"].items() for v in verbs if p.startswith("/api/v1/audit")}
    assert routes == documented


def fake_operation(method: Method) -> tuple[Operation, Protos]:
    fields = (
        Field("run", "string", comment="The id of the run."),
        Field("limit", "int64"),
        Field("labels", "map", "string"),
        Field("kinds", "enum", "drw.api.workflow.v1.Kind", repeated=True),
        Field("at", "message", "google.protobuf.Timestamp"),
        Field("last_event_id", "string"),
    )
    protos = Protos(
        contracts=(ProtoContract("drw.api.workflow.v1.State", "state.proto", "State shows.", (method,)),),
        messages={
            "drw.api.workflow.v1.Request": Message("drw.api.workflow.v1.Request", "", fields),
            "drw.api.workflow.v1.Tree": Message(
                "drw.api.workflow.v1.Tree", "A tree.", (Field("branches", "message", "drw.api.workflow.v1.Tree", True),)
            ),
        },
        enums={"drw.api.workflow.v1.Kind": ("KIND_UNSPECIFIED", "GOOD")},
        file_of={},
        python={},
    )
    (operation,) = operations(protos)
    return operation, protos


GET = Method(
    name="WatchRun",
    comment="WatchRun sends what happens. Then it ends.",
    request="drw.api.workflow.v1.Request",
    response="drw.api.workflow.v1.Tree",
    streams=True,
    verb="GET",
    path="/api/v1/runs/{run}:watch",
    scope="workflows:read",
)


def test_get_fields_are_in_path_query_and_header() -> None:
    _, protos = fake_operation(GET)
    described = openapi.document(protos)["paths"]["/api/v1/runs/{run}:watch"]["get"]
    assert [(p["name"], p["in"]) for p in described["parameters"]] == [
        ("run", "path"),
        ("limit", "query"),
        ("labels", "query"),
        ("kinds", "query"),
        ("at", "query"),
        ("Last-Event-ID", "header"),
    ]
    assert described["summary"] == "Sends what happens"
    assert "requestBody" not in described
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]


def test_post_fields_are_in_the_body() -> None:
    post = Method(**{**{f: getattr(GET, f) for f in Method.__slots__}, "verb": "POST", "body": "*", "streams": False})
    _, protos = fake_operation(post)
    document = openapi.document(protos)
    described = document["paths"]["/api/v1/runs/{run}:watch"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "limit": {"type": "integer", "format": "int64"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "kinds": {"type": "array", "items": {"$ref": "#/components/schemas/workflow.Kind"}},
            "at": {"type": "string", "format": "date-time"},
        },
    }
    assert document["components"]["schemas"]["workflow.Kind"]["enum"] == ["KIND_UNSPECIFIED", "GOOD"]
    assert "workflow.Tree" in document["components"]["schemas"]


def test_page_describes_the_operation() -> None:
    operation, protos = fake_operation(GET)
    page = pages.http_page([operation], protos)
    for line in [
        "### `GET /api/v1/runs/{run}:watch`",
        "| `run` | path | string | The id of the run. |",
        "| `kinds` | query | list of [workflow.Kind](#workflowkind) |  |",
        "Streams [workflow.Tree](#workflowtree). Scope: `workflows:read`.",
        "| `branches` | list of [workflow.Tree](#workflowtree) |  |",
    ]:
        assert line in page.splitlines()


def test_every_operation_is_on_both_pages() -> None:
    all_operations = operations(compiled())
    reference_pages = [pages.services_page(all_operations), pages.http_page(all_operations, compiled())]
    for operation in all_operations:
        line = f"`{operation.method.verb} {operation.method.path}`"
        assert all(line in page for page in reference_pages)


@pytest.mark.parametrize(
    ("comment", "name", "text"),
    [
        ("GetKey shows one key.", "GetKey", "Shows one key."),
        ("", "ListDeadLetters", "List dead letters."),
        ("Not the name first.", "GetKey", "Not the name first."),
    ],
)
def test_comments_become_descriptions(comment: str, name: str, text: str) -> None:
    assert description(comment, name) == text


def test_proto_files_match_the_compiled_contracts() -> None:
    contract = next(c for c in compiled().contracts if c.name == "drw.api.audit.v1.Log")
    running: Contract = log_rpc.Log.contract
    assert [m.name for m in contract.methods] == list(running.methods)
    for method in contract.methods:
        at = running.methods[method.name]
        assert (method.verb, method.path, method.body) == rest.http_rule(at)
        assert (method.scope, method.streams) == (rest.scope(at), at.streams)
        fields = [f.name for f in compiled().messages[method.request].fields]
        assert fields == list(at.request.DESCRIPTOR.fields_by_name)


def test_generation_is_deterministic() -> None:
    assert openapi.files() == openapi.files()
    assert pages.files() == pages.files()


def test_generation_outside_a_checkout_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("drw.generate.protos.ROOT", tmp_path)
    with pytest.raises(InvalidRequest, match="works in a checkout only"):
        compiled.__wrapped__()


def test_service_without_rest_is_only_in_the_table() -> None:
    operation, _ = fake_operation(GET)
    page = pages.services_page([operation])
    assert "| `embedding` | rag |" in page
    assert "### embedding" not in page
    assert "### state" in page
    assert isinstance(operation.service, Service)
