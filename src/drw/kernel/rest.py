"""REST for resources, made from the `google.api.http` annotations of the contracts.

JSON is strict: an unknown field is an error that names it. A method that
streams answers with server-sent events; where its messages have an `event_id`,
that is the event's id, and `Last-Event-ID` goes into `last_event_id` of the request.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from google.api import annotations_pb2, http_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from drw.api.contract import Method, Servicer
from drw.api.kernel.v1 import kernel_pb2
from drw.kernel import call
from drw.kernel.errors import DrwError, InvalidRequest, Unimplemented, http_body
from drw.kernel.rpc import translated

MAX_BODY_BYTES = 1 << 20
OPEN = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
"""Any JSON; its numbers are doubles, and whole ones are shown without a fraction."""
LARGE = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64)


def rule(method: Method) -> tuple[str, str, str] | None:
    """Return the verb, the path template and what the body is ("", "*") of a method; None where it has no REST form."""
    options = method.descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    http: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    verb = http.WhichOneof("pattern") or ""
    return verb.upper(), getattr(http, verb), http.body


def scope(method: Method) -> str:
    """Return the scope that a caller from outside needs; empty: no caller from outside may call."""
    return str(method.descriptor.GetOptions().Extensions[kernel_pb2.scope])  # type: ignore[index]


def routes(servicer: Servicer) -> list[Route]:
    """Return the REST routes of a service."""
    found = []
    for method in servicer.contract.methods.values():
        if bound := rule(method):
            verb, path, body = bound
            endpoint = _endpoint(servicer, method, has_body=body == "*")
            found.append(Route(path, endpoint, methods=[verb], name=f"{method.service}/{method.name}"))
    # "/runs/{run}:watch" before "/runs/{run}", which would take "x:watch" for the name of a run.
    return sorted(found, key=lambda route: "}:" not in route.path)


def to_json(message: Message) -> Any:
    """Return a message as JSON values: field names as in the proto file, 64-bit integers as numbers."""
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _numbers(value, message.DESCRIPTOR)


def _endpoint(servicer: Servicer, method: Method, *, has_body: bool) -> Any:
    needed = scope(method)
    service = servicer.contract.service
    run = getattr(servicer, method.python_name)
    written = method.name in servicer.written()

    async def endpoint(request: Request) -> Response:
        call.caller().must_hold(needed)
        if not written:
            raise Unimplemented(f"{service}.{method.name} is not implemented in this release", service=service)
        message = await _read(request, method, has_body=has_body)
        if method.streams:
            first = _Events(run(message), service, method)
            return await first.response()
        with translated(service, method.name):
            return Response(orjson.dumps(to_json(await run(message))), media_type="application/json")

    return endpoint


class _Events:
    """A stream of messages as server-sent events; an error before the first is an ordinary answer."""

    def __init__(self, messages: AsyncIterator[Message], service: str, method: Method) -> None:
        self._messages = messages
        self._service = service
        self._method = method

    async def response(self) -> Response:
        with translated(self._service, self._method.name):
            try:
                first = await anext(self._messages)
            except StopAsyncIteration:
                first = None
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(first), media_type="text/event-stream", headers=headers)

    async def _events(self, first: Message | None) -> AsyncIterator[bytes]:
        async with aclosing(self._messages) as messages:  # type: ignore[type-var]
            try:
                with translated(self._service, self._method.name):
                    if first is not None:
                        yield _event(first)
                    async for message in messages:
                        yield _event(message)
                yield b"event: done\ndata: {}\n\n"
            except DrwError as error:
                yield b"event: error\ndata: " + orjson.dumps(http_body(error)) + b"\n\n"


def _event(message: Message) -> bytes:
    event_id = getattr(message, "event_id", "")
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"data: " + orjson.dumps(to_json(message)) + b"\n\n"


async def _read(request: Request, method: Method, *, has_body: bool) -> Message:
    fields: dict[str, Any] = dict(_query(request, method.request.DESCRIPTOR))
    if has_body and (raw := await request.body()):
        if len(raw) > MAX_BODY_BYTES:
            raise InvalidRequest(f"the body has {len(raw)} bytes; at most {MAX_BODY_BYTES}")
        fields |= _object(raw)
    fields |= request.path_params
    if "last_event_id" in method.request.DESCRIPTOR.fields_by_name and (seen := request.headers.get("last-event-id")):
        fields["last_event_id"] = seen
    try:
        return json_format.ParseDict(fields, method.request())
    except json_format.ParseError as error:
        raise InvalidRequest(_readable(str(error))) from error


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _query(request: Request, descriptor: Any) -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    for name, value in request.query_params.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            known = ", ".join(sorted(descriptor.fields_by_name)) or "none"
            raise InvalidRequest(f"{name!r} is not a parameter; there are: {known}", param=name)
        if field.type == FieldDescriptor.TYPE_BOOL:
            values[name] = value.lower() in {"1", "true", "yes"}
        else:
            values[name] = value
    return values


def _readable(text: str) -> str:
    if match := re.search(r'no field named "([^"]+)"', text):
        known = ", ".join(re.findall(r"'(\w+)'", text.partition("Available Fields")[2]))
        return f"{match[1]!r} is not a field; there are: {known}"
    return text


def _numbers(value: Any, descriptor: Any) -> Any:
    for name, item in value.items() if isinstance(value, dict) else ():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if (kind := field.message_type) and kind.full_name in OPEN:
            value[name] = _whole(item)
        elif field.type in LARGE:
            value[name] = [int(i) for i in item] if isinstance(item, list) else int(item)
        elif kind and kind.file.package.startswith("drw.") and not kind.GetOptions().map_entry:
            for each in item if isinstance(item, list) else [item]:
                _numbers(each, kind)
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
