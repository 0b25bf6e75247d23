"""Generates docs/reference/openapi.json: the OpenAPI 3.1 description of the HTTP API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from drw.api.kernel.v1.kernel_pb2 import Rules
from drw.generate.protos import Field, Protos, compiled
from drw.generate.reference import openai_requests
from drw.generate.reference.openai import ANTHROPIC, ENDPOINTS, REFERENCES, Endpoint
from drw.generate.reference.operations import JSON as JSON_VALUE
from drw.generate.reference.operations import Operation, description, operations, path_names, reachable, short
from drw.kernel.errors import HTTP
from drw.kernel.rpc.context import ANY_SCOPE, SCOPES
from drw.models.serving.anthropic.errors import BILLING, FORMS

PATH = "docs/reference/openapi.json"
JSON, EVENTS = "application/json", "text/event-stream"

Schema = dict[str, Any]

SCALARS: dict[str, Schema] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "int32": {"type": "integer", "format": "int32"},
    "uint32": {"type": "integer", "minimum": 0},
    "int64": {"type": "integer", "format": "int64"},
    "uint64": {"type": "integer", "minimum": 0},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
}
VALUE = "google.protobuf.Value"
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$"},
    "google.protobuf.Struct": {"type": "object"},
    VALUE: {},
    JSON_VALUE: {},
}
"""JSON schemas of protobuf's well-known types: protobuf.dev, "ProtoJSON format"."""
SCALAR: Schema = {"type": ["string", "number", "boolean"]}
"""A `google.protobuf.Value` that rules bound."""


def files() -> dict[str, str]:
    """Return the text of the file by its path."""
    return {PATH: json.dumps(document(compiled()), indent=2, ensure_ascii=False) + "\n"}


def document(protos: Protos) -> Schema:
    """Return the document."""
    all_operations = operations(protos)
    paths: Schema = {}
    for operation in all_operations:
        paths.setdefault(operation.method.path, {})[operation.method.verb.lower()] = _operation(operation)
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.verb.lower()] = _openai_operation(endpoint)
    comments = {contract.name: contract.comment for contract in protos.contracts}
    services = {
        o.service.name: description(comments[o.service.contract], o.service.contract.rpartition(".")[2])
        for o in all_operations
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The DRW AI platform",
            "version": "1",
            "summary": "Models, retrieval and workflows behind one gateway.",
            "description": "A request carries a key as a bearer token. A field that does not exist is refused.",
        },
        "servers": [
            {"url": "http://127.0.0.1:8080", "description": "A platform on this machine, at its default port."}
        ],
        "tags": [
            *({"name": api, "description": f"Endpoints that {api} describes."} for api in REFERENCES),
            *({"name": name, "description": text} for name, text in services.items()),
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": _scopes()}},
            "responses": {"Error": _error_response(), "AnthropicError": _anthropic_error_response()},
            "schemas": {
                "Error": _error_schema(),
                "AnthropicError": _anthropic_error_schema(),
                **{short(n): message_schema(n, protos) for n in reachable(all_operations, protos)},
                **openai_requests.schemas(),
            },
        },
    }


def _operation(operation: Operation) -> Schema:
    method = operation.method
    definition: Schema = {
        "operationId": operation.id,
        "tags": [operation.service.name],
        "summary": operation.summary,
        "description": operation.text,
        "security": [{"key": [] if method.scope == ANY_SCOPE else [method.scope]}],
    }
    parameters = [_parameter(f, "path") for f in operation.path_fields]
    parameters += [_parameter(f, "query") for f in operation.query_fields]
    if operation.resumes:
        text = "The id of the last event that was seen: only those after it are sent."
        parameters.append({"name": "Last-Event-ID", "in": "header", "description": text, "schema": {"type": "string"}})
    if parameters:
        definition["parameters"] = parameters
    if operation.body_fields:
        body = {"type": "object", "properties": _properties(operation.body_fields), "additionalProperties": False}
        definition["requestBody"] = {"content": {JSON: {"schema": body}}}
    definition["responses"] = {"200": _response(operation), "default": {"$ref": "#/components/responses/Error"}}
    return definition


def _response(operation: Operation) -> Schema:
    schema = {"$ref": f"#/components/schemas/{short(operation.method.response)}"}
    if not operation.method.streams:
        return {"description": short(operation.method.response), "content": {JSON: {"schema": schema}}}
    text = "Server-sent events: the data of each is this object. The last one is `done`, or `error` with an Error."
    return {"description": text, "content": {EVENTS: {"schema": schema}}}


def _openai_operation(endpoint: Endpoint) -> Schema:
    definition: Schema = {
        "operationId": f"{endpoint.api.lower()}.{endpoint.page.replace('/', '.')}",
        "tags": [endpoint.api],
        "summary": endpoint.summary.rstrip("."),
        "externalDocs": {"url": endpoint.url, "description": f"{endpoint.api}'s reference"},
        "security": [{"key": [endpoint.scope]}],
    }
    text = SCALARS["string"]
    path_parameters = [{"name": n, "in": "path", "required": True, "schema": text} for n in path_names(endpoint.path)]
    if parameters := path_parameters + openai_requests.query(endpoint.page):
        definition["parameters"] = parameters
    if body := openai_requests.body(endpoint.page):
        definition["requestBody"] = body
    success = {"description": f"As {endpoint.api} describes it."}
    error = "AnthropicError" if endpoint.api == ANTHROPIC else "Error"
    definition["responses"] = {"200": success, "default": {"$ref": f"#/components/responses/{error}"}}
    return definition


def _parameter(field: Field, location: str) -> Schema:
    definition: Schema = {"name": field.name, "in": location}
    if field.comment:
        definition["description"] = field.comment
    if location == "path":
        definition["required"] = True
    return {**definition, "schema": _schema(field)}


def message_schema(name: str, protos: Protos) -> Schema:
    """Return the JSON schema of a message or an enum."""
    if values := protos.enums.get(name):
        return {"type": "string", "enum": list(values)}
    message = protos.messages[name]
    text = {"description": message.comment} if message.comment else {}
    return {"type": "object", **text, "properties": _properties(message.fields)}


def _properties(fields: Iterable[Field]) -> Schema:
    return {field.name: _schema(field) | ({"description": field.comment} if field.comment else {}) for field in fields}


def _schema(field: Field) -> Schema:
    if field.type == "map":
        return {"type": "object", "additionalProperties": _type_schema(field.of, field.of)}
    item = _type_schema(field.type, field.of)
    if field.rules is None:
        return {"type": "array", "items": item} if field.repeated else item
    item |= _bounds(field.rules, item.get("type", ""), required=field.repeated or field.rules.required)
    return {"type": "array", "items": item, **_list_bounds(field.rules)} if field.repeated else item


def _map(field: Field) -> Schema:
    values = _type_schema(field.of, field.of)
    rules = field.rules
    if rules is None:
        return {"type": "object", "additionalProperties": values}
    bounds: Schema = {}
    if rules.HasField("values"):
        values |= SCALAR if field.of == VALUE else {}
        values |= _bounds(rules.values, "string", required=rules.values.required)
    if rules.HasField("keys"):
        bounds["propertyNames"] = _bounds(rules.keys, "string", required=True)
    if rules.max_items:
        bounds["maxProperties"] = rules.max_items
    return {"type": "object", "additionalProperties": values, **bounds}


def _bounds(rules: Rules, kind: str, *, required: bool) -> Schema:
    """Return the rules of one value as JSON Schema keywords."""
    if kind == "integer":
        return {name: getattr(rules, name) for name in ("minimum", "maximum") if rules.HasField(name)}
    if kind != "string":
        return {}
    bounds: Schema = {"minLength": 1} if required else {}
    bounds |= {"maxLength": rules.max_length} if rules.max_length else {}
    # An empty string means a field that is not set.
    bounds |= {"pattern": f"^({rules.pattern}){'' if required else '?'}$"} if rules.pattern else {}
    allowed = list(SCOPES) if rules.scope else list(rules.one_of)
    return bounds | ({"enum": allowed if required else [*allowed, ""]} if allowed else {})


def _list_bounds(rules: Rules) -> Schema:
    bounds: Schema = {"minItems": 1} if rules.required else {}
    bounds |= {"maxItems": rules.max_items} if rules.max_items else {}
    return bounds | ({"uniqueItems": True} if rules.unique else {})


def _type_schema(type_name: str, referenced: str) -> Schema:
    if type_name in SCALARS:
        return dict(SCALARS[type_name])
    return (
        dict(WELL_KNOWN[referenced])
        if referenced in WELL_KNOWN
        else {"$ref": f"#/components/schemas/{short(referenced)}"}
    )


def _error_response() -> Schema:
    statuses = "; ".join(f"{form.status} `{form.code}`" for form in sorted(HTTP.values()))
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": f"An error, in OpenAI's shape: {statuses}.", "content": {JSON: {"schema": schema}}}


def _error_schema() -> Schema:
    text = SCALARS["string"]
    optional = {"type": ["string", "null"]}
    inner = {
        "type": "object",
        "properties": {
            "message": {**text, "description": "What is wrong, and what would be right."},
            "type": {**text, "enum": sorted({form.type for form in HTTP.values()})},
            "param": {**optional, "description": "The field at fault, where there is one."},
            "code": {**optional, "description": "For programs: one of those above, or a finer one."},
        },
        "required": ["message", "type", "param", "code"],
    }
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def _anthropic_error_response() -> Schema:
    schema = {"$ref": "#/components/schemas/AnthropicError"}
    return {"description": "An error, in Anthropic's format.", "content": {JSON: {"schema": schema}}}


def _anthropic_error_schema() -> Schema:
    text = SCALARS["string"]
    inner = {
        "type": "object",
        "properties": {
            "type": {**text, "enum": sorted({form.type for form in (*FORMS.values(), BILLING)})},
            "message": {**text, "description": "What is wrong, and what would be right."},
        },
        "required": ["type", "message"],
    }
    properties = {"type": {"const": "error"}, "error": inner, "request_id": {"type": ["string", "null"]}}
    return {"type": "object", "properties": properties, "required": ["type", "error", "request_id"]}


def _scopes() -> str:
    return "A key has scopes: " + "; ".join(f"`{name}`: {text}" for name, text in SCOPES.items()) + "."
