"""What a process that is stopped, or loses its connection, leaves behind is taken up rightly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import CANCELLED, SUCCEEDED, Run
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from support.hosting import hosted
from workflow.doubles import doubled, until
from workflow.running import QUICK, SERVICES, Running, is_so, numbers


@pytest.fixture
async def again(
    profile: Profile, folder: Path, caller: Principal
) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[Running]]]:
    """Gives the services of one profile, as often as asked, with the doubles staying on."""
    async with doubled(profile, folder / f"d{next(numbers)}") as doubles:
        settled = doubles.profile.model_copy(update={"services": QUICK})

        @asynccontextmanager
        async def start() -> AsyncIterator[Running]:
            async with hosted(settled, SERVICES) as host:
                yield Running(host, doubles, settled, caller)

        yield start


def sql(here: Running, query: str, *args: object) -> None:
    with psycopg.connect(here.profile.postgres, autocommit=True) as connection:
        connection.execute(query.encode(), args)


async def test_a_run_that_was_only_written_down_is_begun_later(
    again: Callable[[], AbstractAsyncContextManager[Running]],
) -> None:
    async with again() as here:
        release = here.calls.hold("index file-0")
        run = await here.start(1)
        await until(lambda: is_so("index file-0" in here.calls.made), "the first step")
    # As if the process had died between the start's commit and the first step: the engine knows nothing.
    sql(here, "delete from orchestration_engine.workflow_status where workflow_uuid = %s", run.id)
    sql(here, "update orchestration.run set state = 'QUEUED' where id = %s", run.id)
    release.set()
    async with again() as here:
        assert (await here.ended(run)).state == SUCCEEDED


async def test_a_run_that_was_cancelled_meanwhile_does_not_come_back(
    again: Callable[[], AbstractAsyncContextManager[Running]],
) -> None:
    async with again() as here:
        here.calls.hold("chat file-0")
        run = await here.start(1)
        await until(lambda: is_so("chat file-0" in here.calls.made), "the model call")
    sql(here, "update orchestration.run set state = 'CANCELLED', ended_at = now() where id = %s", run.id)
    del here.calls.held["chat file-0"]
    made = list(here.calls.made)
    async with again() as here:
        other = await here.ended(await here.start(["file-7"]))
        assert other.state == SUCCEEDED
        await until(lambda: _engine_has(here, run, "SUCCESS"), "the engine's end of the run")
        assert (await here.get(run)).state == CANCELLED
        assert [name for name in here.calls.made[len(made) :] if "file-0" in name] == []


async def test_what_is_written_after_the_run_was_lost_is_refused(
    again: Callable[[], AbstractAsyncContextManager[Running]],
) -> None:
    async with again() as here:
        release = here.calls.hold("chat file-0")
        run = await here.start(1)
        await until(lambda: is_so("chat file-0" in here.calls.made), "the model call")
        sql(here, "update orchestration.run set fence = fence + 1 where id = %s", run.id)  # as another process would
        release.set()
        await until(lambda: _idle(here), "the loss to be noticed")
        found = await here.get(run)
        assert found.ended_at.seconds == 0
        assert [s.id for s in found.steps if s.state == SUCCEEDED] == ["ingest/0"]
    async with again() as here:
        found = await here.ended(run)
        assert found.state == SUCCEEDED
        assert {s.id: s.attempts for s in found.steps} == {"ingest/0": 1, "summarise/0": 2, "digest": 1}


async def test_a_lost_database_connection_costs_no_run(
    again: Callable[[], AbstractAsyncContextManager[Running]],
) -> None:
    async with again() as here:
        release = here.calls.hold("chat file-0")
        run = await here.start(2)
        await until(lambda: is_so("chat file-0" in here.calls.made), "the model call")
        sql(here, "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()")  # fmt: skip
        await until(lambda: is_so(here.calls.made.count("chat file-0") > 1), "the run to be taken up again")
        release.set()
        found = await here.ended(run)
        assert found.state == SUCCEEDED, found.error
        assert {s.id: s.attempts for s in found.steps}["ingest/0"] == 1
        ends = [r["resource"] for r in here.audit("step.end")]
        assert len(ends) == len(set(ends)) == 5


async def _idle(here: Running) -> bool:
    details = {s.name: s.detail for s in (await here.host.status()).services}
    return ", 0 under way" in details["orchestration"]


async def _engine_has(here: Running, run: Run, status: str) -> bool:
    def ask() -> bool:
        with psycopg.connect(here.profile.postgres) as connection:
            query = "select status from orchestration_engine.workflow_status where workflow_uuid = %s"
            return connection.execute(query, (run.id,)).fetchone() == (status,)

    return await asyncio.to_thread(ask)
