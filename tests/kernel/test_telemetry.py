"""Traces reach a collector with the caller's trace id; logs are one JSON line a request with the same id."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

TRACE = "0af7651916cd43dd8448eb211c80319c"
SERVED = """
import sys
from drw.kernel import telemetry
telemetry.set_up("models", sys.argv[1])
headers = {"traceparent": f"00-{sys.argv[2]}-b7ad6b7169203331-01"}
with telemetry.Request("serving", "Chat", headers) as request:
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


def test_spans_go_to_the_collector_with_the_callers_trace(collector):
    endpoint, got = collector
    (line,) = serve(endpoint)
    ((path, body),) = got
    assert path == "/v1/traces"
    assert bytes.fromhex(TRACE) in body
    assert b"drw-models" in body
    assert b"serving/Chat" in body
    assert line["trace_id"] == TRACE


def test_without_a_collector_the_line_has_the_trace_all_the_same():
    (line,) = serve("")
    assert (line["service"], line["method"], line["code"], line["trace_id"]) == ("serving", "Chat", "OK", TRACE)
    assert line["ms"] >= 0
