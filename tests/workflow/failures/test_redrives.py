"""Redrives: probe, rate, edited inputs, versions, kept steps, idempotence and isolation."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from drw.api.workflow.v1.error_handling_pb2 import (
    CancelRedriveRequest,
    DeadLetter,
    DeadLetterFilter,
    GetRedriveRequest,
    Redrive,
    RedriveGroup,
)
from drw.api.workflow.v1.orchestration_pb2 import FAILED, SUCCEEDED, GetRunRequest, RestartRunRequest, Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message, json_value
from drw.kernel.runtime.settings import Profile
from drw.killswitch.watch import Killed
from support.gateway.kills import kill
from support.json_types import Json
from workflow.dead_letters import (
    client,
    dead_letter_harness,
    execute,
    failed_runs,
    get_redrive,
    insert_letters,
    letter_of,
    letters,
    redrive,
    wait_until_redriven,
)
from workflow.doubles import until
from workflow.harness import WorkflowHarness, step_is


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with dead_letter_harness(profile, folder, caller) as harness:
        yield harness


async def run_of(harness: WorkflowHarness, letter: DeadLetter) -> Run:
    """Return the ended run of a redriven letter."""
    with acting_for(harness.caller):
        run = await harness.host.client(OrchestrationClient).get_run(GetRunRequest(run=letter.redriven_run))
    return await harness.wait_until_ended(run)


async def states(harness: WorkflowHarness) -> Counter[str]:
    return Counter(DeadLetter.State.Name(letter.state) for letter in await letters(harness, page_size=500))


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_group_is_redriven_after_its_probe_succeeds(
    profile: Profile, folder: Path, caller: Principal, how: str
) -> None:
    async with dead_letter_harness(profile, folder, caller, how) as harness:
        failed = await failed_runs(harness, 3)
        release = harness.calls.block("index file-0")
        started = await redrive(harness, DeadLetterFilter(group=failed[0].group), request_id="once")

        async def only_the_probe_has_started() -> bool:
            return await states(harness) == {"REDRIVEN": 1, "REDRIVING": 2}

        await until(only_the_probe_has_started, "the probe")
        await until(lambda: harness.calls.active == 1, "its step")
        release.set()
        ended = await wait_until_redriven(harness, started)
        assert (ended.dead_letters, ended.started, ended.waiting) == (3, 3, 0)
        assert [group.state for group in ended.groups] == [RedriveGroup.PASSED]
        redriven = await letters(harness)
        runs = [await run_of(harness, letter) for letter in redriven]
        assert [(run.state, run.restart_of) for run in runs] == [(SUCCEEDED, letter.run) for letter in redriven]
        assert len({run.id for run in runs}) == 3


async def test_a_group_whose_probe_fails_is_refused_and_put_back(harness: WorkflowHarness) -> None:
    failed = await failed_runs(harness, 3)
    harness.calls.failures["index file-0"] = [InvalidRequest("still broken")]
    ended = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(group=failed[0].group)))
    (group,) = ended.groups
    assert (group.state, group.error) == (RedriveGroup.REFUSED, "the step 'ingest/0' failed: still broken")
    assert (ended.started, ended.put_back) == (1, 2)
    await letter_of(harness, group.probe_run)
    assert await states(harness) == {"REDRIVEN": 1, "OPEN": 3}  # the probe is a dead letter again
    put_back = [letter for letter in await letters(harness) if letter.redrive_error]
    assert {letter.redrive_error for letter in put_back} == {f"the probe failed: {group.error}"}
    assert [record["details"] for record in harness.audit("redrive.refuse")] == [{"group": group.group}]


async def test_a_failing_group_does_not_stop_the_others(harness: WorkflowHarness) -> None:
    await failed_runs(harness, 2)
    harness.calls.failures["chat file-1"] = [InvalidRequest("no such model")]
    other = await harness.wait_until_ended(await harness.start(["file-1"]))
    letter = await letter_of(harness, other)
    harness.calls.failures["index file-0"] = [InvalidRequest("still broken")]
    ended = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(template="digest")))
    by_group = {group.group: group.state for group in ended.groups}
    assert by_group.pop(letter.group) == RedriveGroup.PASSED
    assert list(by_group.values()) == [RedriveGroup.REFUSED]


async def test_a_dry_run_counts_and_changes_nothing(harness: WorkflowHarness) -> None:
    insert_letters(harness.profile, 5, 2)
    counted = await redrive(harness, DeadLetterFilter(template="digest"), dry_run=True)
    assert (counted.state, counted.dead_letters, counted.id) == (Redrive.DRY_RUN, 5, "")
    assert [(group.group, group.dead_letters) for group in counted.groups] == [("group0", 2), ("group1", 3)]
    assert await states(harness) == {"OPEN": 5}
    assert execute(harness.profile, "select count(*) from redrive") == [(0,)]
    with pytest.raises(InvalidRequest, match="the filter is empty"):
        await redrive(harness, DeadLetterFilter())


async def test_a_repeated_request_is_one_redrive(harness: WorkflowHarness) -> None:
    (letter,) = await failed_runs(harness, 1)
    chosen = DeadLetterFilter(ids=[letter.id])
    first = await redrive(harness, chosen, request_id="twice")
    await wait_until_redriven(harness, first)
    assert (await redrive(harness, chosen, request_id="twice")).id == first.id
    with pytest.raises(Conflict, match=f"'twice' was used for another redrive, '{first.id}'"):
        await redrive(harness, chosen, request_id="twice", from_step="digest")
    another = await wait_until_redriven(harness, await redrive(harness, chosen))
    assert another.dead_letters == 0  # the letter is closed
    assert len(harness.audit("redrive.run")) == 1


async def test_edited_inputs_replace_those_of_the_run_and_are_audited(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(["odd-0"], title="Old"))
    letter = await letter_of(harness, run)
    started = await redrive(harness, DeadLetterFilter(ids=[letter.id]), inputs={"files": ["file-3"]})
    ended = await wait_until_redriven(harness, started)
    assert list(ended.edited_inputs) == ["files"]
    new_run = await run_of(harness, (await letters(harness))[-1])
    assert new_run.state == SUCCEEDED
    assert json_value(new_run.inputs) == json_value(run.inputs) | {"files": ["file-3"]}
    (record,) = harness.audit("redrive.start")
    assert list(record["details"]["edited_inputs"]) == ["files"] and "file-3" not in str(record)
    start = next(r for r in harness.audit("run.start") if r["resource"] == new_run.id)
    assert start["details"]["restart_of"] == run.id and list(start["details"]["edited_inputs"]) == ["files"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"inputs": {"nothing": 1}}, "'nothing' is not an input of the template 'digest'"),
        ({"from_step": "nothing"}, "'nothing' is not a node of the template 'digest'; there are: ingest"),
        ({"template_version": "0" * 64}, "the template 'digest' never had the version"),
        ({"from_step": "summarise", "inputs": {"files": ["file-9"]}}, "the output of 'ingest' cannot be kept"),
    ],
)
async def test_a_redrive_that_cannot_start_is_refused_with_the_reason(
    harness: WorkflowHarness, fields: dict[str, Json], error: str
) -> None:
    failed = await failed_runs(harness, 2)
    ended = await wait_until_redriven(
        harness, await redrive(harness, DeadLetterFilter(group=failed[0].group), **fields)
    )
    assert (ended.failed, ended.put_back, ended.groups[0].state) == (1, 1, RedriveGroup.REFUSED)
    assert error in ended.groups[0].error
    assert await states(harness) == {"OPEN": 2}


async def test_steps_before_the_chosen_one_keep_their_outputs(harness: WorkflowHarness) -> None:
    harness.calls.failures["chat file-1"] = [InvalidRequest("no such model")]
    release = harness.calls.block("chat file-1")
    run = await harness.start(2)
    for ingest in ("ingest/0", "ingest/1"):
        await until(partial(step_is, harness, run, ingest, SUCCEEDED), f"the end of {ingest}")
    release.set()
    run = await harness.wait_until_ended(run)
    letter = await letter_of(harness, run)
    before = Counter(harness.calls.names)
    await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(ids=[letter.id]), from_step="summarise"))
    new_run = await run_of(harness, (await letters(harness))[-1])
    assert new_run.state == SUCCEEDED, new_run.error
    calls = Counter(harness.calls.names) - before
    assert [name for name in calls if name.startswith("index")] == []
    assert calls["chat file-0"] == calls["chat file-1"] == 1
    old_steps = {step.id: step for step in run.steps}
    for step in new_run.steps:
        if step.id.startswith("ingest"):
            assert (step.output, step.ended_at) == (old_steps[step.id].output, old_steps[step.id].ended_at)


async def test_a_redrive_uses_the_newest_version_when_asked(
    profile: Profile, folder: Path, caller: Principal, tmp_path: Path
) -> None:
    async with dead_letter_harness(profile, folder, caller) as harness:
        (letter,) = await failed_runs(harness, 1)
        with acting_for(caller):
            templates = harness.host.client(TemplatesClient)
            source = (await templates.get_template(GetTemplateRequest(name="digest"))).source
    (tmp_path / "digest.yaml").write_text(source + "# mended\n")
    settings = {"templates": {"folder": str(tmp_path)}}
    async with dead_letter_harness(profile, folder, caller, more=settings) as harness:
        same = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(ids=[letter.id])))
        assert (await run_of(harness, (await letters(harness))[-1])).template_version == letter.template_version
        assert same.started == 1
        (other,) = await failed_runs(harness, 1)
        chosen = DeadLetterFilter(ids=[other.id])
        await wait_until_redriven(harness, await redrive(harness, chosen, template_version="latest"))
        assert (await run_of(harness, (await letters(harness))[0])).template_version != letter.template_version


async def test_the_rate_is_kept(harness: WorkflowHarness) -> None:
    failed = await failed_runs(harness, 3)
    started = await redrive(harness, DeadLetterFilter(group=failed[0].group), runs_per_minute=1)

    async def has_passed() -> bool:
        return (await get_redrive(harness, started)).groups[0].state == RedriveGroup.PASSED

    await until(has_passed, "the probe")
    assert (await get_redrive(harness, started)).started == 1  # the next one starts in a minute
    with acting_for(harness.caller):
        stopped = await client(harness).cancel_redrive(CancelRedriveRequest(redrive=started.id))
        assert (stopped.state, stopped.put_back) == (Redrive.STOPPED, 2)
        assert (await client(harness).cancel_redrive(CancelRedriveRequest(redrive=started.id))).put_back == 2
    assert await states(harness) == {"REDRIVEN": 1, "OPEN": 2}
    assert len(harness.audit("redrive.stop")) == 1


async def test_a_redrive_waits_while_its_desk_is_killed_or_busy(harness: WorkflowHarness) -> None:
    (letter,) = await failed_runs(harness, 1)
    await harness.doubles.kills.kill(kill("WORKFLOW", "digest"))
    await wait_until_killed(harness)
    started = await redrive(harness, DeadLetterFilter(ids=[letter.id]))

    async def is_claimed() -> bool:
        return execute(harness.profile, "select worker is not null from redrive") == [(True,)]

    await until(is_claimed, "the claim")
    assert (await get_redrive(harness, started)).waiting == 1
    await harness.doubles.kills.kill()
    assert (await wait_until_redriven(harness, started)).started == 1


async def wait_until_killed(harness: WorkflowHarness) -> None:
    async def is_killed() -> bool:
        try:
            await harness.cancel(await harness.start(1))
        except Killed:
            return True
        return False

    await until(is_killed, "the kill")


async def test_a_probe_that_does_not_end_is_refused(profile: Profile, folder: Path, caller: Principal) -> None:
    async with dead_letter_harness(profile, folder, caller, probe_timeout_seconds=0.05) as harness:
        (letter,) = await failed_runs(harness, 1)
        harness.calls.block("index file-0")
        ended = await wait_until_redriven(harness, await redrive(harness, DeadLetterFilter(ids=[letter.id])))
        assert ended.groups[0].state == RedriveGroup.REFUSED
        assert ended.groups[0].error == f"the run {ended.groups[0].probe_run!r} has not ended in time"


async def test_active_redrives_and_their_letters_are_limited(profile: Profile, folder: Path, caller: Principal) -> None:
    async with dead_letter_harness(profile, folder, caller, max_active_redrives=1) as harness:
        failed = await failed_runs(harness, 2)
        release = harness.calls.block("index file-0")
        first = await redrive(harness, DeadLetterFilter(ids=[failed[0].id]))
        with pytest.raises(RateLimited, match="has 1 active redrives; at most 1"):
            await redrive(harness, DeadLetterFilter(ids=[failed[1].id]))
        release.set()
        await wait_until_redriven(harness, first)
        insert_letters(harness.profile, 10_001, 1)
        with pytest.raises(InvalidRequest, match="selects 10001 dead letters; at most 10000"):
            await redrive(harness, DeadLetterFilter(group="group0"))
        assert (await states(harness))["REDRIVING"] == 0


async def test_other_tenants_cannot_see_stop_or_use_a_redrive(harness: WorkflowHarness) -> None:
    (letter,) = await failed_runs(harness, 1)
    harness.calls.block("index file-0")
    started = await redrive(harness, DeadLetterFilter(ids=[letter.id]), request_id="mine")
    for other in (replace(harness.caller, desk="rates"), replace(harness.caller, org="other")):
        own = await redrive(harness, DeadLetterFilter(ids=[letter.id]), request_id="mine", principal=other)
        assert own.id != started.id and own.dead_letters == 0
        with acting_for(other):
            for call in (
                client(harness).get_redrive(GetRedriveRequest(redrive=started.id)),
                client(harness).cancel_redrive(CancelRedriveRequest(redrive=started.id)),
            ):
                with pytest.raises(NotFound, match="there is no redrive"):
                    await call
            with pytest.raises(NotFound, match="there is no run"):
                await harness.host.client(OrchestrationClient).restart_run(
                    RestartRunRequest(run=letter.run, request_id="x")
                )
    assert (await get_redrive(harness, started)).state == Redrive.ACTIVE


async def test_a_new_run_has_the_scopes_and_walls_of_the_key_that_redrives(harness: WorkflowHarness) -> None:
    (letter,) = await failed_runs(harness, 1)
    weak = replace(harness.caller, key="key_weak", scopes=frozenset({"workflows:run", "workflows:read"}))
    ended = await wait_until_redriven(
        harness, await redrive(harness, DeadLetterFilter(ids=[letter.id]), principal=weak)
    )
    assert "the key 'key_weak' lacks" in ended.groups[0].error
    strong = replace(harness.caller, key="key_strong", walls=frozenset({"m-and-a"}))
    started = await redrive(harness, DeadLetterFilter(ids=[letter.id]), principal=strong)

    async def has_started() -> bool:
        return (await letters(harness))[-1].state == DeadLetter.REDRIVEN

    await until(has_started, "the new run")
    new_run = (await letters(harness))[-1].redriven_run
    with acting_for(strong):
        run = await harness.host.client(OrchestrationClient).get_run(GetRunRequest(run=new_run))
        assert (run.started_by, list(run.walls)) == ("key_strong", ["m-and-a"])
        assert (await client(harness).get_redrive(GetRedriveRequest(redrive=started.id))).requested_by == "key_strong"
    with acting_for(harness.caller), pytest.raises(NotFound):
        await harness.host.client(OrchestrationClient).get_run(GetRunRequest(run=new_run))


async def test_only_a_failed_run_can_be_restarted(harness: WorkflowHarness) -> None:
    run = await harness.wait_until_ended(await harness.start(1))
    with acting_for(harness.caller), pytest.raises(Conflict, match="is succeeded; it must be failed"):
        await harness.host.client(OrchestrationClient).restart_run(RestartRunRequest(run=run.id, request_id="x"))
    failed = await harness.wait_until_ended(await harness.start(["odd-0"]))
    assert failed.state == FAILED
    request = RestartRunRequest(run=failed.id, request_id="x", inputs=json_message({"files": ["file-0"]}))
    with acting_for(harness.caller):
        orchestration = harness.host.client(OrchestrationClient)
        first, second = [await orchestration.restart_run(request) for _ in range(2)]
    assert first.id == second.id
    assert [step.id for step in first.steps] == ["ingest/0", "summarise/0", "digest"]
