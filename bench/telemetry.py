"""CPU time of the managed path: the ASGI application of model serving with doubles around it.

`python -m bench.telemetry` prints the CPU time of one streamed response, with and without recorded spans, and in an
experiment of its alias. Run it on two versions of the code to compare them.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import orjson
from opentelemetry import trace

from drw.api.gateway.v1.rate_limiting_pb2 import Policy
from drw.api.models.v1 import discovery_pb2
from drw.api.models.v1.discovery_pb2 import Model, Plan, ResolvedModel
from drw.api.models.v1.experiments_pb2 import Arm, RoutedExperiment, Routing, Treatment
from drw.billing.pricing.policy import CurrentPricing
from drw.billing.reservations.client import ReservationClient
from drw.billing.settings import MeteringSettings
from drw.kernel.observability.telemetry import JsonFormatter
from drw.kernel.rpc.http import server as http_server
from drw.kernel.runtime.clock import Clock
from drw.killswitch.watch import KillList
from drw.models.serving.experiments.calls import CallExperiments
from drw.models.serving.failover.loop import FailoverPolicy
from drw.models.serving.failover.retries import RetryBudget
from drw.models.serving.http import endpoints
from drw.models.serving.http.body_buffers import BodyBuffers
from drw.models.serving.http.endpoints import AuditedEndpoints
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.openai.usage import usage_update
from drw.models.serving.ports import (
    UNLIMITED,
    Body,
    ChatEngine,
    Chunk,
    CountedPrompt,
    Endpoint,
    EngineEvent,
    EngineLimits,
    EngineTarget,
)
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.routing.admission_queue import AdmissionQueue
from drw.models.serving.routing.model_directory import ModelDirectory
from drw.models.serving.settings import CircuitSettings, RetrySettings
from drw.routing.experiments.routing_table import RoutingTable

TOKENS = 64
REQUESTS = 400
ROUNDS = 7
EXPERIMENTS = 200
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
    """Streams the same word repeatedly."""

    async def stream(
        self,
        target: EngineTarget,
        endpoint: Endpoint,
        body: Body,
        limits: EngineLimits = UNLIMITED,
        prompts: Sequence[CountedPrompt] = (),
    ) -> AsyncGenerator[EngineEvent, None]:
        """Yield the chunks of the response."""
        for _ in range(TOKENS):
            chunk: Chunk = {"choices": [{"index": 0, "delta": {"content": "word "}}]}
            yield chunk, usage_update(chunk)
        for last in (
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": TOKENS}},
        ):
            yield last, usage_update(last)

    async def count_prompt(self, target: EngineTarget, endpoint: Endpoint, body: Body) -> CountedPrompt | None:
        """Return None."""
        return None

    async def check(self, target: EngineTarget) -> None:
        """Always healthy."""

    async def close(self) -> None:
        """Nothing to close."""


class DoubleDiscovery:
    """Resolves every name to one model."""

    async def resolve_plan(self, request: Any, timeout: float | None = None) -> Plan:
        """Return a plan with the model."""
        model = Model(id="mock", kind=Model.CHAT, engine="openai", context_length=4096)
        url = "http://127.0.0.1:1/v1"
        permit = discovery_pb2.Permit(validation="settings")
        resolved = ResolvedModel(model=model, base_url=url, upstream_model="mock", max_concurrent=64, permit=permit)
        return Plan(id="mock", targets=[discovery_pb2.Target(model=resolved, weight=1)])


class DoubleAudit:
    """Discards all records."""

    def line(self, *record: Any) -> str:
        """Return nothing."""
        return ""

    async def record(self, *record: Any, **options: Any) -> None:
        """Take a record."""


class DoubleLedger:
    """Discards all records."""

    async def put(self, rows: Any, record: str = "") -> None:
        """Take rows."""


def running_experiments(count: int) -> RoutingTable:
    """Return a table with so many running experiments, one of which takes all calls of the benchmark."""
    table = RoutingTable()
    arms = [Arm(name="control", weight=1), Arm(name="other", weight=1, treatment=Treatment(model="mock"))]
    table.apply(
        Routing(
            expires_at=2**40,
            experiments=[
                RoutedExperiment(
                    key=number,
                    org="local",
                    desk="research" if not number else f"desk-{number}",
                    name=f"e{number}",
                    alias="mock",
                    unit="key",
                    seed=f"s{number}",
                    traffic_percent=100,
                    arms=arms,
                )
                for number in range(count)
            ],
        )
    )
    return table


def application(table: RoutingTable | None = None) -> Any:
    """Return the application of model serving with doubles, without prices, limits and kills."""
    engine, discovery, audit, ledger = DoubleEngine(), DoubleDiscovery(), DoubleAudit(), DoubleLedger()
    clock, circuits, kills = Clock(), CircuitSettings(), KillList(None, Path("no-such-file"))  # type: ignore[arg-type]
    models = ModelDirectory(
        discovery,  # type: ignore[arg-type]
        lambda _: engine,
        lambda m, n: AdmissionQueue(m, n, 64, 60),
        circuits,
        clock,
        300,
        kills,
    )
    rules = FailoverPolicy(clock, Random(), RetryBudget(RetrySettings(), clock, Random()), circuits, kills, 900)
    buffers = BodyBuffers(1 << 30, 1 << 30)
    reservations = ReservationClient(None, ledger, MeteringSettings())  # type: ignore[arg-type]
    metering = BudgetGate(CurrentPricing.fixed(Policy()), reservations)
    runner = RequestRunner(models, rules, metering, CallExperiments(models, table or RoutingTable()))
    routes = endpoints.routes(runner, None, AuditedEndpoints(audit, kills, buffers, 1 << 20))  # type: ignore[arg-type]
    return http_server.app(routes, "bench")


async def send_request(application: Any) -> int:
    """Send one request; return the number of bytes of the response."""
    sent = 0
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": BODY}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await application(scope, receive, send)
    return sent


async def measure(application: Any, requests: int = REQUESTS, rounds: int = ROUNDS) -> float:
    """Return the CPU time of one response in microseconds, the best of several rounds."""
    assert await send_request(application) > TOKENS * 100
    best = float("inf")
    for _ in range(rounds):
        started_at = time.process_time()
        for _ in range(requests):
            await send_request(application)
        best = min(best, (time.process_time() - started_at) / requests)
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
    """Print all figures."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter("bench"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    app = application()
    print(f"an answer of {TOKENS} tokens, streamed, without a collector: {asyncio.run(measure(app)):.0f} us")
    assigned = application(running_experiments(EXPERIMENTS))
    print(f"the same in one of {EXPERIMENTS} experiments:                      {asyncio.run(measure(assigned)):.0f} us")
    _export()
    print(f"the same with spans recorded:                           {asyncio.run(measure(app)):.0f} us")


if __name__ == "__main__":
    main()
