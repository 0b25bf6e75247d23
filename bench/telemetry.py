"""What our own code costs on the managed path, in CPU time: the ASGI application over an engine that costs nothing.

`python -m bench.telemetry` prints the time of one streamed answer, without a collector and with one.
Run it on two versions of the code, and compare: everything but the code is the same.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from opentelemetry import trace

from drw.api.models.v1.discovery_pb2 import Model, ResolvedModel
from drw.kernel import http
from drw.kernel.telemetry import JsonFormatter
from drw.models.serving import endpoints
from drw.models.serving.line import Line
from drw.models.serving.models import Models
from drw.models.serving.ports import Body, ChatEngine, Chunk, Endpoint, Target

TOKENS = 64
REQUESTS = 400
ROUNDS = 7
HEADERS = {
    "content-type": "application/json",
    "x-drw-key": "key_bench",
    "x-drw-org": "local",
    "x-drw-desk": "research",
    "x-drw-scopes": "models:invoke",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
BODY = orjson.dumps(
    {"model": "mock", "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "word " * 50}]}
)


class DoubleEngine(ChatEngine):
    """Says the same word again and again, at no cost."""

    async def stream(self, target: Target, endpoint: Endpoint, body: Body) -> AsyncGenerator[Chunk, None]:
        """Yield the answer."""
        for _ in range(TOKENS):
            yield {"choices": [{"index": 0, "delta": {"content": "word "}}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": TOKENS}}

    async def count_prompt(self, target: Target, endpoint: Endpoint, body: Body) -> int | None:
        """Return None."""
        return None

    async def check(self, target: Target) -> None:
        """Always well."""

    async def close(self) -> None:
        """Nothing to close."""


class DoubleDiscovery:
    """Knows one model."""

    async def resolve_model(self, request: Any, timeout: float | None = None) -> ResolvedModel:
        """Return it."""
        model = Model(id="mock", kind=Model.CHAT, engine="openai", context_length=4096)
        return ResolvedModel(model=model, base_url="http://127.0.0.1:1/v1", upstream_model="mock", max_concurrent=64)


class DoubleAudit:
    """Keeps nothing."""

    async def record(self, action: str, resource: str, **more: Any) -> None:
        """Take a record."""


def application() -> Any:
    """Return serving's application with doubles around it."""
    engine = DoubleEngine()
    models = Models(DoubleDiscovery(), lambda _: engine, lambda m, n: Line(m, n, 64, 60), 300)  # type: ignore[arg-type]
    return http.app(endpoints.routes(models, DoubleDiscovery(), None, DoubleAudit(), 1 << 20), "bench")  # type: ignore[arg-type]


async def ask(application: Any) -> int:
    """Send one request; return the bytes of its answer."""
    sent = 0
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": BODY}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await application(scope, receive, send)
    return sent


async def measure(application: Any) -> float:
    """Return the microseconds of CPU time that one answer takes, in the best of some rounds."""
    assert await ask(application) > TOKENS * 100
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REQUESTS):
            await ask(application)
        best = min(best, (time.process_time() - began) / REQUESTS)
    return best * 1e6


def _export() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class DoubleExporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(DoubleExporter()))
    trace.set_tracer_provider(provider)


def main() -> None:
    """Print both figures."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter("bench"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    ours = application()
    print(f"an answer of {TOKENS} tokens, streamed, without a collector: {asyncio.run(measure(ours)):.0f} us")
    _export()
    print(f"the same with spans recorded:                           {asyncio.run(measure(ours)):.0f} us")


if __name__ == "__main__":
    sys.exit(main())
