"""The key alone decides the caller identity, and only the authorization header carries the key."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace

import pytest

from drw.kernel.observability.telemetry import JsonFormatter
from security.gateway_probe import GatewayProbe
from support.json_types import JsonObject
from support.parts import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

INTERNAL_HEADER = re.compile("^x-(drw|envoy)-")


async def identity_headers(probe: GatewayProbe, *lines: bytes) -> list[tuple[str, str]]:
    """Return the identity headers that the upstream receives when these header lines are sent too."""
    assert await probe.send(probe.request("GET", "/v1/models", *lines)) == [200]
    headers = probe.models.requests[-1].headers
    return sorted((name, value) for name, value in headers.items() if INTERNAL_HEADER.match(name))


@pytest.mark.parametrize(
    "lines",
    [
        (b"x-drw-org: other", b"x-drw-org: another", b"X-Drw-Org: third"),
        (b"X-DRW-SCOPES: org:admin", b"x-DRW-key: key_1", b"x-drw-walls: all", b"x-drw-anything: 1"),
        (b"x: y\nx-drw-org: other",),  # a bare LF ends the line, and the next line is dropped
        (b"connection: x-drw-org, x-drw-key, x-drw-desk, x-drw-scopes",),
        (b"connection: keep-alive, X-DRW-Scopes", b"x-drw-scopes: org:admin"),
        (b"proxy-connection: x-drw-org", b"keep-alive: x-drw-org", b"te: x-drw-org"),
        (b"X-Envoy-Original-Path: /v1/x", b"x-envoy-internal: true", b"x-envoy-upstream-rq-timeout-ms: 1"),
        (b"x-envoy-max-retries: 9", b"x-envoy-retry-on: 5xx", b"x-envoy-force-trace: 1", b"x-envoy-hedge: 1"),
        (b"x-forwarded-for: 127.0.0.1", b"x-forwarded-host: evil", b"x-original-url: /v1/x", b"x-rewrite-url: /x"),
    ],
)
async def test_client_headers_do_not_change_the_principal(probe: GatewayProbe, lines: tuple[bytes, ...]) -> None:
    expected = await identity_headers(probe)
    assert {name for name, _ in expected} >= {"x-drw-org", "x-drw-desk", "x-drw-key", "x-drw-scopes"}
    assert await identity_headers(probe, *lines) == expected


async def test_trailers_are_not_merged_into_the_headers(probe: GatewayProbe) -> None:
    expected = await identity_headers(probe)
    body = b"5\r\nhello\r\n0\r\nx-drw-org: other\r\nx-drw-scopes: org:admin\r\n\r\n"
    lines = (b"transfer-encoding: chunked", b"trailer: x-drw-org, x-drw-scopes")
    assert await probe.send(probe.request("POST", "/v1/chat/completions", *lines, body=body)) == [200]
    headers = probe.models.requests[-1].headers
    assert sorted((name, value) for name, value in headers.items() if INTERNAL_HEADER.match(name)) == expected


async def test_two_authorization_headers_are_rejected_or_the_first_counts(probe: GatewayProbe) -> None:
    """Both keys may call the route, so the response shows which scopes were used."""
    weak = await probe.gateway.create_key("models:read")
    for first, second in ((probe.secret, weak), (weak, probe.secret)):
        before = await identity_headers(replace(probe, secret=first))
        request_count = len(probe.models.requests)
        request = replace(probe, secret=first).request
        answer = await probe.send(request("GET", "/v1/models", b"authorization: Bearer " + second.encode()))
        if answer == [401]:
            assert len(probe.models.requests) == request_count
        else:
            assert answer == [200]
            headers = probe.models.requests[-1].headers
            assert sorted((name, value) for name, value in headers.items() if INTERNAL_HEADER.match(name)) == before


async def test_key_outside_the_headers_of_keys_is_rejected_and_not_logged(
    probe: GatewayProbe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret, path = probe.secret, "/v1/models"
    assert probe.new_requests is not None
    requests: list[tuple[str, str, JsonObject]] = [
        ("GET", f"{path}?access_token={secret}", {}),
        ("GET", f"{path}?api_key={secret}&key={secret}", {}),
        ("GET", f"{path}/{secret}", {}),
        ("GET", f"/{secret}/v1/models", {}),
        ("POST", "/v1/chat/completions", {"json": {"api_key": secret}}),
        ("GET", path, {"headers": {"api-key": secret}}),
        ("GET", path, {"headers": {"cookie": f"authorization={secret}"}}),
        ("GET", path, {"headers": {"authorization": f"Basic {secret}"}}),
        ("GET", path, {"headers": {"authorization": secret}}),
    ]
    async with probe.gateway.client() as client:
        for verb, url, options in requests:
            answer = await client.request(verb, url, **options)
            assert answer.status_code == 401, url
            assert secret not in answer.text
    assert probe.new_requests == []
    async with probe.gateway.client(secret) as client:
        last = await client.get(f"{path}/{secret}?access_token={secret}")
        assert last.status_code == 200
    async with probe.gateway.client() as client:  # as Anthropic's clients send it
        assert (await client.get(path, headers={"x-api-key": secret})).status_code == 200
    log = probe.gateway.plane.folder / "access.log"

    async def line_is_logged() -> bool:
        return last.headers["x-request-id"] in log.read_text()

    async def trace_is_received() -> bool:
        return last.headers["x-request-id"].encode() in probe.collector.received

    await until(line_is_logged, "the line of the log")
    await until(trace_is_received, "the trace")
    service_log = "".join(record.getMessage() for record in caplog.records if record.name.startswith("drw"))
    for text in (log.read_text(), probe.collector.received.decode("latin-1"), service_log):
        assert secret.rpartition(".")[2] not in text
    assert '"path":"(a key)"' in log.read_text() and '"path":"/v1/models"' in log.read_text()
    assert b"url.path" in probe.collector.received and b"/v1/models" in probe.collector.received


async def test_service_log_redacts_keys(probe: GatewayProbe) -> None:
    fields = {"path": f"/v1/files/{probe.secret}", "error": f"there is no file {probe.secret!r}"}
    record = logging.makeLogRecord({"name": "drw.request", "msg": probe.secret, "fields": fields})
    line = JsonFormatter("rag").format(record)
    assert probe.secret.rpartition(".")[2] not in line
    assert json.loads(line)["path"] == "/v1/files/(a key)"
