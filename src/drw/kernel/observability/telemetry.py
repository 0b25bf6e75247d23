"""Logs, traces and metrics: one JSON line per request, W3C trace context, Prometheus."""

from __future__ import annotations

import logging
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from threading import Thread
from typing import Any

import orjson
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Histogram

from drw.kernel.errors import DrwError, InvalidRequest
from drw.kernel.observability.redaction import redacted, without_tokens

SERVER_FAULTS = {"500", "501", "502", "503", "504"} | {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
"""Status codes that mark a server span as failed, by the conventions for HTTP and gRPC."""
PROBE_SERVICE = "process"
"""Service of the status probes, which are not logged."""

EXPORT_SECONDS = 3.0
"""Timeout for exporting a batch of spans, including retries."""
FLUSH_SECONDS = 5.0
"""Timeout for exporting the remaining spans at shutdown; well below the shutdown grace."""

ERROR_TYPE = "error.type"
QUOTES = "quotes"
"""Metadata of errors whose message contains third-party text after the first colon."""
API_KEY = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
"""Pattern of API keys, which are redacted in all log lines."""

REQUESTS = logging.getLogger("drw.request")
tracer = trace.get_tracer("drw")
PROPAGATOR = TraceContextTextMapPropagator()
"""W3C trace context only: baggage is client input, and would be forwarded to third-party engines."""
TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""The common form of a traceparent."""

CALLS = Histogram(
    "drw_call_seconds",
    "Duration of a call, measured by the service, in seconds.",
    ["service", "method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
STARTED = Counter("drw_calls_started", "Calls begun; less the finished ones, these are in flight.", ["service"])


@lru_cache(maxsize=4096)
def _duration(service: str, method: str, code: str) -> Histogram:
    return CALLS.labels(service, method, code)


@lru_cache(maxsize=256)
def _started(service: str) -> Counter:
    return STARTED.labels(service)


def _log_request(level: int, fields: dict[str, Any]) -> None:
    """Log as `Logger.log`, without the stack inspection for the caller's location."""
    if REQUESTS.isEnabledFor(level):
        REQUESTS.handle(REQUESTS.makeRecord(REQUESTS.name, level, "", 0, "request", (), None, extra={"fields": fields}))


class JsonFormatter(logging.Formatter):
    """Formats log records as JSON lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", None) or {}
        if trace_id := current_trace_id():
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        text = orjson.dumps(line, default=str).decode()
        return API_KEY.sub("(a key)", text) if "eyJ" in text else text


def set_up(process: str, otlp_endpoint: str = "") -> None:
    """Configure logging to standard error, and the export of traces if there is an endpoint."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "uvicorn.error", "alembic", "dbos", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if otlp_endpoint:
        _export_spans(process, otlp_endpoint)


def _export_spans(process: str, endpoint: str) -> None:
    # Imported here: these imports are slow, and only needed with a collector.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"drw-{process}"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `flush` shuts it down, with a timeout
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Flush spans within a timeout, so that an unreachable collector does not delay shutdown."""
    if shutdown := getattr(trace.get_tracer_provider(), "shutdown", None):  # only the provider that exports has one
        shutting_down = Thread(target=shutdown, daemon=True)
        shutting_down.start()
        shutting_down.join(seconds)


def exports() -> bool:
    """Return whether spans are exported."""
    return not (
        isinstance(tracer, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    )


def current_trace_id() -> str:
    """Return the id of the current trace in hex, or an empty string."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def outgoing_headers() -> dict[str, str]:
    """Return the headers that propagate the trace to the next process."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid and not context.trace_state:
        trace_id = trace.format_trace_id(context.trace_id)
        span_id = trace.format_span_id(context.span_id)
        return {"traceparent": f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"}
    headers: dict[str, str] = {}
    PROPAGATOR.inject(headers)
    return headers


def incoming_context(headers: Mapping[str, str]) -> Context:
    """Extract the trace context of a request from its headers."""
    match = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    if match is None or "tracestate" in headers:
        return PROPAGATOR.extract(headers)  # supports every form, and takes four times as long
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent.is_valid else Context()


@contextmanager
def continuing(context: Context) -> Iterator[None]:
    """Run the block in the trace of this context instead of the current trace."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def error_type(error: BaseException) -> str:
    """Return the class name of an error for spans, metrics and logs; for an error of another process, its class."""
    return error.reason if isinstance(error, DrwError) else type(error).__name__


def loggable(error: DrwError) -> str:
    """Return the description of an error for the log.

    For invalid requests it is the field, since the message can quote the request. For upstream failures it is the
    platform's part of the message, since the rest can quote a prompt. The caller gets the complete message.
    """
    if isinstance(error, InvalidRequest):
        return " ".join(["invalid", *(error.metadata[k] for k in ("param", "code") if k in error.metadata)])
    return error.message.partition(": ")[0] if QUOTES in error.metadata else error.message


def mark_failed(span: Span, kind: str) -> None:
    """Mark a span as failed, without the error message, which can quote input."""
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR)


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    context: Context | None = None,
) -> Iterator[Span]:
    """Record the block as a span of the current or given trace; an error marks it as failed."""
    with tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as created:
        try:
            yield created
        except BaseException as error:
            mark_failed(created, error_type(error))
            raise


class AttachedSpan:
    """A span that stays the current span until `end`, for generators, where other code runs in between."""

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self._previous = get_current()
        self.span = tracer.start_span(name, kind=kind, attributes=attributes)
        self._context = trace.set_span_in_context(self.span)
        attach(self._context)

    def end(self) -> None:
        """End the span and restore the previous one, unless the task has entered another."""
        self.span.end()
        if get_current() is self._context:
            attach(self._previous)


class Request:
    """Telemetry of one served request: a span, a log line, a histogram."""

    def __init__(self, service: str, method: str, headers: dict[str, str]) -> None:
        self._service = service
        self._method = method
        self._headers = headers
        self.fields: dict[str, Any] = {}

    def __enter__(self) -> Request:
        self._start_time = time.perf_counter()
        _started(self._service).inc()
        context = incoming_context(self._headers)
        self.span: Span = trace.get_current_span(context)
        if exports():
            self.span = tracer.start_span(f"{self._service}/{self._method}", context=context, kind=SpanKind.SERVER)
        if not self.span.get_span_context().is_valid:
            # The span is not exported; its id still correlates log lines and audit records.
            ids = SpanContext(random.getrandbits(128), random.getrandbits(64), is_remote=False)
            self.span = NonRecordingSpan(ids)
        self._token = attach(trace.set_span_in_context(self.span, context))
        return self

    def record_error(self, error: DrwError) -> None:
        """Record the error that the request fails with."""
        self.fields |= {ERROR_TYPE: error.reason, "error": loggable(error)}

    def finish(self, code: str, level: int = logging.INFO) -> None:
        """Record the status code and the duration; call once."""
        seconds = time.perf_counter() - self._start_time
        if self.span.is_recording():
            self.span.set_attributes(self._attributes(code))
            if code in SERVER_FAULTS:
                mark_failed(self.span, self.fields.get(ERROR_TYPE, code))
        _duration(self._service, self._method, code).observe(seconds)
        fields = {"service": self._service, "method": self._method, "code": code, "ms": round(seconds * 1000, 2)}
        if self._service != PROBE_SERVICE or level > logging.INFO:
            _log_request(level, fields | self.fields)

    def _attributes(self, code: str) -> dict[str, str | int]:
        """Return the attributes of a server span in the HTTP and RPC conventions."""
        if self._service == "http":
            path = without_tokens(str(self.fields.get("path", "")))
            return {"http.request.method": self._method, "http.response.status_code": int(code), "url.path": path}
        return {
            "rpc.system": "grpc",
            "rpc.service": self._service,
            "rpc.method": self._method,
            "rpc.response.status_code": code,
        }

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            mark_failed(self.span, error_type(error))
        detach(self._token)
        self.span.end()
