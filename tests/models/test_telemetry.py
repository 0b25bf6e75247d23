"""Spans, metrics and log fields of model calls: OpenTelemetry's conventions, no content."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY, generate_latest

from drw.billing.ledger.rows import Row
from drw.billing.reservations.reservation import Settlement
from drw.kernel.observability.telemetry import JsonFormatter
from drw.models.serving.observability import content_capture
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.settings import Settings as ServingSettings
from models.cluster import ModelsCluster, StartCluster
from support.json_types import Json, JsonObject
from support.telemetry.spans import Spans, attributes_of, recorded

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
WORDS = "the zebra crosses at noon"
SECRET = "sk-proj-abcdef0123456789"
LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "double",
    "gen_ai_response_model": "double",
}


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as cluster:
        yield cluster


@pytest.fixture
def lines() -> Iterator[Callable[[], list[JsonObject]]]:
    """The log as a process writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("test"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [orjson.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)


async def ask(cluster: ModelsCluster, how: str = "plain", **more: Json) -> httpx.Response:
    messages = [{"role": "system", "content": f"{WORDS} {SECRET}"}, {"role": "user", "content": how}]
    body = {"model": "double", "messages": messages, "stream": True, **more}
    return await cluster.http.post("/v1/chat/completions", json=body, headers=PARENT)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_call_is_a_client_span_and_propagates_its_trace_to_the_engine(
    cluster: ModelsCluster, spans: Spans
) -> None:
    parameters: JsonObject = {"temperature": 0.5, "max_tokens": 9, "seed": 3, "top_p": 0.9, "n": 1, "stop": ["noon"]}
    assert (await ask(cluster, **parameters)).status_code == 200
    span, server = spans.one("chat double"), spans.one("http/POST")
    assert span.kind is SpanKind.CLIENT
    assert span.parent is not None
    assert span.parent.span_id == server.context.span_id
    assert f"{span.context.trace_id:032x}" == TRACE
    attributes = attributes_of(span)
    assert attributes.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert 0 < attributes.pop("gen_ai.response.time_to_first_chunk") < 60
    assert attributes.pop("server.address").endswith(".d")
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "double",
        "gen_ai.response.model": "double",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
    }
    assert attributes_of(server)["http.response.status_code"] == 200
    (headers,) = cluster.double.headers
    version, trace_id, caller, flags = headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    asking = next(s for s in spans.all() if f"{s.context.span_id:016x}" == caller)
    assert asking.parent is not None
    assert span.context.span_id in (asking.context.span_id, asking.parent.span_id)  # an attempt is a child of the call
    assert [record["trace_id"] for record in cluster.records()] == [TRACE]


async def test_a_key_in_a_path_is_on_no_span(cluster: ModelsCluster, spans: Spans) -> None:
    key = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJrZXlfMSJ9.c2lnbmF0dXJl"
    await cluster.http.get(f"/v1/models/{key}")
    assert attributes_of(spans.one("http/GET"))["url.path"] == "/v1/models/[redacted: token]"
    assert key not in spans_text(spans)


async def test_a_failed_span_has_only_the_class_of_the_error(cluster: ModelsCluster, spans: Spans) -> None:
    await ask(cluster, "quoting")
    span = spans.one("chat double")
    assert attributes_of(span)["error.type"] == "EngineUnavailable"
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())
    assert attributes_of(spans.one("http/POST"))["error.type"] == "EngineUnavailable"


async def test_completions_and_embeddings_have_separate_operations(cluster: ModelsCluster, spans: Spans) -> None:
    await cluster.client.completions.create(model="double", prompt="plain", max_tokens=4)
    await cluster.client.embeddings.create(model="vectors", input=["one", "three"])
    assert attributes_of(spans.one("text_completion double"))["gen_ai.request.max_tokens"] == 4
    embedding_span = spans.one("embeddings vectors")
    assert (embedding_span.kind, attributes_of(embedding_span)["gen_ai.usage.input_tokens"]) == (SpanKind.CLIENT, 2)


async def test_metrics_follow_the_conventions_without_labels_from_requests(cluster: ModelsCluster) -> None:
    ended = {"error_type": "", "outcome": "ok"}
    names = [
        ("gen_ai_server_time_to_first_token_seconds_count", {}),
        ("gen_ai_server_time_per_output_token_seconds_count", {}),
        ("gen_ai_server_request_duration_seconds_count", ended),
        ("gen_ai_client_operation_duration_seconds_count", {"error_type": ""}),
    ]
    counts = [sample(name, **LABELS, **more) for name, more in names]
    tokens = [sample("gen_ai_client_token_usage_sum", **LABELS, gen_ai_token_type=k) for k in ("input", "output")]
    overhead = sample("drw_overhead_seconds_count", part="serving")
    await ask(cluster)
    assert [sample(name, **LABELS, **more) for name, more in names] == [count + 1 for count in counts]
    assert [sample("gen_ai_client_token_usage_sum", **LABELS, gen_ai_token_type=k) for k in ("input", "output")] == [
        tokens[0] + 5,
        tokens[1] + 3,
    ]
    assert sample("drw_overhead_seconds_count", part="serving") == overhead + 1
    await ask(cluster, model="zebra-of-the-caller")
    await cluster.http.request("PROPFIND", "/v1/zebra")
    text = generate_latest().decode()
    assert "zebra" not in text.lower()
    assert 'method="_OTHER"' in text


async def test_log_fields_have_the_names_of_span_attributes(
    cluster: ModelsCluster, lines: Callable[[], list[JsonObject]]
) -> None:
    await ask(cluster)
    (line,) = (line for line in lines() if line.get("path") == "/v1/chat/completions")
    assert line["trace_id"] == TRACE
    assert line["gen_ai.request.model"] == line["gen_ai.response.model"] == "double"
    assert (line["gen_ai.usage.input_tokens"], line["gen_ai.usage.output_tokens"]) == (5, 3)
    assert line["overhead_ms"] > 0 < line["upstream_ms"]
    assert line["overhead_ms"] + line["upstream_ms"] <= line["ms"] + 0.02  # each is rounded
    await ask(cluster, "status_429")
    (line,) = (line for line in lines() if line.get("code") == "429")
    assert (line["error.type"], line["error"]) == ("EngineLimited", "the upstream of 'double' is over its limit")


@pytest.mark.parametrize("how", ["repeating", "quoting", "quoting_400", "quoting_429", "quoting_event", "no_finish"])
async def test_content_is_not_captured_by_default(
    cluster: ModelsCluster, spans: Spans, lines: Callable[[], list[JsonObject]], how: str
) -> None:
    answer = await ask(cluster, how)
    assert WORDS in answer.text or how == "no_finish"
    for place in (spans_text(spans), orjson.dumps(lines()).decode(), generate_latest().decode()):
        assert WORDS not in place
        assert SECRET not in place
        assert how not in place.replace("drw_", "")  # the caller's own last message


async def test_captured_content_is_redacted(
    start: StartCluster, spans: Spans, lines: Callable[[], list[JsonObject]]
) -> None:
    async with start(capture_content=True, capture_characters=400) as cluster:
        tool = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"password": "hunter22"}'}}
        messages: Json = [
            {"role": "system", "content": f"{WORDS}: {SECRET}, mail ann@example.com, card 4111 1111 1111 1111"},
            {"role": "assistant", "tool_calls": [tool]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "user", "content": "repeating"},
        ]
        await cluster.client.chat.completions.create(model="double", messages=messages)
        attributes = attributes_of(spans.one("chat double"))
        input_messages, output_messages = (
            orjson.loads(attributes[f"gen_ai.{way}.messages"]) for way in ("input", "output")
        )
        clean = f"{WORDS}: [redacted: key], mail [redacted: email], card [redacted: number]"
        assert input_messages[0] == {"role": "system", "parts": [{"type": "text", "content": clean}]}
        assert input_messages[1]["parts"][0]["name"] == "look"
        assert input_messages[2]["parts"] == [{"type": "tool_call_response", "id": "c1", "response": "found"}]
        assert output_messages[0]["parts"] == [{"type": "text", "content": clean}]
        assert output_messages[0]["finish_reason"] == "stop"
        for secret in (SECRET, "hunter22", "ann@example.com", "4111"):
            assert secret not in spans_text(spans)
        spans.exporter.clear()
        long: Json = [{"role": "system", "content": f"{WORDS} " * 500}, {"role": "user", "content": "repeating"}]
        await cluster.client.chat.completions.create(model="double", messages=long)
        attributes = attributes_of(spans.one("chat double"))
        assert all(len(attributes[f"gen_ai.{way}.messages"]) < 700 for way in ("input", "output"))
        assert WORDS not in orjson.dumps(lines()).decode()
        assert WORDS not in generate_latest().decode()


@pytest.mark.parametrize(
    ("value", "enabled"), [("true", True), ("SPAN_ONLY", True), ("", False), ("EVENT_ONLY", False)]
)
def test_opentelemetrys_variable_enables_content_capture(
    monkeypatch: pytest.MonkeyPatch, value: str, enabled: bool
) -> None:
    monkeypatch.setenv(content_capture.VARIABLE, value)
    assert ServingSettings().capture_content is enabled
    assert ServingSettings(capture_content=False).capture_content is False


async def test_cost_is_counted_for_the_model_of_each_attempt(spans: Spans) -> None:
    class DoubleAudit:
        def line(self, action: str, resource: str, outcome: str, details: JsonObject) -> str:
            self.details = details
            return "line"

        async def put(self, line: str) -> None: ...

    def row(model: str, cost: int) -> Row:
        caller: JsonObject = {"org": "", "desk": "", "key": "platform"}
        at = datetime.now(UTC)
        return Row(
            id=model, at=at, model=model, route="managed", cost=cost, outcome="ok", counted_by="engine", **caller
        )

    audit: Any = DoubleAudit()
    labels = [{"org": "", "desk": "", "gen_ai_response_model": model} for model in ("first", "second")]
    before = [sample("drw_cost_usd_total", **each) for each in labels]
    record = CallRecord(audit, "chat", b"{}")
    record.set_model("first", "openai", "up", requested="alias", address="https://models.example.com/v1")
    record.set_model("second", "vertex", "up")
    record.charge(Settlement([row("first", 500_000_000), row("second", 1_000_000_000)], details={"cached_tokens": 7}))
    await record.close()
    attributes = attributes_of(spans.one("chat alias"))
    assert (attributes["gen_ai.request.model"], attributes["gen_ai.response.model"]) == ("alias", "second")
    assert (attributes["server.address"], attributes["server.port"], attributes["drw.cost.usd"]) == (
        "models.example.com",
        443,
        1.5,
    )
    assert [sample("drw_cost_usd_total", **each) for each in labels] == [before[0] + 0.5, before[1] + 1.0]
    assert (audit.details["model"], audit.details["ledger"], audit.details["cost_usd"]) == ("second", "first", "1.50")
    assert audit.details["cached_tokens"] == 7


def spans_text(spans: Spans) -> str:
    return "\n".join(span.to_json() for span in spans.all())
