"""Double of a trace collector: receives OTLP over HTTP with protobuf, and stores the spans in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span(NamedTuple):
    """One received span."""

    service: str
    name: str
    id: str
    parent: str
    kind: int


class DoubleCollector:
    """Stores the received requests."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []

    def spans(self, trace: str) -> list[Span]:
        """Return the spans of a trace."""
        return [
            Span(service, span.name, span.span_id.hex(), span.parent_span_id.hex(), span.kind)
            for body in tuple(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for service in [next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")]
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace
        ]


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "content-length" in request.headers:
        return request.rfile.read(int(request.headers["content-length"]))
    body = b""
    while size := int(request.rfile.readline(), 16):  # Envoy sends in chunks (RFC 9112, section 7.1)
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


@contextmanager
def collecting() -> Iterator[DoubleCollector]:
    """Run a collector on a free port."""
    collector = DoubleCollector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = _body(self)
            valid = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            if valid:
                collector.bodies.append(body)
            self.send_response(200 if valid else 400)
            response = ExportTraceServiceResponse().SerializeToString()
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
