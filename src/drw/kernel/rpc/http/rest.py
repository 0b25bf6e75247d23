"""REST routes, created from the `google.api.http` annotations of the contracts.

JSON is strict: an unknown field is an error that names the field. Streaming methods respond with server-sent events.
If their messages have an `event_id`, it is the id of the event, and the header `Last-Event-ID` sets `last_event_id`
of the request.
"""

from __future__ import annotations

from typing import Any

import orjson
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drw.api.contract import Method, Servicer
from drw.api.kernel.v1 import kernel_pb2
from drw.kernel.errors import InvalidRequest, Unimplemented
from drw.kernel.rpc import context
from drw.kernel.rpc.http import server_sent_events
from drw.kernel.rpc.http.json_bodies import json_object
from drw.kernel.rpc.http.server import read_body
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.kernel.rpc.transport import translated_errors
from drw.kernel.validation import validate

PATH_WILDCARD = "=**}"
"""Suffix of a name in a path template that matches the remaining path, including slashes."""
MAX_BODY_BYTES = 1 << 20
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def http_rule(method: Method) -> tuple[str, str, str] | None:
    """Return the HTTP method, path template and body rule ("", "*") of a method; None: no REST binding."""
    options = method.descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern") or ""
    return verb.upper(), getattr(rule, verb).replace(PATH_WILDCARD, ":path}"), rule.body


def scope(method: Method) -> str:
    """Return the scope that external callers need; empty: the method is internal."""
    return str(method.descriptor.GetOptions().Extensions[kernel_pb2.scope])  # type: ignore[index]


def routes(servicer: Servicer) -> list[Route]:
    """Return the REST routes of a service."""
    result = []
    for method in servicer.contract.methods.values():
        if binding := http_rule(method):
            verb, path, body = binding
            endpoint = _endpoint(servicer, method, has_body=body == "*")
            result.append(Route(path, endpoint, methods=[verb], name=f"{method.service}/{method.name}"))
    return result


def _endpoint(servicer: Servicer, method: Method, *, has_body: bool) -> Any:
    required_scope = scope(method)
    service = servicer.contract.service
    run = getattr(servicer, method.python_name)
    implemented = method.name in servicer.implemented_methods()

    async def endpoint(request: Request) -> Response:
        principal = context.caller()
        if required_scope != context.ANY_SCOPE:
            principal.require_scope(required_scope)
        if not implemented:
            raise Unimplemented(f"{service}.{method.name} is not implemented in this release", service=service)
        message = await _read_request(request, method, has_body=has_body)
        validate(message)
        if method.streams:
            return await server_sent_events.stream_response(run(message), service, method.name)
        with translated_errors(service, method.name):
            return Response(orjson.dumps(to_json(await run(message))), media_type="application/json")

    return endpoint


async def _read_request(request: Request, method: Method, *, has_body: bool) -> Message:
    fields = _read_query(request, method.request.DESCRIPTOR)
    if has_body and (raw := await read_body(request, MAX_BODY_BYTES)):
        fields |= json_object(raw)
    fields |= request.path_params
    if "last_event_id" in method.request.DESCRIPTOR.fields_by_name and (
        last_event_id := request.headers.get("last-event-id")
    ):
        fields["last_event_id"] = last_event_id
    return from_json(fields, method.request)


def _read_query(request: Request, descriptor: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            names = ", ".join(sorted(descriptor.fields_by_name)) or "none"
            raise InvalidRequest(f"{name!r} is not a parameter; there are: {names}", param=name)
        parsed = _boolean(name, value) if field.type == FieldDescriptor.TYPE_BOOL else value
        if field.is_repeated:
            values.setdefault(name, []).append(parsed)
        elif name in values:
            raise InvalidRequest(f"{name!r} is given twice", param=name)
        else:
            values[name] = parsed
    return values


def _boolean(name: str, value: str) -> bool:
    if (names := BOOLEANS.get(value.lower())) is None:
        raise InvalidRequest(f"{name} is {value!r}; it can be true or false", param=name)
    return names
