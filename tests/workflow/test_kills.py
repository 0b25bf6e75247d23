"""What a kill switch does to workflows: no new runs, and those under way are held until it is lifted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.api.workflow.v1.orchestration_pb2 import CANCELLED, FAILED, RETRYING, RUNNING, SUCCEEDED
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.killswitch.watch import Killed
from support.gateway.kills import kill
from workflow.doubles import until
from workflow.running import Running, is_so, running, step_is


@pytest.fixture
async def here(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[Running]:
    async with running(profile, folder, caller) as found:
        yield found


async def refused(here, **more) -> Killed:
    """Return when new runs are refused, with the error."""
    found = []

    async def so() -> bool:
        try:
            await here.cancel(await here.start(1, **more), more.get("who"))
        except Killed as error:
            found.append(error)
        return bool(found)

    await until(so, "the refusal of new runs")
    return found[0]


@pytest.mark.parametrize(
    "what",
    [
        kill("WORKFLOW", "digest"),
        kill("WORKFLOW", "digest", "acme"),
        kill("DESK", "research", "acme"),
        kill("KEY", "key_test", "acme"),
    ],
    ids=["workflow", "own workflow", "desk", "key"],
)
async def test_a_run_is_held_and_goes_on_when_the_kill_is_lifted(here: Running, what: Kill) -> None:
    here.calls.hold("chat file-0")
    run = await here.start(1)
    await until(lambda: is_so(here.calls.under_way == 1), "the call of the model")
    await here.doubles.kills.kill(what)
    error = await refused(here)
    assert error.metadata["code"] == "killed" and what.name in error.message
    await until(lambda: is_so(here.calls.under_way == 0), "the end of the call")
    await until(lambda: step_is(here, run, "summarise/0", RETRYING), "the hold")
    step = await here.step(run, "summarise/0")
    assert step.error.startswith("held: ") and (await here.get(run)).state == RUNNING
    made = here.calls.made.count("chat file-0")
    here.calls.held.pop("chat file-0").set()
    await here.doubles.kills.kill()
    done = await here.ended(run)
    assert done.state == SUCCEEDED, done.error
    assert here.calls.made.count("chat file-0") == made + 1
    assert here.calls.made.count("index file-0") == 1  # what had ended was not made again
    assert [r["outcome"] for r in here.audit("run.end") if r["resource"] == run.id] == ["ok"]


async def test_a_run_that_is_held_can_be_cancelled(here: Running) -> None:
    here.calls.hold("index file-0")
    run = await here.start(1)
    await until(lambda: is_so(here.calls.under_way == 1), "the call")
    await here.doubles.kills.kill(kill("WORKFLOW", "digest"))
    await refused(here)
    await here.cancel(run)
    assert (await here.ended(run)).state == CANCELLED


async def test_others_go_on(here: Running) -> None:
    others = [kill("WORKFLOW", "another"), kill("WORKFLOW", "digest", "other"), kill("DESK", "trading", "acme")]
    await here.doubles.kills.kill(*others)
    other = replace(here.caller, desk="trading")
    await refused(here, who=other)
    assert (await here.ended(await here.start(1))).state == SUCCEEDED


async def test_a_run_whose_model_is_killed_says_so(here: Running) -> None:
    here.calls.faults["chat file-0"] = [Killed("the model 'm' is stopped by a kill switch", killed="model")]
    done = await here.ended(await here.start(1))
    assert done.state == FAILED and "the model 'm' is stopped by a kill switch" in done.error
