"""Takeover: runs of a process that stopped or lost its database connection."""

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
from workflow.doubles import serve_doubles, until
from workflow.harness import FAST_SETTINGS, SERVICES, WorkflowHarness, sequence


@pytest.fixture
async def start_services(
    profile: Profile, folder: Path, caller: Principal
) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[WorkflowHarness]]]:
    """Start the services of one profile, any number of times, with the same doubles."""
    async with serve_doubles(profile, folder / f"d{next(sequence)}") as doubles:
        doubles_profile = doubles.profile.model_copy(update={"services": FAST_SETTINGS})

        @asynccontextmanager
        async def start() -> AsyncIterator[WorkflowHarness]:
            async with hosted(doubles_profile, SERVICES) as host:
                yield WorkflowHarness(host, doubles, doubles_profile, caller)

        yield start


def execute_sql(harness: WorkflowHarness, query: str, *args: object) -> None:
    with psycopg.connect(harness.profile.postgres, autocommit=True) as connection:
        connection.execute(query.encode(), args)


async def test_a_stored_run_that_the_engine_does_not_know_is_started_later(
    start_services: Callable[[], AbstractAsyncContextManager[WorkflowHarness]],
) -> None:
    async with start_services() as harness:
        release = harness.calls.block("index file-0")
        run = await harness.start(1)
        await until(lambda: "index file-0" in harness.calls.names, "the first step")
    # Simulates a process that died between the commit of the run and its first step.
    execute_sql(harness, "delete from orchestration_engine.workflow_status where workflow_uuid = %s", run.id)
    execute_sql(harness, "update orchestration.run set state = 'QUEUED' where id = %s", run.id)
    release.set()
    async with start_services() as harness:
        assert (await harness.wait_until_ended(run)).state == SUCCEEDED


async def test_a_run_cancelled_while_no_process_runs_does_not_resume(
    start_services: Callable[[], AbstractAsyncContextManager[WorkflowHarness]],
) -> None:
    async with start_services() as harness:
        harness.calls.block("chat file-0")
        run = await harness.start(1)
        await until(lambda: "chat file-0" in harness.calls.names, "the model call")
    execute_sql(harness, "update orchestration.run set state = 'CANCELLED', ended_at = now() where id = %s", run.id)
    del harness.calls.gates["chat file-0"]
    calls_before = list(harness.calls.names)
    async with start_services() as harness:
        other = await harness.wait_until_ended(await harness.start(["file-7"]))
        assert other.state == SUCCEEDED
        await until(lambda: _engine_status_is(harness, run, "SUCCESS"), "the engine's end of the run")
        assert (await harness.get(run)).state == CANCELLED
        assert [name for name in harness.calls.names[len(calls_before) :] if "file-0" in name] == []


async def test_writes_of_a_former_owner_of_a_run_are_rejected(
    start_services: Callable[[], AbstractAsyncContextManager[WorkflowHarness]],
) -> None:
    async with start_services() as harness:
        release = harness.calls.block("chat file-0")
        run = await harness.start(1)
        await until(lambda: "chat file-0" in harness.calls.names, "the model call")
        execute_sql(
            harness, "update orchestration.run set fence = fence + 1 where id = %s", run.id
        )  # simulates another process that acquires the run
        release.set()
        await until(lambda: _is_idle(harness), "the abandoned run")
        stored_run = await harness.get(run)
        assert stored_run.ended_at.seconds == 0
        assert [s.id for s in stored_run.steps if s.state == SUCCEEDED] == ["ingest/0"]
    async with start_services() as harness:
        stored_run = await harness.wait_until_ended(run)
        assert stored_run.state == SUCCEEDED
        assert {s.id: s.attempts for s in stored_run.steps} == {"ingest/0": 1, "summarise/0": 2, "digest": 1}


async def test_a_run_survives_a_lost_database_connection(
    start_services: Callable[[], AbstractAsyncContextManager[WorkflowHarness]],
) -> None:
    async with start_services() as harness:
        release = harness.calls.block("chat file-0")
        run = await harness.start(2)
        await until(lambda: "chat file-0" in harness.calls.names, "the model call")
        execute_sql(harness, "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()")  # fmt: skip
        await until(lambda: harness.calls.names.count("chat file-0") > 1, "a second attempt")
        release.set()
        stored_run = await harness.wait_until_ended(run)
        assert stored_run.state == SUCCEEDED, stored_run.error
        assert {s.id: s.attempts for s in stored_run.steps}["ingest/0"] == 1
        ends = [r["resource"] for r in harness.audit("step.end")]
        assert len(ends) == len(set(ends)) == 5


async def _is_idle(harness: WorkflowHarness) -> bool:
    details = {s.name: s.detail for s in (await harness.host.status()).services}
    return ", 0 active runs" in details["orchestration"]


async def _engine_status_is(harness: WorkflowHarness, run: Run, status: str) -> bool:
    def query_status() -> bool:
        with psycopg.connect(harness.profile.postgres) as connection:
            query = "select status from orchestration_engine.workflow_status where workflow_uuid = %s"
            return connection.execute(query, (run.id,)).fetchone() == (status,)

    return await asyncio.to_thread(query_status)
