"""Traces, audit records and metrics of a whole platform, without prompt content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

import drw
from drw.local.paths import PlatformPaths
from e2e.collector import DoubleCollector, Span
from e2e.platform import Platform
from observability.queries import OF_SEVERAL_HOSTS, PROMETHEUS_OWN, queries, recorded, selectors
from support.parts import wait_until

DEMO = Path(drw.__file__).parent / "demo" / "documents" / "risk-policy.md"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
QUESTION = "Which zebra signs a waiver of a risk limit?"
WORD = b"zebra"
PROCESSES = ("gateway", "models", "rag", "workflow", "agent")


@pytest.fixture(scope="module")
def http(platform: Platform) -> Iterator[httpx.Client]:
    """A client of the gateway with the first key and the parent span of one trace."""
    credentials = platform.credentials
    headers = {"authorization": f"Bearer {credentials['api_key']}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    with httpx.Client(base_url=credentials["url"], headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def traced_run(platform: Platform, http: httpx.Client) -> str:
    """Send an ask, an embedding and a run in that trace; return the id of the run."""
    platform.json("ingest", str(DEMO), "--collection", "traced")
    answer = http.post("/api/v1/collections/traced:ask", json={"question": QUESTION})
    assert answer.status_code == 200
    assert answer.headers["x-trace-id"] == TRACE
    assert http.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "zebra"}).status_code == 200
    file = http.get("/v1/files").json()["data"][0]["id"]
    run = http.post("/api/v1/runs", json={"template": "digest", "inputs": {"files": [file], "collection": "traced"}})
    assert run.status_code == 200, run.text
    name = run.json()["id"]
    wait_until(lambda: http.get(f"/api/v1/runs/{name}").json()["state"] in ("SUCCEEDED", "FAILED"), "the run", 120)
    return name


def test_one_trace_spans_every_process(platform: Platform, collector: DoubleCollector, traced_run: str) -> None:
    expected = {
        ("drw-rag", "http/POST"),
        ("drw-rag", "retrieval traced"),
        ("drw-rag", "embeddings all-minilm-l6-v2"),
        ("drw-models", "serving/Chat"),
        ("drw-models", "chat smollm2-135m-instruct"),
        ("drw-models", "embeddings all-minilm-l6-v2"),
        ("drw-workflow", "http/POST"),
        ("drw-workflow", "invoke_workflow digest"),
    }

    def spans_are_complete() -> bool:
        spans = collector.spans(TRACE)
        ids = {span.id for span in spans} | {CALLER}
        connected = all(span.parent in ids for span in spans)
        return (
            connected
            and expected <= {(s.service, s.name) for s in spans}
            and "drw-gateway" in {s.service for s in spans}
        )

    wait_until(
        spans_are_complete,
        f"the spans {expected} with all between them and the caller's; there are {collector.spans(TRACE)}",
    )
    spans = {span.id: span for span in collector.spans(TRACE)}
    span: Span | None = next(span for span in spans.values() if span.name == "serving/Chat")
    services = []
    while span is not None:
        services.append(span.service)
        span = spans.get(span.parent)
    assert list(dict.fromkeys(services)) == ["drw-models", "drw-rag", "drw-gateway"]
    assert any(span.name.startswith("step ") for span in spans.values())


def test_audit_records_have_the_trace_id(platform: Platform, traced_run: str) -> None:
    with psycopg.connect(_dsn(platform)) as connection:
        platform.run("audit", "verify")  # this also consumes the inbox
        rows = connection.execute("select action, service from log.record where trace_id = %s", (TRACE,)).fetchall()
    assert {action for action, _ in rows} >= {
        "collection.ask",
        "collection.answer",
        "model.chat",
        "model.embedding",
        "run.start",
        "step.begin",
        "step.end",
        "run.end",
    }


def test_metrics_of_dashboards_and_alerts_are_exposed(http: httpx.Client, traced_run: str) -> None:
    exposed: set[str] = set()
    for process in PROCESSES:
        answer = http.get(f"/metrics/{process}")
        assert answer.status_code == 200
        exposed |= {
            name
            for line in answer.text.splitlines()
            if line.startswith("# TYPE ")
            for _, _, metric, kind in [line.split()]
            for name in (metric, *(f"{metric}_{part}" for part in ("bucket", "sum", "count") if kind == "histogram"))
        }
    used = {selector.name for query in queries() for selector in selectors(query)}
    assert used - exposed - recorded().keys() - PROMETHEUS_OWN.keys() <= OF_SEVERAL_HOSTS


def test_prompts_are_not_in_traces_logs_or_metrics(
    platform: Platform, collector: DoubleCollector, http: httpx.Client, traced_run: str
) -> None:
    exposed_texts = [*collector.bodies, *(http.get(f"/metrics/{process}").content for process in PROCESSES)]
    files = [*(platform.data / "logs").iterdir(), platform.data / "envoy" / "access.log"]
    assert len(files) > 6
    exposed_texts += [file.read_bytes() for file in files]
    assert b'"/v1/embeddings"' in b"".join(exposed_texts)
    assert not any(WORD in text.lower() for text in exposed_texts)


def _dsn(platform: Platform) -> str:
    from drw.local import postgres

    return postgres.dsn(PlatformPaths.of(platform.data).run / "pg")
