"""Runs in one process: what a template says is what happens, and what fails on the way is said."""

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
from support.parts import running_valkey
from support.telemetry.metrics import scrape
from workflow.doubles import until
from workflow.running import QUICK, Running, is_so, numbers, running, step_is, view_is_behind


@pytest.fixture
async def here(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[Running]:
    async with running(profile, folder, caller) as found:
        yield found


@pytest.mark.parametrize("how", ["together", "strict"])
async def test_a_digest_is_made_of_every_file(profile: Profile, folder: Path, caller: Principal, how: str) -> None:
    async with running(profile, folder, caller, how) as here:
        run = await here.ended(await here.start(3, title="Three texts"))
        assert run.state == SUCCEEDED, run.error
        assert [(s.id, s.state, s.attempts) for s in run.steps] == [
            (f"{node}/{i}", SUCCEEDED, 1) for node in ("ingest", "summarise") for i in range(3)
        ] + [("digest", SUCCEEDED, 1)]
        output = json_value(run.output)
        name, content = here.doubles.documents.put[output["file"]]
        assert output["name"] == name == f"digest-{run.id}.md"
        assert output["text"] == content.decode()
        assert content.decode().startswith("# Three texts\n\n3 documents.\n\n## 0.txt\n\nText of file-0")
        assert {c.key for c in here.calls.callers} == {caller.key}
        assert {c.desk for c in here.calls.callers} == {caller.desk}
        assert all(len(prompt) < 3200 for prompt in here.doubles.serving.prompts)
        assert (run.template, run.started_by, run.desk) == ("digest", caller.key, caller.desk)
        assert len(run.template_version) == 64


async def test_every_event_is_shown_in_order_and_every_record_kept(here: Any) -> None:
    run = await here.start(1)
    assert await here.events(run) == [
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
        records = here.audit(action)
        assert len(records) == count
        assert {(r["actor"], r["desk"], r["outcome"]) for r in records} == {("key_test", "research", "ok")}
        assert all(r["resource"].startswith(run.id) for r in records)
        assert "Text of" not in str(records)


async def test_an_item_waits_only_for_itself(here: Any) -> None:
    release = here.calls.hold("index file-0")
    run = await here.start(2)
    await until(lambda: step_is(here, run, "summarise/1", SUCCEEDED), "the summary of the second file")
    assert (await here.step(run, "summarise/0")).attempts == 0
    release.set()
    assert (await here.ended(run)).state == SUCCEEDED


async def test_no_more_steps_run_at_once_than_are_set(profile: Profile, folder: Path, caller: Principal) -> None:
    services = QUICK | {"orchestration": {"steps_at_once": 2}}
    async with running(profile, folder, caller, services=services) as here:
        release = [here.calls.hold(f"index file-{i}") for i in range(6)]
        run = await here.start(6)
        await until(lambda: is_so(here.calls.under_way == 2), "two steps")
        for event in release:
            event.set()
        assert (await here.ended(run)).state == SUCCEEDED
        assert here.calls.most_at_once == 2


async def test_a_passing_failure_is_tried_again_and_shown(here: Any) -> None:
    gone = Unavailable("the engine is starting again")
    here.calls.faults["chat file-0"] = [gone, gone]
    run = await here.start(1)
    events = await here.events(run)
    assert events.count(("summarise/0", "retrying")) == 2
    found = await here.get(run)
    assert found.state == SUCCEEDED
    assert {s.id: s.attempts for s in found.steps} == {"ingest/0": 1, "summarise/0": 3, "digest": 1}
    assert [r["details"]["attempt"] for r in here.audit("step.begin") if "summarise" in r["resource"]] == [1, 2, 3]


async def test_services_that_are_away_for_a_while_are_waited_for(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    services = QUICK | {"orchestration": {"first_pause_seconds": 0.2}}
    async with running(profile, folder, caller, services=services) as here:
        await here.doubles.go_away()
        run = await here.start(1)
        await until(lambda: step_is(here, run, "ingest/0", RETRYING), "a retry")
        assert "documents service does not answer" in (await here.step(run, "ingest/0")).error
        assert (await here.get(run)).state == RUNNING
        await here.doubles.come_back()
        assert (await here.ended(run)).state == SUCCEEDED


async def test_a_failure_for_good_fails_the_run_and_leaves_what_ended(here: Any) -> None:
    here.calls.faults["chat file-1"] = [InvalidRequest("no such model")]
    run = await here.ended(await here.start(2, model="nothing"))
    assert run.state == FAILED
    assert run.error == "the step 'summarise/1' failed: no such model"
    steps = {s.id: s for s in run.steps}
    assert (steps["summarise/1"].state, steps["summarise/1"].attempts) == (FAILED, 1)
    assert steps["ingest/1"].state == SUCCEEDED
    assert json_value(steps["ingest/1"].output)["chunks"] == 3
    assert (steps["digest"].state, steps["digest"].attempts) == (CANCELLED, 0)
    assert (await here.events(run))[-1] == ("", "failed")
    assert [r["outcome"] for r in here.audit("run.end")] == ["failed"]


async def test_what_never_passes_is_given_up_in_the_end(here: Any) -> None:
    here.calls.faults["index file-0"] = [Unavailable("gone")] * 100
    run = await here.ended(await here.start(1))
    assert run.state == FAILED
    assert run.error == "the step 'ingest/0' failed: gone (after 8 attempts)"
    assert here.calls.made == ["index file-0"] * 8


async def test_a_prompt_that_is_too_long_for_the_model_is_halved(here: Any) -> None:
    here.calls.faults["chat file-0"] = [InvalidRequest("too long", code="context_length_exceeded")]
    run = await here.ended(await here.start(1))
    assert run.state == SUCCEEDED
    first, second = (len(p) for p in here.doubles.serving.prompts)
    assert second < 0.6 * first


async def test_a_file_without_text_does_not_reach_the_model(here: Any) -> None:
    run = await here.ended(await here.start(["file-empty"]))
    assert run.state == SUCCEEDED
    assert here.doubles.serving.prompts == []
    assert "(It has no text.)" in json_value(run.output)["text"]


async def test_a_file_that_is_not_there_fails_the_run(here: Any) -> None:
    run = await here.ended(await here.start(["odd-0"]))
    assert run.state == FAILED
    assert run.error == "the step 'summarise/0' failed: there is no file 'odd-0'"


async def test_a_bug_in_a_service_fails_the_run_and_gives_nothing_away(here: Any) -> None:
    here.calls.faults["index file-0"] = [RuntimeError("the password is 1234")]
    run = await here.ended(await here.start(1))
    assert run.state == FAILED
    assert run.error == "the step 'ingest/0' failed: unexpected error in documents.IndexFile"


async def test_an_output_that_is_too_large_is_refused_clearly(here: Any) -> None:
    here.doubles.documents.collection = "x" * 70_000
    run = await here.ended(await here.start(1))
    assert run.state == FAILED
    assert "the step 'ingest/0' failed: it gave 70" in run.error
    assert "at most 65536: write a file and hand on its id" in run.error


async def test_a_cancelled_run_stops_at_once_and_for_good(here: Any) -> None:
    here.calls.hold("chat file-0")
    run = await here.start(1)
    await until(lambda: is_so("chat file-0" in here.calls.made), "the model call")
    cancelled = await here.cancel(run)
    assert (cancelled.state, cancelled.error) == (CANCELLED, "cancelled by key_test")
    await until(lambda: is_so(here.calls.under_way == 0), "the end of the model call")
    assert (await here.cancel(run)).state == CANCELLED
    assert (await here.events(run))[-1] == ("", "cancelled")
    found = await here.get(run)
    assert {s.id: s.state for s in found.steps} == {
        "ingest/0": SUCCEEDED,
        "summarise/0": CANCELLED,
        "digest": CANCELLED,
    }
    assert [r["outcome"] for r in here.audit("run.end")] == ["cancelled"]


async def test_the_same_request_is_the_same_run(here: Any) -> None:
    first, second = await asyncio.gather(here.start(1, "once"), here.start(1, "once"))
    assert first.id == second.id
    with pytest.raises(Conflict, match="the request id 'once' was used for another run"):
        await here.start(2, "once")
    other = await here.start(1, "once", who=replace(here.caller, desk="rates"))
    assert other.id != first.id
    await here.ended(first)
    assert len(here.audit("run.start")) == 2


async def test_other_desks_see_no_run(here: Any) -> None:
    run = await here.ended(await here.start(1))
    for other in (replace(here.caller, desk="rates"), replace(here.caller, org="other")):
        with acting_for(other):
            client = here.host.client(OrchestrationClient)
            assert not (await client.list_runs(ListRunsRequest())).runs
            for ask in (client.get_run(GetRunRequest(run=run.id)), client.cancel_run(CancelRunRequest(run=run.id))):
                with pytest.raises(NotFound, match="there is no run"):
                    await ask
            with pytest.raises(InvalidRequest, match="page_token"):
                await client.list_runs(ListRunsRequest(page_token=run.id))


async def test_a_key_that_lacks_a_scope_is_told_which(here: Any) -> None:
    poor = replace(here.caller, scopes=frozenset({"workflows:run", "documents:write"}))
    message = "needs the scopes 'documents:write' and 'models:invoke'; the key 'key_test' lacks 'models:invoke'"
    with pytest.raises(Forbidden, match=message):
        await here.start(1, who=poor)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"template": "none"}, NotFound, "there is no template 'none'; there are: digest"),
        ({"files": []}, InvalidRequest, "the input 'files' must be a list of at least one file id"),
        ({"files": ["a", "a"]}, InvalidRequest, "each file stands once"),
        ({"files": [1]}, InvalidRequest, "'files' must be a list of file ids"),
        ({"files": [f"f{i}" for i in range(501)]}, TooLarge, "has 501 files; at most 500"),
        ({"title": 3}, InvalidRequest, "'title' must be a text"),
        ({"title": "x" * 70_000}, TooLarge, "the inputs have 7.... bytes; at most 65536"),
        ({"folder": "x"}, InvalidRequest, "'folder' is not an input of the template 'digest'; there are: collection"),
    ],
)
async def test_what_cannot_be_run_is_refused_at_once(here: Any, changes: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        await here.start(**changes)
    assert here.audit("run.start") == []


async def test_a_desk_has_only_so_many_open_runs(profile: Profile, folder: Path, caller: Principal) -> None:
    services = QUICK | {"orchestration": {"max_open_runs": 1}}
    async with running(profile, folder, caller, services=services) as here:
        release = here.calls.hold("index file-0")
        run = await here.start(1)
        with pytest.raises(RateLimited, match="'research' has 1 runs that have not ended; at most 1"):
            await here.start(1)
        release.set()
        await here.ended(run)
        await here.ended(await here.start(1))


async def test_runs_are_listed_newest_first_page_by_page(here: Any) -> None:
    started = [(await here.ended(await here.start(1))).id for _ in range(5)]
    found, token = [], ""
    with acting_for(here.caller):
        while True:
            page = await here.host.client(OrchestrationClient).list_runs(ListRunsRequest(page_size=2, page_token=token))
            found += [run.id for run in page.runs]
            if not (token := page.next_page_token):
                break
    assert found == started[::-1]


async def test_runs_go_on_while_valkey_is_away_and_are_shown_afterwards(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    with running_valkey(folder / f"v{next(numbers)}") as url:
        lost = profile.model_copy(update={"valkey": url})
        async with running(lost, folder, caller) as here:
            release = here.calls.hold("chat file-0")
            run = await here.start(1)
            await until(lambda: is_so("chat file-0" in here.calls.made), "the model call")
            with redis.Redis.from_url(url) as valkey, pytest.raises(redis.ConnectionError):
                valkey.execute_command("SHUTDOWN", "NOSAVE", "NOW")
                valkey.ping()
            release.set()
            assert (await here.ended(run)).state == SUCCEEDED
            await until(lambda: view_is_behind(here), "the degraded state")
    async with running(profile, folder, caller) as here:  # with another, empty Valkey
        events = await here.events(run)
        assert events[:2] == [("", "queued"), ("", "started")]
        assert events[-1] == ("", "succeeded")


async def test_a_pickle_among_the_rows_is_refused(here: Any) -> None:
    from dbos import _serialization

    with pytest.raises(TypeError, match="a pickle among the engine's rows: refused"):
        _serialization.deserialize_value("gASVBA==", "py_pickle", _serialization.DBOSPortableJSON)


async def test_over_http_a_run_is_json(here: Any) -> None:
    headers = {"x-drw-key": "k", "x-drw-org": "acme", "x-drw-desk": "research"}
    may = headers | {"x-drw-scopes": "workflows:run workflows:read documents:write models:invoke"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=here.host.app()), base_url="http://drw") as web:
        body = {"template": "digest", "inputs": {"files": ["file-0"]}, "request_id": "h1"}
        answer = await web.post("/api/v1/runs", json=body, headers=headers | {"x-drw-scopes": "workflows:run"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        answer = await web.post("/api/v1/runs", json=body | {"inputs": {}}, headers=may)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "files")
        run = (await web.post("/api/v1/runs", json=body, headers=may)).json()
        watched = await web.get(f"/api/v1/runs/{run['id']}:watch", headers=may)
        assert watched.text.count("\nid: ") + watched.text.startswith("id: ") == 9
        found = (await web.get(f"/api/v1/runs/{run['id']}", headers=may)).json()
        assert (found["state"], found["inputs"]["files"], found["started_by"]) == ("SUCCEEDED", ["file-0"], "k")
        assert found["output"]["name"] == f"digest-{run['id']}.md"
        assert found["steps"][0]["output"]["collection"] == "digest"
        assert [r["id"] for r in (await web.get("/api/v1/runs", headers=may)).json()["runs"]] == [run["id"]]
        assert (await web.post(f"/api/v1/runs/{run['id']}:cancel", headers=may)).json()["state"] == "SUCCEEDED"


async def test_metrics_tell_how_runs_and_steps_end(here: Any) -> None:
    before = await scrape(here.host)
    await here.ended(await here.start(2))
    await here.cancel(await here.start(1))
    after = await scrape(here.host)
    for name, more in [
        ('drw_runs_ended_total{outcome="succeeded"}', 1),
        ('drw_runs_ended_total{outcome="cancelled"}', 1),
        ('drw_steps_total{activity="documents.digest",outcome="ok"}', 1),
    ]:
        assert after[name] == before.get(name, 0) + more, name
    assert after['drw_runs_open{state="queued"}'] == after['drw_runs_open{state="running"}'] == 0
    assert after["drw_runs_oldest_queued_seconds"] == 0
    assert after['drw_service_ready{service="orchestration"}'] == 1


async def test_a_line_of_log_has_the_class_of_a_steps_error_and_no_word_of_anybodys(
    here: Any, caplog: pytest.LogCaptureFixture
) -> None:
    word = "zebra"
    here.calls.faults["index file-0"] = [Unavailable(f"the upstream failed: {word}", quotes="upstream")]
    here.calls.faults["chat file-0"] = [InvalidRequest(f"{word} is no model", param="model")]
    run = await here.ended(await here.start(1))
    assert (run.state, word in run.error) == (FAILED, True)
    lines = {line.message: vars(line)["fields"] for line in caplog.records if line.name.endswith("step_executor")}
    again, failed = lines["a step is tried again"], lines["a step has failed"]
    assert (again["error.type"], again["error"]) == ("Unavailable", "the upstream failed")
    assert (failed["error.type"], failed["error"]) == ("InvalidRequest", "invalid model")
    assert word not in caplog.text
