"""Who is calling is what the key says, whatever else a client sends; and the key is taken from one place only."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import Any

import pytest

from drw.kernel.observability.telemetry import JsonFormatter
from security.gate import Gate
from support.parts import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS = re.compile("^x-(drw|envoy)-")


async def identity(gate, *lines: bytes) -> list[tuple[str, str]]:
    """What the upstream reads of who is calling, when these header lines are sent too."""
    assert await gate.send(gate.request("GET", "/v1/models", *lines)) == [200]
    headers = gate.models.seen[-1].headers
    return sorted((name, value) for name, value in headers.items() if OURS.match(name))


@pytest.mark.parametrize(
    "lines",
    [
        (b"x-drw-org: other", b"x-drw-org: another", b"X-Drw-Org: third"),
        (b"X-DRW-SCOPES: org:admin", b"x-DRW-key: key_1", b"x-drw-walls: all", b"x-drw-anything: 1"),
        (b"x: y\nx-drw-org: other",),  # a bare LF ends a line here, and so begins one that is dropped
        (b"connection: x-drw-org, x-drw-key, x-drw-desk, x-drw-scopes",),
        (b"connection: keep-alive, X-DRW-Scopes", b"x-drw-scopes: org:admin"),
        (b"proxy-connection: x-drw-org", b"keep-alive: x-drw-org", b"te: x-drw-org"),
        (b"X-Envoy-Original-Path: /v1/x", b"x-envoy-internal: true", b"x-envoy-upstream-rq-timeout-ms: 1"),
        (b"x-envoy-max-retries: 9", b"x-envoy-retry-on: 5xx", b"x-envoy-force-trace: 1", b"x-envoy-hedge: 1"),
        (b"x-forwarded-for: 127.0.0.1", b"x-forwarded-host: evil", b"x-original-url: /v1/x", b"x-rewrite-url: /x"),
    ],
)
async def test_no_header_changes_the_principal(gate: Gate, lines: Any) -> None:
    alone = await identity(gate)
    assert {name for name, _ in alone} >= {"x-drw-org", "x-drw-desk", "x-drw-key", "x-drw-scopes"}
    assert await identity(gate, *lines) == alone


async def test_a_trailer_becomes_no_header(gate: Gate) -> None:
    alone = await identity(gate)
    body = b"5\r\nhello\r\n0\r\nx-drw-org: other\r\nx-drw-scopes: org:admin\r\n\r\n"
    lines = (b"transfer-encoding: chunked", b"trailer: x-drw-org, x-drw-scopes")
    assert await gate.send(gate.request("POST", "/v1/chat/completions", *lines, body=body)) == [200]
    headers = gate.models.seen[-1].headers
    assert sorted((name, value) for name, value in headers.items() if OURS.match(name)) == alone


async def test_two_keys_in_one_request_are_one_too_many_or_the_first(gate: Gate) -> None:
    """Both may call the route, so that an answer tells whose scopes counted."""
    weak = await gate.gateway.create_key("models:read")
    for first, second in ((gate.secret, weak), (weak, gate.secret)):
        before = await identity(replace(gate, secret=first))
        seen = len(gate.models.seen)
        request = replace(gate, secret=first).request
        answer = await gate.send(request("GET", "/v1/models", b"authorization: Bearer " + second.encode()))
        if answer == [401]:
            assert len(gate.models.seen) == seen
        else:
            assert answer == [200]
            headers = gate.models.seen[-1].headers
            assert sorted((name, value) for name, value in headers.items() if OURS.match(name)) == before


async def test_a_key_elsewhere_is_not_taken_and_is_in_no_log(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret, path = gate.secret, "/v1/models"
    assert gate.arrived is not None
    places: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"{path}?access_token={secret}", {}),
        ("GET", f"{path}?api_key={secret}&key={secret}", {}),
        ("GET", f"{path}/{secret}", {}),
        ("GET", f"/{secret}/v1/models", {}),
        ("POST", "/v1/chat/completions", {"json": {"api_key": secret}}),
        ("GET", path, {"headers": {"x-api-key": secret}}),
        ("GET", path, {"headers": {"cookie": f"authorization={secret}"}}),
        ("GET", path, {"headers": {"authorization": f"Basic {secret}"}}),
        ("GET", path, {"headers": {"authorization": secret}}),
    ]
    async with gate.gateway.client() as client:
        for verb, where, more in places:
            answer = await client.request(verb, where, **more)
            assert answer.status_code == 401, where
            assert secret not in answer.text
    assert gate.arrived == []
    async with gate.gateway.client(secret) as client:
        last = await client.get(f"{path}/{secret}?access_token={secret}")
        assert last.status_code == 200
    log = gate.gateway.plane.folder / "access.log"

    async def written() -> bool:
        return last.headers["x-request-id"] in log.read_text()

    async def traced() -> bool:
        return last.headers["x-request-id"].encode() in gate.collector.received

    await until(written, "the line of the log")
    await until(traced, "the trace")
    own = "".join(record.getMessage() for record in caplog.records if record.name.startswith("drw"))
    for text in (log.read_text(), gate.collector.received.decode("latin-1"), own):
        assert secret.rpartition(".")[2] not in text
    assert '"path":"(a key)"' in log.read_text() and '"path":"/v1/models"' in log.read_text()
    assert b"url.path" in gate.collector.received and b"/v1/models" in gate.collector.received


async def test_a_service_writes_no_key_into_its_log(gate: Gate) -> None:
    fields = {"path": f"/v1/files/{gate.secret}", "error": f"there is no file {gate.secret!r}"}
    record = logging.makeLogRecord({"name": "drw.request", "msg": gate.secret, "fields": fields})
    line = JsonFormatter("rag").format(record)
    assert gate.secret.rpartition(".")[2] not in line
    assert json.loads(line)["path"] == "/v1/files/(a key)"
