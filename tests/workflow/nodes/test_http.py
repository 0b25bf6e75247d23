"""The `http` node against a real server: requests, classes of failures, retries, and attacks."""

from __future__ import annotations

import asyncio
import socket

import pytest

from drw.api.workflow.v1.orchestration_pb2 import AMBIGUOUS, FAILED, PERMANENT, POLICY, SUCCEEDED, TRANSIENT, Run
from drw.kernel.rpc.json_messages import json_value
from support.json_types import Json
from workflow.harness import WorkflowHarness
from workflow.nodes.http_server import HttpServer, answer
from workflow.nodes.running import finished, output, template


def call(server: HttpServer, path: str, rest: str = "", more: str = "") -> str:
    """Return a template with one `http` node."""
    return template(
        f'  - id: call\n    uses: http\n    max_attempts: 3\n    with: {{url: "{server.url}{path}"{rest}}}\n{more}',
        "${steps.call.output}",
    )


async def failed(harness: WorkflowHarness, source: str, **inputs: Json) -> Run:
    run = await finished(harness, source, **inputs)
    assert run.state == FAILED
    return run


async def test_a_request_has_the_method_query_headers_and_body_of_the_node(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    source = call(
        server,
        "/echo/${inputs.value}",
        ', method: POST, query: {symbol: "A&B c", live: true}, headers: {X-Desk: "${inputs.value}"},'
        ' body: {size: 5, of: "${inputs.value}"}',
    )
    answer = await output(harness, source, value="rates")
    (received,) = server.received
    assert (received.method, received.path) == ("POST", "/echo/rates")
    assert received.query == {"symbol": "A&B c", "live": "true"}
    assert received.body == '{"size":5,"of":"rates"}'
    assert received.headers["content-type"] == "application/json" and received.headers["x-desk"] == "rates"
    assert "idempotency-key" not in received.headers
    assert isinstance(answer, dict) and answer["status"] == 200 and answer["content_type"] == "application/json"
    assert answer["body"]["body"] == received.body


async def test_expected_statuses_are_a_success(harness: WorkflowHarness, server: HttpServer) -> None:
    server.answers["/order"] = [answer(404, {"error": "none"})]
    result = await output(harness, call(server, "/order", ", expect: [200, 404]"))
    assert result == {"status": 404, "content_type": "application/json", "body": {"error": "none"}}


@pytest.mark.parametrize(
    ("status", "method", "failure_class", "attempts"),
    [
        (400, "GET", PERMANENT, 1),
        (403, "GET", POLICY, 1),
        (404, "POST", PERMANENT, 1),
        (503, "GET", TRANSIENT, 3),
        (500, "PUT", TRANSIENT, 3),
        (500, "POST", AMBIGUOUS, 1),
        (429, "POST", TRANSIENT, 3),
        (302, "POST", PERMANENT, 1),
    ],
)
async def test_the_status_and_the_method_select_the_class_of_a_failure(
    harness: WorkflowHarness, server: HttpServer, status: int, method: str, failure_class: int, attempts: int
) -> None:
    server.answers["/x"] = [answer(status, {"why": "no"}, Location="/y") for _ in range(3)]
    run = await failed(harness, call(server, "/x", f", method: {method}"))
    (step,) = run.steps
    assert (step.failure_class, step.attempts) == (failure_class, attempts)
    assert len(server.received) == attempts
    assert f"answered {status}" in run.error


async def test_retry_after_is_honoured(harness: WorkflowHarness, server: HttpServer) -> None:
    server.answers["/x"] = [answer(429, None, Retry_After="100000")]
    run = await failed(harness, call(server, "/x"))
    assert run.steps[0].attempts == 1  # longer than a step waits for, so that it fails at once
    server.answers["/x"] = [answer(503, None, Retry_After="1")]
    assert (await finished(harness, call(server, "/x"))).state == SUCCEEDED
    assert server.paths() == ["/x"] * 3


async def test_a_lost_answer_of_a_post_is_ambiguous_and_not_repeated(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    run = await failed(harness, call(server, "/drop/1", ", method: POST"))
    assert (run.steps[0].failure_class, server.paths()) == (AMBIGUOUS, ["/drop/1"])
    source = call(server, "/hold/1", ", method: POST", "    timeout_seconds: 1\n")
    run = await failed(harness, source)
    assert (run.steps[0].failure_class, server.paths("POST")) == (AMBIGUOUS, ["/drop/1", "/hold/1"])
    assert "did not answer" in run.error


async def test_a_post_with_an_idempotency_key_is_repeated_with_the_same_key(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    server.answers["/order"] = [answer(500), answer(503)]
    source = call(server, "/order", ", method: POST", '    idempotency_key: "${inputs.value}-${run.id}"\n')
    run = await finished(harness, source, value="AAPL")
    assert run.state == SUCCEEDED
    assert [r.headers["idempotency-key"] for r in server.received] == [f"AAPL-{run.id}"] * 3


@pytest.mark.parametrize("key", ["", "a\r\nX-Evil: 1", "ü", "x" * 201])
async def test_a_key_that_is_no_header_value_fails_the_step(
    harness: WorkflowHarness, server: HttpServer, key: str
) -> None:
    run = await failed(
        harness, call(server, "/x", ", method: POST", "    idempotency_key: ${inputs.value}\n"), value=key
    )
    assert "idempotency key" in run.error and server.received == []


async def test_a_refused_connection_is_retried_for_every_method(harness: WorkflowHarness, server: HttpServer) -> None:
    run = await failed(harness, call(server, "/x", ", method: POST").replace(server.url, server.closed_url))
    assert (run.steps[0].failure_class, run.steps[0].attempts) == (TRANSIENT, 3)
    assert "cannot connect" in run.error


async def test_a_listed_name_is_called_if_its_address_is_listed_too(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    source = call(server, "/x").replace("127.0.0.1", "localhost")
    assert (await finished(harness, source)).state == SUCCEEDED
    run = await failed(harness, source.replace(f":{server.port}/", ":1/"))
    assert "resolves to an address that is not public" in run.error
    assert (run.steps[0].attempts, len(server.received)) == (1, 1)


async def test_a_name_that_changes_its_address_reaches_nothing_else(
    harness: WorkflowHarness, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []

    async def resolve(host: str, port: int, **_: Json) -> list[tuple[Json, ...]]:
        address = ("127.0.0.1", "169.254.169.254")[min(len(resolved), 1)]
        resolved.append(address)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    source = call(server, "/x").replace("127.0.0.1", "localhost")
    assert (await finished(harness, source)).state == SUCCEEDED
    assert resolved == ["127.0.0.1"]  # the checked address is the one of the connection
    run = await failed(harness, source)
    assert "link-local or metadata address" in run.error
    assert (run.steps[0].attempts, len(server.received)) == (1, 1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://169.254.169.254/latest/meta-data", "not in workflow.http_hosts"),
        ("http://metadata.google.internal/", "not in workflow.http_hosts"),
        ("http://127.0.0.1:1/", "not in workflow.http_hosts"),
        ("http://[::ffff:127.0.0.1]:PORT/", "not in workflow.http_hosts"),
        ("http://2130706433:PORT/", "four decimal numbers"),
        ("http://user@127.0.0.1:PORT/", "is not a URL"),
        ("http://127.0.0.1:PORT#@evil.example/", "is not a URL"),
        ("https://127.0.0.1:PORT/", "not in workflow.http_hosts"),
        ("file:///etc/passwd", "is not a URL"),
        ("http://evil.example/", "not in workflow.http_hosts"),
        ("http://api.broker.example:80/", "not in workflow.http_hosts"),
    ],
)
async def test_urls_off_the_list_are_never_called(
    harness: WorkflowHarness, server: HttpServer, url: str, message: str
) -> None:
    source = template("  - {id: call, uses: http, max_attempts: 2, with: {url: '${inputs.value}'}}")
    run = await failed(harness, source, value=url.replace("PORT", str(server.port)))
    assert message in run.error
    assert run.steps[0].failure_class in (PERMANENT, POLICY)
    assert server.received == []


async def test_redirects_stay_on_the_list_and_drop_headers_at_another_origin(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    server.answers["/a"] = [answer(302, None, Location="/echo/b")]
    result = await output(harness, call(server, "/a", ", headers: {X-Token: abc}"))
    assert isinstance(result, dict) and result["body"]["headers"]["x-token"] == "abc"
    for location in ("http://169.254.169.254/", "http://evil.example/", "//evil.example/", "file:///etc/passwd"):
        server.answers["/a"] = [answer(302, None, Location=location)]
        run = await failed(harness, call(server, "/a"))
        assert run.steps[0].attempts == 1
    server.answers["/a"] = [answer(302, None, Location="/a") for _ in range(9)]
    assert "redirects more than 3 times" in (await failed(harness, call(server, "/a"))).error


@pytest.mark.parametrize(
    ("path", "message"), [("/bomb", "more than 49152 bytes"), ("/gzip", "compressed"), ("/hold/2", "did not answer")]
)
async def test_answers_are_bounded_in_size_and_time(
    harness: WorkflowHarness, server: HttpServer, path: str, message: str
) -> None:
    run = await failed(
        harness, call(server, path, "", "    timeout_seconds: 1\n").replace("attempts: 3", "attempts: 1")
    )
    assert message in run.error


async def test_deeply_nested_json_stays_a_text(harness: WorkflowHarness, server: HttpServer) -> None:
    result = await output(harness, call(server, "/nested"))
    assert isinstance(result, dict) and result["body"] == "[" * 500 + "]" * 500


@pytest.mark.parametrize("header", ["Host", "Idempotency-Key", "Transfer-Encoding", "Accept-Encoding", "X\\nY"])
async def test_headers_of_the_connection_cannot_be_set(
    harness: WorkflowHarness, server: HttpServer, header: str
) -> None:
    run = await failed(harness, call(server, "/x", f', headers: {{"{header}": "1"}}'))
    assert "cannot be set" in run.error and server.received == []


async def test_the_answer_of_a_failed_call_is_in_the_run_and_not_in_the_log(
    harness: WorkflowHarness, server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/accounts/private-path"] = [answer(503, {"reason": "private account 7"}) for _ in range(3)]
    run = await failed(harness, call(server, "/accounts/private-path"))
    assert "private account 7" in run.error and "private-path" not in run.error
    text = "\n".join(str(record.__dict__) for record in caplog.records)
    assert "answered 503" in text
    assert "private" not in text
    assert json_value(run.inputs) == {"value": "v", "values": []}
