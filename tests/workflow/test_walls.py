"""Walls of runs: a run and its steps have the walls of the key that started the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, CancelRunRequest, GetRunRequest, ListRunsRequest, Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness

MUTATIONS = {
    "overlap": "select cardinality(object_walls) = 0 or object_walls && caller_walls",
    "everything": "select true",
}


async def listed_runs(harness: WorkflowHarness, principal: Principal) -> list[str]:
    with acting_for(principal):
        return [r.id for r in (await harness.host.client(OrchestrationClient).list_runs(ListRunsRequest())).runs]


async def leaked(harness: WorkflowHarness, run: Run, principal: Principal) -> list[str]:
    """Return the calls that reveal a run to a principal outside its walls."""
    client = harness.host.client(OrchestrationClient)
    leaked_calls: list[str] = []
    with acting_for(principal):
        for name, call in {
            "get": client.get_run(GetRunRequest(run=run.id)),
            "cancel": client.cancel_run(CancelRunRequest(run=run.id)),
        }.items():
            try:
                await call
                leaked_calls.append(name)
            except NotFound as error:
                assert error.message == f"there is no run {run.id!r}"
        try:
            await client.list_runs(ListRunsRequest(page_token=run.id))
            leaked_calls.append("token")
        except InvalidRequest:
            pass
    return leaked_calls + ["list"] * (run.id in await listed_runs(harness, principal))


async def test_a_run_and_its_steps_have_the_walls_of_the_caller_that_started_it(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a", "credit"}))
    async with workflow_harness(profile, folder, inside) as harness:
        run = await harness.wait_until_ended(await harness.start(2))
        assert (run.state, list(run.walls)) == (SUCCEEDED, ["credit", "m-and-a"]), run.error
        assert {tuple(record.get("walls", ())) for record in harness.audit("step.end")} == {("credit", "m-and-a")}
        outsiders = [caller, replace(caller, walls=frozenset({"credit"}))]
        for principal in outsiders:
            assert await leaked(harness, run, principal) == []
        assert await listed_runs(harness, inside) == [run.id]
        for mutation in MUTATIONS.values():
            with psycopg.connect(profile.postgres) as connection:
                connection.execute(
                    "create or replace function orchestration.inside(object_walls text[], caller_walls text[])"
                    f" returns boolean language sql immutable parallel safe as $$ {mutation} $$"
                )
            assert await leaked(harness, run, outsiders[1])


async def test_request_ids_and_run_limits_do_not_leak_across_walls(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    services = FAST_SETTINGS | {"orchestration": FAST_SETTINGS["orchestration"] | {"max_open_runs": 1}}
    async with workflow_harness(profile, folder, caller, services=services) as harness:
        release = harness.calls.block("index file-0")
        walled = await harness.start(1, request_id="one", principal=inside)
        with pytest.raises(RateLimited, match="has 1 runs that have not ended"):
            await harness.start(1, request_id="two", principal=inside)
        other = await harness.start(2, request_id="one")  # no conflict, a new run, and no limit reached
        assert other.id != walled.id
        assert (await harness.start(1, request_id="one", principal=inside)).id == walled.id
        release.set()
