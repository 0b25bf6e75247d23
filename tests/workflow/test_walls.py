"""A run stands inside the walls of the key that started it, and so does all that its steps do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, CancelRunRequest, GetRunRequest, ListRunsRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from workflow.running import QUICK, running

MUTATIONS = {
    "overlap": "select cardinality(object_walls) = 0 or object_walls && caller_walls",
    "everything": "select true",
}


async def listed(here, who):
    with acting_for(who):
        return [r.id for r in (await here.host.client(OrchestrationClient).list_runs(ListRunsRequest())).runs]


async def leaks(here, run, who):
    """Return what a caller who may not see a run learns of it."""
    client, found = here.host.client(OrchestrationClient), []
    with acting_for(who):
        for name, call in {
            "get": client.get_run(GetRunRequest(run=run.id)),
            "cancel": client.cancel_run(CancelRunRequest(run=run.id)),
        }.items():
            try:
                await call
                found.append(name)
            except NotFound as error:
                assert error.message == f"there is no run {run.id!r}"
        try:
            await client.list_runs(ListRunsRequest(page_token=run.id))
            found.append("token")
        except InvalidRequest:
            pass
    return found + ["list"] * (run.id in await listed(here, who))


async def test_a_run_and_its_steps_are_inside_the_walls_of_whoever_started_it(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a", "credit"}))
    async with running(profile, folder, inside) as here:
        run = await here.ended(await here.start(2))
        assert (run.state, list(run.walls)) == (SUCCEEDED, ["credit", "m-and-a"]), run.error
        assert {tuple(record.get("walls", ())) for record in here.audit("step.end")} == {("credit", "m-and-a")}
        outsiders = [caller, replace(caller, walls=frozenset({"credit"}))]
        for who in outsiders:
            assert await leaks(here, run, who) == []
        assert await listed(here, inside) == [run.id]
        for mutation in MUTATIONS.values():
            with psycopg.connect(profile.postgres) as connection:
                connection.execute(
                    "create or replace function orchestration.inside(object_walls text[], caller_walls text[])"
                    f" returns boolean language sql immutable parallel safe as $$ {mutation} $$"
                )
            assert await leaks(here, run, outsiders[1])


async def test_a_request_id_and_the_room_of_a_desk_tell_nothing_across_walls(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a"}))
    services = QUICK | {"orchestration": QUICK["orchestration"] | {"max_open_runs": 1}}
    async with running(profile, folder, caller, services=services) as here:
        gate = here.calls.hold("index file-0")
        walled = await here.start(1, request_id="one", who=inside)
        with pytest.raises(RateLimited, match="has 1 runs that have not ended"):
            await here.start(1, request_id="two", who=inside)
        other = await here.start(2, request_id="one")  # neither a conflict nor the other run, and there is room
        assert other.id != walled.id
        assert (await here.start(1, request_id="one", who=inside)).id == walled.id
        gate.set()
