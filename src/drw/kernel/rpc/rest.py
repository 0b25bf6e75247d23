"""REST for resources, made from the `google.api.http` annotations of the contracts.

JSON is strict: an unknown field is an error that names it. A method that
streams answers with server-sent events; where its messages have an `event_id`,
that is the event's id, and `Last-Event-ID` goes into `last_event_id` of the request.
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
from drw.kernel.rpc import context, server_sent_events
from drw.kernel.rpc.http_server import read_body
from drw.kernel.rpc.json_bodies import json_object
from drw.kernel.rpc.json_messages import from_json, to_json
from drw.kernel.rpc.transport import translated
from drw.kernel.validation import validate

REST_OF_PATH = "=**}"
"""The end of a name in a path template that takes the rest of the path, slashes too."""
MAX_BODY_BYTES = 1 << 20
OPEN = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
"""Any JSON; its numbers are doubles, and whole ones are shown without a fraction."""
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def rule(method: Method) -> tuple[str, str, str] | None:
    """Return the HTTP method, path template and body rule ("", "*") of a method; None: no REST binding."""
    options = method.descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    http: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    verb = http.WhichOneof("pattern") or ""
    return verb.upper(), getattr(http, verb).replace(REST_OF_PATH, ":path}"), http.body


def scope(method: Method) -> str:
    """Return the scope that an external caller needs; empty: not callable from outside."""
    return str(method.descriptor.GetOptions().Extensions[kernel_pb2.scope])  # type: ignore[index]


def routes(servicer: Servicer) -> list[Route]:
    """Return the REST routes of a service."""
    routes_of_service = []
    for method in servicer.contract.methods.values():
        if bound := rule(method):
            verb, path, body = bound
            endpoint = _endpoint(servicer, method, has_body=body == "*")
            routes_of_service.append(Route(path, endpoint, methods=[verb], name=f"{method.service}/{method.name}"))
    return routes_of_service


def _endpoint(servicer: Servicer, method: Method, *, has_body: bool) -> Any:
    needed = scope(method)
    service = servicer.contract.service
    run = getattr(servicer, method.python_name)
    written = method.name in servicer.written()

    async def endpoint(request: Request) -> Response:
        principal = context.caller()
        if needed != context.ANY_SCOPE:
            principal.must_hold(needed)
        if not written:
            raise Unimplemented(f"{service}.{method.name} is not implemented in this release", service=service)
        message = await _read(request, method, has_body=has_body)
        validate(message)
        if method.streams:
            return await server_sent_events.answer(run(message), service, method.name)
        with translated(service, method.name):
            return Response(orjson.dumps(to_json(await run(message))), media_type="application/json")

    return endpoint


async def _read(request: Request, method: Method, *, has_body: bool) -> Message:
    fields = _query(request, method.request.DESCRIPTOR)
    if has_body and (raw := await read_body(request, MAX_BODY_BYTES)):
        fields |= json_object(raw)
    fields |= request.path_params
    if "last_event_id" in method.request.DESCRIPTOR.fields_by_name and (seen := request.headers.get("last-event-id")):
        fields["last_event_id"] = seen
    return from_json(fields, method.request)


def _query(request: Request, descriptor: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            known = ", ".join(sorted(descriptor.fields_by_name)) or "none"
            raise InvalidRequest(f"{name!r} is not a parameter; there are: {known}", param=name)
        read = _truth(name, value) if field.type == FieldDescriptor.TYPE_BOOL else value
        if field.is_repeated:
            values.setdefault(name, []).append(read)
        elif name in values:
            raise InvalidRequest(f"{name!r} is given twice", param=name)
        else:
            values[name] = read
    return values


def _truth(name: str, value: str) -> bool:
    if (known := TRUTH.get(value.lower())) is None:
        raise InvalidRequest(f"{name} is {value!r}; it can be true or false", param=name)
    return known
