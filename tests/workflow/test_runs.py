"""Runs in one process: execution, retries, failures, cancellation, limits and the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from drw.api.workflow.v1.orchestration_pb2 import (
    CANCELLED,
    FAILED,
    RETRYING,
    RUNNING,
    SUCCEEDED,
    CancelRunRequest,
    GetRunRequest,
    ListRunsRequest,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited, TooLarge, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from support.database.published import published
from support.parts import running_valkey
from support.telemetry.metrics import scrape
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, live_view_is_behind, sequence, step_is, workflow_harness


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(profile, folder, caller) as harness:
        yield harness


@pytest.mark.parametrize("how", ["together", "strict"])
async def test_the_digest_template_summarises_every_file(
    profile: Profile, folder: Path, caller: Principal, how: str
) -> None:
    async with workflow_harness(profile, folder, caller, how) as harness:
        run = await harness.wait_until_ended(await harness.start(3, title="Three texts"))
        assert run.state == SUCCEEDED, run.error
        assert [(s.id, s.state, s.attempts) for s in run.steps] == [
            (f"{node}/{i}", SUCCEEDED, 1) for node in ("ingest", "summarise") for i in range(3)
        ] + [("digest", SUCCEEDED, 1)]
        output = json_value(run.output)
        name, content = harness.doubles.documents.put[output["file"]]
        assert output["name"] == name == f"digest-{run.id}.md"
        assert output["text"] == content.decode()
        assert content.decode().startswith("# Three texts\n\n3 documents.\n\n## 0.txt\n\n> Text of file-0")
        assert {c.key for c in harness.calls.callers} == {caller.key}
        assert {c.desk for c in harness.calls.callers} == {caller.desk}
        assert all(len(prompt) < 3200 for prompt in harness.doubles.serving.prompts)
        assert (run.template, run.started_by, run.desk) == ("digest", caller.key, caller.desk)
        assert len(run.template_version) == 64


async def test_events_are_in_order_and_every_change_is_audited(harness: Any) -> None:
    run = await harness.start(1)
    assert await harness.events(run) == [
        ("", "queued"),
        ("", "started"),
        ("ingest/0", "started"),
        ("ingest/0", "succeeded"),
        ("summarise/0", "started"),
        ("summarise/0", "succeeded"),
        ("digest", "started"),
        ("digest", "succeeded"),
        ("", "succeeded"),
    ]
    for action, count in [("run.start", 1), ("step.begin", 3), ("step.end", 3), ("run.end", 1)]:
        records = harness.audit(action)
        assert len(records) == count
        assert {(r["actor"], r["desk"], r["outcome"]) for r in records} == {("key_test", "research", "ok")}
        assert all(r["resource"].startswith(run.id) for r in records)
        assert "Text of" not in str(records)
    (event,) = published(harness.profile.postgres, "run.ended")
    assert event["data"] | {"template_version": ""} == {
        "run": run.id, "template": "digest", "template_version": "", "state": "succeeded", "error": "",
    }  # fmt: skip
    assert (event["org"], event["desk"], event["subject"]) == ("acme", "research", f"run/{run.id}")


async def test_a_step_of_an_item_waits_only_for_the_same_item(harness: Any) -> None:
    release = harness.calls.block("index file-0")
    run = await harness.start(2)
    await until(lambda: step_is(harness, run, "summarise/1", SUCCEEDED), "the summary of the second file")
    assert (await harness.step(run, "summarise/0")).attempts == 0
    release.set()
    assert (await harness.wait_until_ended(run)).state == SUCCEEDED


async def test_concurrent_steps_are_limited(profile: Profile, folder: Path, caller: Principal) -> None:
    services = FAST_SETTINGS | {"orchestration": {"max_concurrent_steps": 2}}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        release = [harness.calls.block(f"index file-{i}") for i in range(6)]
        run = await harness.start(6)
        await until(lambda: harness.calls.active == 2, "two steps")
        for event in release:
            event.set()
        assert (await harness.wait_until_ended(run)).state == SUCCEEDED
        assert harness.calls.max_active == 2


async def test_a_retryable_failure_is_retried_and_reported(harness: Any) -> None:
    unavailable = Unavailable("the engine is starting again")
    harness.calls.failures["chat file-0"] = [unavailable, unavailable]
    run = await harness.start(1)
    events = await harness.events(run)
    assert events.count(("summarise/0", "retrying")) == 2
    ended_run = await harness.get(run)
    assert ended_run.state == SUCCEEDED
    assert {s.id: s.attempts for s in ended_run.steps} == {"ingest/0": 1, "summarise/0": 3, "digest": 1}
    assert [r["details"]["attempt"] for r in harness.audit("step.begin") if "summarise" in r["resource"]] == [1, 2, 3]


async def test_a_step_is_retried_until_an_unavailable_service_returns(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    services = FAST_SETTINGS | {"orchestration": {"initial_retry_seconds": 0.2}}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        await harness.doubles.stop_server()
        run = await harness.start(1)
        await until(lambda: step_is(harness, run, "ingest/0", RETRYING), "a retry")
        assert "documents service does not answer" in (await harness.step(run, "ingest/0")).error
        assert (await harness.get(run)).state == RUNNING
        await harness.doubles.restart_server()
        assert (await harness.wait_until_ended(run)).state == SUCCEEDED


async def test_a_permanent_failure_fails_the_run_and_keeps_finished_steps(harness: Any) -> None:
    harness.calls.failures["chat file-1"] = [InvalidRequest("no such model")]
    run = await harness.wait_until_ended(await harness.start(2, model="nothing"))
    assert run.state == FAILED
    assert run.error == "the step 'summarise/1' failed: no such model"
    steps = {s.id: s for s in run.steps}
    assert (steps["summarise/1"].state, steps["summarise/1"].attempts) == (FAILED, 1)
    assert steps["ingest/1"].state == SUCCEEDED
    assert json_value(steps["ingest/1"].output)["chunks"] == 3
    assert (steps["digest"].state, steps["digest"].attempts) == (CANCELLED, 0)
    assert (await harness.events(run))[-1] == ("", "failed")
    assert [r["outcome"] for r in harness.audit("run.end")] == ["failed"]


async def test_a_step_fails_after_its_maximum_attempts(harness: Any) -> None:
    harness.calls.failures["index file-0"] = [Unavailable("unavailable")] * 100
    run = await harness.wait_until_ended(await harness.start(1))
    assert run.state == FAILED
    assert run.error == "the step 'ingest/0' failed: unavailable (after 8 attempts)"
    assert harness.calls.names == ["index file-0"] * 8


async def test_a_prompt_that_is_too_long_for_the_model_is_halved(harness: Any) -> None:
    harness.calls.failures["chat file-0"] = [InvalidRequest("too long", code="context_length_exceeded")]
    run = await harness.wait_until_ended(await harness.start(1))
    assert run.state == SUCCEEDED
    first, second = (len(p) for p in harness.doubles.serving.prompts)
    assert second < 0.6 * first


async def test_a_file_without_text_does_not_reach_the_model(harness: Any) -> None:
    run = await harness.wait_until_ended(await harness.start(["file-empty"]))
    assert run.state == SUCCEEDED
    assert harness.doubles.serving.prompts == []
    assert "(It has no text.)" in json_value(run.output)["text"]


async def test_a_missing_file_fails_the_run(harness: Any) -> None:
    run = await harness.wait_until_ended(await harness.start(["odd-0"]))
    assert run.state == FAILED
    assert run.error == "the step 'summarise/0' failed: there is no file 'odd-0'"


async def test_an_unexpected_error_fails_the_run_without_its_details(harness: Any) -> None:
    harness.calls.failures["index file-0"] = [RuntimeError("the password is 1234")]
    run = await harness.wait_until_ended(await harness.start(1))
    assert run.state == FAILED
    assert run.error == "the step 'ingest/0' failed: unexpected error in documents.IndexFile"


async def test_a_step_with_too_large_an_output_fails(harness: Any) -> None:
    harness.doubles.documents.collection = "x" * (17 << 20)
    run = await harness.wait_until_ended(await harness.start(1))
    assert run.state == FAILED
    assert "the step 'ingest/0' failed: the value has 178" in run.error
    assert "at most 16777216: write a file and return its id" in run.error


async def test_a_cancelled_run_stops_permanently(harness: Any) -> None:
    harness.calls.block("chat file-0")
    run = await harness.start(1)
    await until(lambda: "chat file-0" in harness.calls.names, "the model call")
    cancelled = await harness.cancel(run)
    assert (cancelled.state, cancelled.error) == (CANCELLED, "cancelled by key_test")
    await until(lambda: harness.calls.active == 0, "the end of the model call")
    assert (await harness.cancel(run)).state == CANCELLED
    assert (await harness.events(run))[-1] == ("", "cancelled")
    ended_run = await harness.get(run)
    assert {s.id: s.state for s in ended_run.steps} == {
        "ingest/0": SUCCEEDED,
        "summarise/0": CANCELLED,
        "digest": CANCELLED,
    }
    assert [r["outcome"] for r in harness.audit("run.end")] == ["cancelled"]


async def test_a_repeated_request_id_returns_the_same_run(harness: Any) -> None:
    first, second = await asyncio.gather(harness.start(1, "once"), harness.start(1, "once"))
    assert first.id == second.id
    with pytest.raises(Conflict, match="the request id 'once' was used for another run"):
        await harness.start(2, "once")
    other = await harness.start(1, "once", principal=replace(harness.caller, desk="rates"))
    assert other.id != first.id
    await harness.wait_until_ended(first)
    assert len(harness.audit("run.start")) == 2


async def test_other_desks_cannot_read_or_cancel_a_run(harness: Any) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    for other in (replace(harness.caller, desk="rates"), replace(harness.caller, org="other")):
        with acting_for(other):
            client = harness.host.client(OrchestrationClient)
            assert not (await client.list_runs(ListRunsRequest())).runs
            for call in (client.get_run(GetRunRequest(run=run.id)), client.cancel_run(CancelRunRequest(run=run.id))):
                with pytest.raises(NotFound, match="there is no run"):
                    await call
            with pytest.raises(InvalidRequest, match="page_token"):
                await client.list_runs(ListRunsRequest(page_token=run.id))


async def test_a_missing_scope_is_named_in_the_error(harness: Any) -> None:
    without_scope = replace(harness.caller, scopes=frozenset({"workflows:run", "documents:write"}))
    message = "needs the scopes 'documents:write' and 'models:invoke'; the key 'key_test' lacks 'models:invoke'"
    with pytest.raises(Forbidden, match=message):
        await harness.start(1, principal=without_scope)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"template": "none"}, NotFound, "there is no template 'none'; there are: compare_filings, digest"),
        ({"files": []}, InvalidRequest, "the input 'files' must be a list of at least one file id"),
        ({"files": ["a", "a"]}, InvalidRequest, "a list of different file ids"),
        ({"files": [1]}, InvalidRequest, "'files' must be a list of file ids"),
        ({"files": [f"f{i}" for i in range(501)]}, TooLarge, "has 501 files; at most 500"),
        ({"title": 3}, InvalidRequest, "'title' must be a string"),
        ({"title": "x" * (17 << 20)}, TooLarge, "the inputs have 17...... bytes; at most 16777216"),
        ({"folder": "x"}, InvalidRequest, "'folder' is not an input of the template 'digest'; there are: collection"),
    ],
)
async def test_invalid_requests_are_rejected_before_a_run_starts(
    harness: Any, changes: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        await harness.start(**changes)
    assert harness.audit("run.start") == []


async def test_open_runs_of_a_desk_are_limited(profile: Profile, folder: Path, caller: Principal) -> None:
    services = FAST_SETTINGS | {"orchestration": {"max_open_runs": 1}}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        release = harness.calls.block("index file-0")
        run = await harness.start(1)
        with pytest.raises(RateLimited, match="'research' has 1 runs that have not ended; at most 1"):
            await harness.start(1)
        release.set()
        await harness.wait_until_ended(run)
        await harness.wait_until_ended(await harness.start(1))


async def test_runs_are_listed_newest_first_in_pages(harness: Any) -> None:
    started = [(await harness.wait_until_ended(await harness.start(1))).id for _ in range(5)]
    listed, token = [], ""
    with acting_for(harness.caller):
        while True:
            page = await harness.host.client(OrchestrationClient).list_runs(
                ListRunsRequest(page_size=2, page_token=token)
            )
            listed += [run.id for run in page.runs]
            if not (token := page.next_page_token):
                break
    assert listed == started[::-1]


async def test_runs_are_filtered_by_every_field(harness: Any) -> None:
    harness.calls.failures["index file-0"] = [InvalidRequest("50% of it is missing")]
    failed = await harness.wait_until_ended(await harness.start(["file-0"]))
    succeeded = await harness.wait_until_ended(await harness.start(["file-1"], title="Weekly"))

    async def found(**fields: Any) -> list[str]:
        with acting_for(harness.caller):
            response = await harness.host.client(OrchestrationClient).list_runs(ListRunsRequest(**fields))
        return [run.id for run in response.runs]

    both = [succeeded.id, failed.id]
    for fields, expected in (
        ({"template": "digest"}, both),
        ({"template": "other"}, []),
        ({"state": FAILED}, [failed.id]),
        ({"created_after": failed.created_at}, [succeeded.id]),
        ({"created_before": succeeded.created_at}, [failed.id]),
        ({"input": "weekly"}, [succeeded.id]),
        ({"input": "file-0", "state": SUCCEEDED}, []),
        ({"error": "50% of"}, [failed.id]),
        ({"error": "5_%"}, []),
        ({"state": FAILED, "page_token": succeeded.id}, [failed.id]),
        ({"state": SUCCEEDED, "page_token": succeeded.id}, []),
    ):
        assert await found(**fields) == expected, fields


async def test_runs_continue_without_valkey_and_can_be_watched_afterwards(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    with running_valkey(folder / f"v{next(sequence)}") as url:
        profile_without_valkey = profile.model_copy(update={"valkey": url})
        async with workflow_harness(profile_without_valkey, folder, caller) as harness:
            release = harness.calls.block("chat file-0")
            run = await harness.start(1)
            await until(lambda: "chat file-0" in harness.calls.names, "the model call")
            with redis.Redis.from_url(url) as valkey, pytest.raises(redis.ConnectionError):
                valkey.execute_command("SHUTDOWN", "NOSAVE", "NOW")
                valkey.ping()
            release.set()
            assert (await harness.wait_until_ended(run)).state == SUCCEEDED
            await until(lambda: live_view_is_behind(harness), "the degraded state")
    async with workflow_harness(profile, folder, caller) as harness:  # with another, empty Valkey
        events = await harness.events(run)
        assert events[:2] == [("", "queued"), ("", "started")]
        assert events[-1] == ("", "succeeded")


async def test_a_pickled_value_is_rejected(harness: Any) -> None:
    from dbos import _serialization

    with pytest.raises(TypeError, match="pickled values are not allowed"):
        _serialization.deserialize_value("gASVBA==", "py_pickle", _serialization.DBOSPortableJSON)


async def test_runs_are_json_over_http(harness: Any) -> None:
    headers = {"x-drw-key": "k", "x-drw-org": "acme", "x-drw-desk": "research"}
    allowed_headers = headers | {"x-drw-scopes": "workflows:run workflows:read documents:write models:invoke"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=harness.host.app()), base_url="http://drw"
    ) as http_client:
        body = {"template": "digest", "inputs": {"files": ["file-0"]}, "request_id": "h1"}
        response = await http_client.post(
            "/api/v1/runs", json=body, headers=headers | {"x-drw-scopes": "workflows:run"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")
        response = await http_client.post("/api/v1/runs", json=body | {"inputs": {}}, headers=allowed_headers)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "files")
        run = (await http_client.post("/api/v1/runs", json=body, headers=allowed_headers)).json()
        watched = await http_client.get(f"/api/v1/runs/{run['id']}:watch", headers=allowed_headers)
        assert watched.text.count("\nid: ") + watched.text.startswith("id: ") == 9
        ended_run = (await http_client.get(f"/api/v1/runs/{run['id']}", headers=allowed_headers)).json()
        assert (ended_run["state"], ended_run["inputs"]["files"], ended_run["started_by"]) == (
            "SUCCEEDED",
            ["file-0"],
            "k",
        )
        assert ended_run["output"]["name"] == f"digest-{run['id']}.md"
        assert ended_run["steps"][0]["output"]["collection"] == "digest"
        assert [r["id"] for r in (await http_client.get("/api/v1/runs", headers=allowed_headers)).json()["runs"]] == [
            run["id"]
        ]
        assert (await http_client.post(f"/api/v1/runs/{run['id']}:cancel", headers=allowed_headers)).json()[
            "state"
        ] == "SUCCEEDED"


async def test_metrics_count_runs_and_steps_by_outcome(harness: Any) -> None:
    before = await scrape(harness.host)
    await harness.wait_until_ended(await harness.start(2))
    await harness.cancel(await harness.start(1))
    after = await scrape(harness.host)
    for name, increase in [
        ('drw_runs_ended_total{outcome="succeeded"}', 1),
        ('drw_runs_ended_total{outcome="cancelled"}', 1),
        ('drw_steps_total{activity="documents.digest",outcome="ok"}', 1),
    ]:
        assert after[name] == before.get(name, 0) + increase, name
    assert after['drw_runs_open{state="queued"}'] == after['drw_runs_open{state="running"}'] == 0
    assert after["drw_runs_oldest_queued_seconds"] == 0
    assert after['drw_service_ready{service="orchestration"}'] == 1


async def test_log_lines_contain_the_error_class_but_no_user_content(
    harness: Any, caplog: pytest.LogCaptureFixture
) -> None:
    secret_word = "zebra"
    harness.calls.failures["index file-0"] = [Unavailable(f"the upstream failed: {secret_word}", quotes="upstream")]
    harness.calls.failures["chat file-0"] = [InvalidRequest(f"{secret_word} is no model", param="model")]
    run = await harness.wait_until_ended(await harness.start(1))
    assert (run.state, secret_word in run.error) == (FAILED, True)
    lines = {line.message: vars(line)["fields"] for line in caplog.records if line.name.endswith("step_executor")}
    retry_fields, failure_fields = lines["retrying a step"], lines["a step has failed"]
    assert (retry_fields["error.type"], retry_fields["error"]) == ("Unavailable", "the upstream failed")
    assert (failure_fields["error.type"], failure_fields["error"]) == ("InvalidRequest", "invalid model")
    assert secret_word not in caplog.text
