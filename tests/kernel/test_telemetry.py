"""Traces reach a collector with the caller's trace id; logs are one JSON line a request with the same id."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from drw.kernel.errors import NotFound
from drw.kernel.observability import telemetry
from drw.local.processes.child_process import ProcessSpec
from support.spans import recorded

STOP_SECONDS = ProcessSpec(name="", title="", command=list, ready=asyncio.Event().wait).stop_seconds
TRACE = "0af7651916cd43dd8448eb211c80319c"
SERVED = """
import sys
from drw.kernel.observability import telemetry
telemetry.set_up("models", sys.argv[1])
headers = {"traceparent": f"00-{sys.argv[2]}-b7ad6b7169203331-01"}
with telemetry.Request("serving", "Chat", headers) as request:
    request._began -= 2.0  # as if it had taken so long
    request.finish("OK")
telemetry.flush()
"""


@pytest.fixture
def collector():
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def serve(endpoint: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-c", SERVED, endpoint, TRACE], capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_spans_go_to_the_collector_with_the_callers_trace(collector: Any) -> None:
    endpoint, got = collector
    (line,) = serve(endpoint)
    ((path, body),) = got
    assert path == "/v1/traces"
    assert bytes.fromhex(TRACE) in body
    assert b"drw-models" in body
    assert b"serving/Chat" in body
    assert line["trace_id"] == TRACE


def test_without_a_collector_the_line_has_the_trace_all_the_same() -> None:
    (line,) = serve("")
    assert (line["service"], line["method"], line["code"], line["trace_id"]) == ("serving", "Chat", "OK", TRACE)
    assert 2000 <= line["ms"] < 62_000  # more would be longer than this test waits for it


def test_a_collector_that_never_answers_holds_up_no_stop() -> None:
    many = SERVED.replace(
        "    request.finish", "    [telemetry.tracer.start_span('more').end() for _ in range(1500)]\n    request.finish"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection, and nobody reads it
        command = [sys.executable, "-c", many, f"http://127.0.0.1:{silent.getsockname()[1]}", TRACE]
        done = subprocess.run(command, capture_output=True, timeout=STOP_SECONDS)  # then the supervisor kills it
    assert done.returncode == 0, done.stderr


def test_a_flush_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, never = Event(), Event()

    class Stuck:
        def shutdown(self):
            begun.set()
            never.wait()

    monkeypatch.setattr(trace, "get_tracer_provider", Stuck)
    telemetry.flush(seconds=0.01)
    assert begun.wait(60)
    never.set()


@pytest.mark.parametrize(
    "sent",
    [
        f"00-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-00",
        f"cc-{TRACE}-b7ad6b7169203331-01-what-the-future-will-be-like",
        f"00-{TRACE}-0000000000000000-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        "00-zz-01",
        "",
    ],
)
def test_a_traceparent_is_read_as_opentelemetry_reads_it(sent: Any) -> None:
    ours = trace.get_current_span(telemetry.incoming_context({"traceparent": sent})).get_span_context()
    theirs = trace.get_current_span(telemetry.PROPAGATOR.extract({"traceparent": sent})).get_span_context()
    assert ours == theirs


def test_baggage_of_a_client_is_not_forwarded() -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "baggage": "who=zebra"}
    with telemetry.Request("serving", "Chat", headers):
        assert telemetry.outgoing_headers() == {"traceparent": headers["traceparent"]}


def test_a_span_that_lasts_leaves_the_one_before_it_in_place() -> None:
    with recorded() as spans, telemetry.span("outer") as outer:
        lasting = telemetry.AttachedSpan("inner", SpanKind.CLIENT, {})
        assert trace.get_current_span() is lasting.span
        lasting.end()
        assert trace.get_current_span() is outer
        with pytest.raises(NotFound), telemetry.span("fails"):
            raise NotFound("the zebra is not there")
    parent, context = spans.one("inner").parent, spans.one("outer").context
    assert parent and context and parent.span_id == context.span_id
    failed = spans.one("fails")
    assert failed.attributes is not None
    assert (failed.attributes["error.type"], failed.status.is_ok, failed.events) == ("NotFound", False, ())
    assert "zebra" not in failed.to_json()


async def test_a_long_span_can_end_in_another_context() -> None:
    """A generator that nobody closed ends in another task; the present span there is not its own to change."""
    lasting = telemetry.AttachedSpan("inner", SpanKind.CLIENT, {})
    with telemetry.span("other") as other:

        async def elsewhere() -> None:
            with telemetry.span("third") as third:
                lasting.end()
                assert trace.get_current_span() is third

        await asyncio.create_task(elsewhere())
        assert trace.get_current_span() is other
