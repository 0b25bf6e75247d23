"""Logs, traces and metrics: one JSON line a request, W3C trace context, Prometheus."""

from __future__ import annotations

import logging
import random
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from prometheus_client import Counter, Histogram

PROBED = "process"
"""What tells the status of a process; asked often, and worth no line of log each time."""

KEY = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
"""What looks like a key, wherever somebody has put it: no line of a log has one."""

tracer = trace.get_tracer("drw")

CALLS = Histogram(
    "drw_call_seconds",
    "Time a call took on the side that served it, in seconds.",
    ["service", "method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Counter("drw_calls_started", "Calls begun; less the finished ones, these are in flight.", ["service"])


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
            line["exception"] = self.formatException(record.exc_info)
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

    provider = TracerProvider(resource=Resource.create({"service.name": f"drw-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is not sent yet."""
    if shutdown := getattr(trace.get_tracer_provider(), "shutdown", None):  # only the provider that exports has one
        shutdown()


def current_trace_id() -> str:
    """Return the id of the present trace in hex, or an empty string."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def outgoing_headers() -> dict[str, str]:
    """Return the headers that carry the trace to the next process."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def incoming_context(headers: dict[str, str]) -> Context:
    """Return the trace context that came with a request."""
    return propagate.extract(headers)


class Request:
    """Measures one served request: a span, a line of log, a histogram."""

    def __init__(self, service: str, method: str, headers: dict[str, str]) -> None:
        self._service = service
        self._method = method
        self._headers = headers
        self.fields: dict[str, Any] = {}

    def __enter__(self) -> Request:
        self._began = time.perf_counter()
        IN_FLIGHT.labels(self._service).inc()
        context = incoming_context(self._headers)
        name = f"{self._service}/{self._method}"
        self.span: Span = tracer.start_span(name, context=context, kind=SpanKind.SERVER)
        if not self.span.get_span_context().is_valid:
            # Nobody records it; its id still ties log lines and audit records together.
            ids = SpanContext(random.getrandbits(128), random.getrandbits(64), is_remote=False)
            self.span = NonRecordingSpan(ids)
        self._token = attach(trace.set_span_in_context(self.span, context))
        return self

    def finish(self, code: str, level: int = logging.INFO) -> None:
        """Say how it ended; call once."""
        seconds = time.perf_counter() - self._began
        CALLS.labels(self._service, self._method, code).observe(seconds)
        fields = {"service": self._service, "method": self._method, "code": code, "ms": round(seconds * 1000, 2)}
        if self._service != PROBED or level > logging.INFO:
            logging.getLogger("drw.request").log(level, "request", extra={"fields": fields | self.fields})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            self.span.record_exception(error)
            self.span.set_status(StatusCode.ERROR)
        detach(self._token)
        self.span.end()
