"""Traces are exported with the trace id of the caller; each request is logged as one JSON line with the same id."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from drw.kernel.errors import NotFound
from drw.kernel.observability import telemetry
from drw.local.processes.child_process import ProcessSpec
from support.json_types import JsonObject
from support.telemetry.spans import recorded

STOP_SECONDS = ProcessSpec(name="", title="", command=list, ready=asyncio.Event().wait).stop_seconds
TRACE = "0af7651916cd43dd8448eb211c80319c"
PROGRAM = """
import sys
from drw.kernel.observability import telemetry
telemetry.set_up("models", sys.argv[1])
headers = {"traceparent": f"00-{sys.argv[2]}-b7ad6b7169203331-01"}
with telemetry.Request("serving", "Chat", headers) as request:
    request._start_time -= 2.0  # as if it had taken so long
    request.finish("OK")
telemetry.flush()
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def serve(endpoint: str) -> list[JsonObject]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, endpoint, TRACE], capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_spans_are_exported_with_the_trace_of_the_caller(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    endpoint, received = collector
    (line,) = serve(endpoint)
    ((path, body),) = received
    assert path == "/v1/traces"
    assert bytes.fromhex(TRACE) in body
    assert b"drw-models" in body
    assert b"serving/Chat" in body
    assert line["trace_id"] == TRACE


def test_log_lines_have_the_trace_id_without_a_collector() -> None:
    (line,) = serve("")
    assert (line["service"], line["method"], line["code"], line["trace_id"]) == ("serving", "Chat", "OK", TRACE)
    assert 2000 <= line["ms"] < 62_000  # more would be longer than this test waits for it


def test_an_unresponsive_collector_does_not_delay_shutdown() -> None:
    program = PROGRAM.replace(
        "    request.finish", "    [telemetry.tracer.start_span('more').end() for _ in range(1500)]\n    request.finish"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts connections, nothing reads them
        command = [sys.executable, "-c", program, f"http://127.0.0.1:{listener.getsockname()[1]}", TRACE]
        result = subprocess.run(command, capture_output=True, timeout=STOP_SECONDS)  # then the supervisor kills it
    assert result.returncode == 0, result.stderr


def test_a_flush_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    started, release = Event(), Event()

    class StuckProvider:
        def shutdown(self) -> None:
            started.set()
            release.wait()

    monkeypatch.setattr(trace, "get_tracer_provider", StuckProvider)
    telemetry.flush(seconds=0.01)
    assert started.wait(60)
    release.set()


@pytest.mark.parametrize(
    "traceparent",
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
def test_a_traceparent_is_parsed_like_opentelemetry_parses_it(traceparent: str) -> None:
    ours = trace.get_current_span(telemetry.incoming_context({"traceparent": traceparent})).get_span_context()
    theirs = trace.get_current_span(telemetry.PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    assert ours == theirs


def test_baggage_of_a_client_is_not_forwarded() -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "baggage": "who=zebra"}
    with telemetry.Request("serving", "Chat", headers):
        assert telemetry.outgoing_headers() == {"traceparent": headers["traceparent"]}


def test_an_attached_span_restores_the_previous_span_at_its_end() -> None:
    with recorded() as spans, telemetry.span("outer") as outer:
        attached = telemetry.AttachedSpan("inner", SpanKind.CLIENT, {})
        assert trace.get_current_span() is attached.span
        attached.end()
        assert trace.get_current_span() is outer
        with pytest.raises(NotFound), telemetry.span("fails"):
            raise NotFound("the zebra is not there")
    parent, context = spans.one("inner").parent, spans.one("outer").context
    assert parent and context and parent.span_id == context.span_id
    failed = spans.one("fails")
    assert failed.attributes is not None
    assert (failed.attributes["error.type"], failed.status.is_ok, failed.events) == ("NotFound", False, ())
    assert "zebra" not in failed.to_json()


async def test_an_attached_span_can_end_in_another_task() -> None:
    """A generator that is garbage collected ends in another task, whose current span must not change."""
    attached = telemetry.AttachedSpan("inner", SpanKind.CLIENT, {})
    with telemetry.span("other") as other:

        async def end_in_another_task() -> None:
            with telemetry.span("third") as third:
                attached.end()
                assert trace.get_current_span() is third

        await asyncio.create_task(end_in_another_task())
        assert trace.get_current_span() is other
