"""Logs, traces and metrics: one JSON line a request, W3C trace context, Prometheus."""

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

FAILURES = {"500", "501", "502", "503", "504"} | {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
"""Which ends of a request are the server's fault, by the conventions for HTTP and gRPC."""
PROBED = "process"
"""Methods for status probes, which are not logged."""

EXPORT_SECONDS = 3.0
"""Timeout for exporting a batch of spans, including retries."""
FLUSH_SECONDS = 5.0
"""Timeout for exporting the remaining spans at shutdown; well below the shutdown grace."""

ERROR_TYPE = "error.type"
QUOTES = "quotes"
"""Metadata of errors whose message contains third-party text after the first colon."""
KEY = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
"""Pattern of API keys, which are redacted in all log lines."""

REQUESTS = logging.getLogger("drw.request")
tracer = trace.get_tracer("drw")
PROPAGATOR = TraceContextTextMapPropagator()
"""W3C trace context only: baggage is client input, and would be forwarded to third-party engines."""
PLAIN = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""The usual form of a traceparent."""

CALLS = Histogram(
    "drw_call_seconds",
    "Time a call took on the side that served it, in seconds.",
    ["service", "method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Counter("drw_calls_started", "Calls begun; less the finished ones, these are in flight.", ["service"])


@lru_cache(maxsize=4096)
def _calls(service: str, method: str, code: str) -> Histogram:
    return CALLS.labels(service, method, code)


@lru_cache(maxsize=256)
def _begun(service: str) -> Counter:
    return IN_FLIGHT.labels(service)


def _log_request(level: int, fields: dict[str, Any]) -> None:
    """Log as `Logger.log`, without the stack inspection for the caller's location."""
    if REQUESTS.isEnabledFor(level):
        REQUESTS.handle(REQUESTS.makeRecord(REQUESTS.name, level, "", 0, "request", (), None, extra={"fields": fields}))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

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
        return KEY.sub("(a key)", orjson.dumps(line, default=str).decode())


def set_up(process: str, otlp_endpoint: str = "") -> None:
    """Start logging to standard error and, with an endpoint, sending traces there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "uvicorn.error", "alembic", "dbos", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if otlp_endpoint:
        _export_spans(process, otlp_endpoint)


def _export_spans(process: str, endpoint: str) -> None:
    # Imported here: without a collector none of it is needed, and it takes its share of a start.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"drw-{process}"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `flush` does it, and does not wait for ever
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Flush spans within a timeout, so that an unreachable collector does not delay shutdown."""
    if shutdown := getattr(trace.get_tracer_provider(), "shutdown", None):  # only the provider that exports has one
        sending = Thread(target=shutdown, daemon=True)
        sending.start()
        sending.join(seconds)


def exports() -> bool:
    """Return whether spans are exported."""
    return not (
        isinstance(tracer, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    )


def current_trace_id() -> str:
    """Return the id of the present trace in hex, or an empty string."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def outgoing_headers() -> dict[str, str]:
    """Return the headers that carry the trace to the next process."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid and not context.trace_state:
        trace_id = trace.format_trace_id(context.trace_id)
        span_id = trace.format_span_id(context.span_id)
        return {"traceparent": f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"}
    headers: dict[str, str] = {}
    PROPAGATOR.inject(headers)
    return headers


def incoming_context(headers: Mapping[str, str]) -> Context:
    """Return the trace context that came with a request."""
    match = PLAIN.fullmatch(headers.get("traceparent", ""))
    if match is None or "tracestate" in headers:
        return PROPAGATOR.extract(headers)  # which knows every form, and takes four times as long
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent.is_valid else Context()


@contextmanager
def continuing(context: Context) -> Iterator[None]:
    """Make the block part of the trace of this context, or of none, and not of the present one."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def error_type(error: BaseException) -> str:
    """Return the class of an error as spans, metrics and log lines name it; where it was raised does not matter."""
    return error.reason if isinstance(error, DrwError) else type(error).__name__


def loggable(error: DrwError) -> str:
    """Return the description of an error for the log.

    For invalid requests it is the field, since the message can quote the request. For upstream failures it is the
    platform's part of the message, since the rest can quote a prompt. The caller gets the complete message.
    """
    if isinstance(error, InvalidRequest):
        return " ".join(["invalid", *(error.metadata[k] for k in ("param", "code") if k in error.metadata)])
    return error.message.partition(": ")[0] if QUOTES in error.metadata else error.message


def failed(span: Span, kind: str) -> None:
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
            failed(created, error_type(error))
            raise


class AttachedSpan:
    """A span that is the present one from here to `end`, though code of others runs in between, as in a generator."""

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self._before = get_current()
        self.span = tracer.start_span(name, kind=kind, attributes=attributes)
        self._context = trace.set_span_in_context(self.span)
        attach(self._context)

    def end(self) -> None:
        """End the span and restore the previous one, unless the task has entered another."""
        self.span.end()
        if get_current() is self._context:
            attach(self._before)


class Request:
    """Measures one served request: a span, a line of log, a histogram."""

    def __init__(self, service: str, method: str, headers: dict[str, str]) -> None:
        self._service = service
        self._method = method
        self._headers = headers
        self.fields: dict[str, Any] = {}

    def __enter__(self) -> Request:
        self._began = time.perf_counter()
        _begun(self._service).inc()
        context = incoming_context(self._headers)
        self.span: Span = trace.get_current_span(context)
        if exports():
            self.span = tracer.start_span(f"{self._service}/{self._method}", context=context, kind=SpanKind.SERVER)
        if not self.span.get_span_context().is_valid:
            # Nobody records it; its id still ties log lines and audit records together.
            ids = SpanContext(random.getrandbits(128), random.getrandbits(64), is_remote=False)
            self.span = NonRecordingSpan(ids)
        self._token = attach(trace.set_span_in_context(self.span, context))
        return self

    def fails(self, error: DrwError) -> None:
        """Say which error the answer is."""
        self.fields |= {ERROR_TYPE: error.reason, "error": loggable(error)}

    def finish(self, code: str, level: int = logging.INFO) -> None:
        """Say how it ended; call once."""
        seconds = time.perf_counter() - self._began
        if self.span.is_recording():
            self.span.set_attributes(self._attributes(code))
            if code in FAILURES:
                failed(self.span, self.fields.get(ERROR_TYPE, code))
        _calls(self._service, self._method, code).observe(seconds)
        fields = {"service": self._service, "method": self._method, "code": code, "ms": round(seconds * 1000, 2)}
        if self._service != PROBED or level > logging.INFO:
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
            failed(self.span, error_type(error))
        detach(self._token)
        self.span.end()
