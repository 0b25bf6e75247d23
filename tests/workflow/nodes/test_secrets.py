"""Secrets of templates: they reach the call of the step and nothing else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, POLICY, SUCCEEDED
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness
from workflow.nodes.conftest import SECRET
from workflow.nodes.http_server import HttpServer, answer
from workflow.nodes.running import finished, stored_text, template

FORMS = [SECRET, SECRET.encode().hex(), base64.b64encode(SECRET.encode()).decode().rstrip("=")[:-1], "7f3a9c1be5"]
"""Texts that contain the secret or a part of it."""


def assert_nowhere(harness: WorkflowHarness, caplog: pytest.LogCaptureFixture) -> None:
    stored = stored_text(harness.profile.postgres)
    assert "[secret TOKEN]" in stored or "TOKEN" in stored  # the name may be stored
    logged = "\n".join(f"{record.__dict__} {record.exc_info} {record.exc_text}" for record in caplog.records)
    logged += caplog.text
    for form in FORMS:
        assert form not in stored
        assert form not in logged


async def test_a_secret_reaches_the_server_and_its_echo_is_redacted(
    harness: WorkflowHarness, server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    body = '{token: "${secrets.TOKEN}", note: "a ${inputs.value} ${secrets.TOKEN}!"}'
    source = template(
        f'  - {{id: call, uses: http, with: {{url: "{server.url}/echo", method: PUT, body: {body}}}}}',
        "${steps.call.output.body}",
    )
    with caplog.at_level("DEBUG"):
        run = await finished(harness, source)
    assert run.state == SUCCEEDED, run.error
    assert server.received[0].body.count('tok\\"en/ä+7f3a9c1be5') == 2
    echoed = json_value(run.output)["body"]
    assert echoed == '{"token":"[secret TOKEN]","note":"a v [secret TOKEN]!"}'
    assert_nowhere(harness, caplog)


async def test_a_secret_in_an_error_or_an_unexpected_exception_is_redacted(
    harness: WorkflowHarness, server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/x"] = [answer(400, {"wrong": SECRET})]
    call = f'  - {{id: call, uses: http, with: {{url: "{server.url}/x", method: POST, body: "${{secrets.TOKEN}}"}}}}'
    crash = '  - {id: call, uses: python, with: {function: crash, arguments: {token: "${secrets.TOKEN}"}}}'
    with caplog.at_level("DEBUG"):
        run = await finished(harness, template(call))
        assert "[secret TOKEN]" in run.error and run.state == FAILED
        run = await finished(harness, template(crash))
    assert "unexpected RuntimeError in a step with secrets" in run.error
    assert_nowhere(harness, caplog)


async def test_encoded_forms_of_a_secret_are_redacted_in_outputs(
    harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    source = template(
        '  - {id: call, uses: python, with: {function: leak, arguments: {token: "${secrets.TOKEN}"}}}',
        "${steps.call.output}",
    )
    run = await finished(harness, source)
    result = json_value(run.output)
    assert result["plain"] == result["url"] == result["hex"] == "[secret TOKEN]"
    assert result["nested"] == [{"[secret TOKEN]": 1}] and "[secret TOKEN]" in result["basic"]
    assert_nowhere(harness, caplog)


async def test_an_input_that_looks_like_a_secret_stays_a_text(harness: WorkflowHarness, server: HttpServer) -> None:
    source = template(
        f'  - {{id: call, uses: http, with: {{url: "{server.url}/echo", method: PUT,'
        ' body: "${inputs.value} ${secrets.TOKEN}"}}'
    )
    await finished(harness, source, value="${secrets.LOCAL}")
    assert server.received[0].body == "${secrets.LOCAL} " + SECRET


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("SERVER", "THEIRS", "has no secret 'THEIRS'"),
        ("SERVER", "OTHER", "has no secret 'OTHER'"),
        ("SERVER", "LOCAL", "cannot be sent"),
        ("LOCALHOST", "TOKEN", "cannot be sent"),
        ("SERVER", "GONE", "has no value"),
    ],
)
async def test_secrets_that_the_desk_or_the_host_may_not_have_fail_the_step(
    declared: Profile,
    folder: Path,
    caller: Principal,
    server: HttpServer,
    url: str,
    secret: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "drw.workflow.templates.checks.environment_check.check", lambda *_: []
    )  # a template stored before
    host = server.url if url == "SERVER" else server.url.replace("127.0.0.1", "localhost")
    source = template(
        f'  - {{id: call, uses: http, max_attempts: 1, with: {{url: "{host}/x", body: "${{secrets.{secret}}}"}}}}'
    )
    async with workflow_harness(declared, folder, caller, services=FAST_SETTINGS) as harness:
        run = await finished(harness, source)
    assert run.state == FAILED and message in run.error
    assert secret == "GONE" or run.steps[0].failure_class == POLICY
    assert server.received == []


@pytest.fixture
async def rotating(declared: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(declared, folder, caller, services=FAST_SETTINGS) as harness:
        yield harness


async def test_a_rotated_value_is_used_by_the_next_attempt(
    rotating: WorkflowHarness, server: HttpServer, folder: Path
) -> None:
    source = template(
        f'  - {{id: call, uses: http, with: {{url: "{server.url}/x", headers: {{X-T: "Bearer ${{secrets.TOKEN}}"}}}}}}'
    )
    values = ["first-value-1", "second-value-2"]
    for value in values:
        (folder / "token").write_text(value)
        assert (await finished(rotating, source)).state == SUCCEEDED
    assert [request.headers["x-t"] for request in server.received] == [f"Bearer {value}" for value in values]
