"""Records the OpenTelemetry spans of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from drw.kernel.observability import telemetry
from support.json_types import JsonObject


class Spans:
    """The ended spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def all(self) -> tuple[ReadableSpan, ...]:
        """Return every span."""
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        """Return the one span of that name."""
        (found,) = (span for span in self.all() if span.name == name)
        return found


def attributes_of(span: ReadableSpan) -> JsonObject:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


@contextmanager
def recorded() -> Iterator[Spans]:
    """Record the spans of this process during the block."""
    spans = Spans()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "tracer", provider.get_tracer("drw"))
        yield spans
    provider.shutdown()
