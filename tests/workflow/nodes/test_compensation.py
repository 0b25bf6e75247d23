"""Compensation after a failure or a cancellation: in reverse order, once, for each step that may have taken effect."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.error_handling_pb2 import GetDeadLetterRequest, ListDeadLettersRequest
from drw.api.workflow.v1.error_handling_rpc import ErrorHandlingClient
from drw.api.workflow.v1.orchestration_pb2 import (
    AMBIGUOUS,
    CANCELLED,
    FAILED,
    PERMANENT,
    RUNNING,
    SUCCEEDED,
    Approval,
    RestartRunRequest,
    Run,
    Vote,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile, Workflow
from support.json_types import Json
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, SERVICES, WITH_PERSONS, WorkflowHarness, workflow_harness
from workflow.nodes.conftest import FUNCTIONS, SECRET
from workflow.nodes.http_server import HttpServer, answer
from workflow.nodes.running import finished, stored_text, template

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def harness(declared: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    """The workflow services with error handling."""
    settings = FAST_SETTINGS | {"orchestration": {"initial_retry_seconds": 0.01, "functions": FUNCTIONS}}
    async with workflow_harness(
        declared, folder, caller, services=settings, names=[*SERVICES, "error_handling"]
    ) as harness:
        yield harness


def place(server: HttpServer, name: str, needs: str = "", undo: str = "") -> str:
    """Return a node that places an order, and removes it when the run fails."""
    url = f"{server.url}/orders/{name}"
    undo = undo or (
        f'{{uses: http, max_attempts: 2, with: {{url: "{url}/${{steps.{name}.output.body.id}}", method: DELETE,'
        ' headers: {X-Token: "no secret"}}}'
    )
    return (
        f'  - id: {name}\n    uses: http\n    needs: [{needs}]\n    with: {{url: "{url}", method: PUT}}\n'
        f"    compensate: {undo}\n"
    )


FAIL = "  - {id: fail, uses: python, needs: [NEEDS], with: {function: fail}}\n"


def undone(server: HttpServer) -> list[str]:
    return [path.removeprefix("/orders/").partition("/")[0] for path in server.paths("DELETE")]


async def test_finished_steps_are_undone_the_last_one_first(harness: WorkflowHarness, server: HttpServer) -> None:
    nodes = place(server, "a") + place(server, "b", "a") + place(server, "c", "b") + FAIL.replace("NEEDS", "c")
    run = await finished(harness, template(nodes))
    assert run.state == FAILED
    assert server.paths("DELETE") == ["/orders/c/3", "/orders/b/2", "/orders/a/1"]  # with the ids of the answers
    assert run.error == run.undo_reason and "'fail' failed" in run.error
    states = {step.id: step.state for step in run.steps}
    assert {name: states[name] for name in states if "~" in name} == {f"{name}~undo": SUCCEEDED for name in "abc"}
    assert ("", "undoing") in await harness.events(run)
    assert [record["resource"] for record in harness.audit("run.undo")] == [run.id]


async def test_a_run_that_succeeds_undoes_nothing(harness: WorkflowHarness, server: HttpServer) -> None:
    run = await finished(harness, template(place(server, "a")))
    assert (run.state, run.undo_reason, server.paths("DELETE")) == (SUCCEEDED, "", [])


async def test_a_cancelled_run_undoes_its_steps_and_interrupts_the_running_one(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    hold = f'  - {{id: hold, uses: http, needs: [a], with: {{url: "{server.url}/hold/1"}}}}\n'
    await harness.put(template(place(server, "a") + hold))
    server.answers["/orders/a/1"] = [answer(503)]
    run = await harness.start(0, template="t")
    await until(lambda: "/hold/1" in server.paths(), "the second step")
    cancelled = await harness.cancel(run)
    assert (cancelled.state, cancelled.undo_reason) == (RUNNING, "cancelled by key_test")
    assert (await harness.cancel(run)).state in (RUNNING, CANCELLED)  # has no further effect
    run = await harness.wait_until_ended(run)
    assert (run.state, run.error) == (CANCELLED, "cancelled by key_test")
    assert server.paths("DELETE") == ["/orders/a/1"] * 2  # with its own retries
    assert {step.id: step.state for step in run.steps} == {"a": SUCCEEDED, "hold": CANCELLED, "a~undo": SUCCEEDED}
    assert server.paths("GET") == ["/hold/1"]


async def test_steps_of_maps_are_undone_with_their_items(harness: WorkflowHarness, server: HttpServer) -> None:
    undo = f'{{uses: http, with: {{url: "{server.url}/undo/${{item}}/${{index}}", method: DELETE}}}}'
    body = place(server, "one", undo=undo).replace("\n", "\n    ").rstrip()
    with_items = 'with: {items: "${inputs.values}", concurrency: 1}'
    nodes = f"  - id: each\n    uses: map\n    {with_items}\n    nodes:\n    {body}\n"
    run = await finished(harness, template(nodes + FAIL.replace("NEEDS", "each")), values=["x", "y"])
    assert server.paths("DELETE") == ["/undo/y/1", "/undo/x/0"]
    assert {"each.0.one~undo", "each.1.one~undo"} < {step.id for step in run.steps}


async def test_an_ambiguous_step_is_undone_unless_its_output_is_needed(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    post = place(server, "a", undo=f'{{uses: http, with: {{url: "{server.url}/undo/${{run.id}}", method: DELETE}}}}')
    server.answers["/orders/a"] = [answer(500)]
    run = await finished(harness, template(post.replace("PUT", "POST")))
    assert {step.id: step.failure_class for step in run.steps}["a"] == AMBIGUOUS
    assert server.paths("DELETE") == [f"/undo/{run.id}"]
    server.answers["/orders/a"] = [answer(500)]
    run = await finished(harness, template(place(server, "a").replace("PUT", "POST"), name="u"))
    assert {step.id: step.state for step in run.steps} == {"a": FAILED, "a~undo": FAILED}
    assert "the compensation of 'a' failed: it is unknown whether" in run.error
    assert len(server.paths("DELETE")) == 1


async def letters(harness: WorkflowHarness) -> list[Json]:
    with acting_for(harness.caller):
        client = harness.host.client(ErrorHandlingClient)
        listed = await client.list_dead_letters(ListDeadLettersRequest())
        found = [await client.get_dead_letter(GetDeadLetterRequest(dead_letter=row.id)) for row in listed.dead_letters]
    return [(letter.run, letter.step, letter.failure_class, letter.error) for letter in found]


async def restart(harness: WorkflowHarness, run: Run, from_step: str = "") -> Run:
    request = RestartRunRequest(run=run.id, request_id=f"again-{from_step}", from_step=from_step)
    with acting_for(harness.caller):
        return await harness.host.client(OrchestrationClient).restart_run(request)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_failed_compensation_is_a_dead_letter_and_does_not_stop_the_others(
    harness: WorkflowHarness, server: HttpServer, cancelled: bool
) -> None:
    last = f'  - {{id: fail, uses: http, needs: [b], with: {{url: "{server.url}/hold/1"}}}}\n'
    nodes = place(server, "a") + place(server, "b", "a") + (last if cancelled else FAIL.replace("NEEDS", "b"))
    server.answers["/orders/b/2"] = [answer(400, "locked")]
    await harness.put(template(nodes))
    run = await harness.start(0, template="t")
    if cancelled:
        await until(lambda: "/hold/1" in server.paths(), "the last step")
        await harness.cancel(run)
    run = await harness.wait_until_ended(run)
    assert run.state == (CANCELLED if cancelled else FAILED)
    assert undone(server) == ["b", "a"]
    assert "the compensation of 'b' failed: DELETE to" in run.error and "answered 400: locked" in run.error
    found: list[Json] = []

    async def stored() -> bool:
        found[:] = await letters(harness)
        return bool(found)

    await until(stored, "the dead letter")
    assert found == [(run.id, "b~undo", PERMANENT, run.error)]
    with pytest.raises(Conflict, match="the step 'b' is not undone|it must be failed"):
        await restart(harness, run)


async def test_a_step_that_was_undone_is_not_kept_by_a_restart(harness: WorkflowHarness, server: HttpServer) -> None:
    run = await finished(harness, template(place(server, "a") + FAIL.replace("NEEDS", "a")))
    with pytest.raises(InvalidRequest, match="'a' was undone: start from it or earlier"):
        await restart(harness, run, "fail")
    again = await harness.wait_until_ended(await restart(harness, run))
    assert again.state == FAILED and undone(server) == ["a", "a"]


async def test_a_child_run_undoes_its_steps_when_its_parent_is_cancelled(
    harness: WorkflowHarness, server: HttpServer
) -> None:
    hold = f'  - {{id: hold, uses: http, needs: [a], with: {{url: "{server.url}/hold/1"}}}}\n'
    await harness.put(template(place(server, "a") + hold, name="child"))
    await harness.put(template("  - {id: call, uses: workflow, with: {template: child}}\n", name="parent"))
    run = await harness.start(0, template="parent")
    await until(lambda: "/hold/1" in server.paths(), "the step of the child")
    await harness.cancel(run)
    assert (await harness.wait_until_ended(run)).state == CANCELLED
    await until(lambda: undone(server) == ["a"], "the compensation of the child")


async def test_a_compensation_can_use_secrets_and_publish_events(harness: WorkflowHarness, server: HttpServer) -> None:
    secret = f'{{uses: http, with: {{url: "{server.url}/undo", method: PUT, body: "${{secrets.TOKEN}}"}}}}'
    event = '{uses: event, with: {name: risk.limit_breached, data: {desk: "${steps.b.output.body.path}"}}}'
    nodes = place(server, "a", undo=secret) + place(server, "b", "a", undo=event) + FAIL.replace("NEEDS", "b")
    run = await finished(harness, template(nodes))
    assert run.error == run.undo_reason
    assert (server.received[-1].path, server.received[-1].body) == ("/undo", SECRET)
    stored = stored_text(harness.profile.postgres)
    assert SECRET not in stored and '"desk":"/orders/b"' in stored.replace(": ", ":")


async def test_the_template_of_the_guide_undoes_its_order_when_it_is_rejected(
    profile: Profile, folder: Path, caller: Principal, server: HttpServer
) -> None:
    guide = (ROOT / "docs/how-to/use/write-a-workflow.md").read_text()
    file = folder / "broker_token"
    file.write_text("token of the broker")
    changes = {"https://api.broker.example": server.url, "api.broker.example": server.url}
    changes |= {"/run/secrets/broker_token": str(file), '"rates"': f'"{caller.desk}"'}
    for old, new in changes.items():
        guide = guide.replace(old, new)
    (settings,) = re.findall(r"```toml\n(\[workflow\]\n.*?)```", guide, re.DOTALL)
    (source,) = re.findall(r"```yaml\n(format: 1\nname: place_order\n.*?)```", guide, re.DOTALL)
    declared = profile.model_copy(update={"workflow": Workflow.model_validate(tomllib.loads(settings)["workflow"])})
    starter = replace(caller, key="oidc:corp:starter")  # a person without a key, so that nobody created it
    async with workflow_harness(declared, folder, starter, services=FAST_SETTINGS, names=WITH_PERSONS) as harness:
        await harness.put(source)
        run = await harness.start(0, template="place_order", symbol="AAPL", size=5)

        async def rejected() -> bool:
            with suppress(NotFound):
                return (await harness.decide(run, "sign", "oidc:corp:risk", Vote.REJECT)).state == Approval.REJECTED
            return False

        await until(rejected, "the approval")
        assert (await harness.wait_until_ended(run)).state == FAILED
    placed, removed = server.received
    assert (placed.body, placed.headers["idempotency-key"]) == ('{"symbol":"AAPL","size":5}', f"order/AAPL/{run.id}")
    assert (removed.method, removed.path) == ("DELETE", "/orders/1")
    assert placed.headers["authorization"] == removed.headers["authorization"] == "Bearer token of the broker"
