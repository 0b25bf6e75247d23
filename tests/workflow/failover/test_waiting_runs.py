"""Interruptions of runs: those of a run that only waits do not count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, RUNNING, SUCCEEDED, Run, Vote
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WITH_PERSONS, WorkflowHarness, step_is, workflow_harness

WAITS = """
name: waits
description: An approval beside a step.
inputs:
  file: {type: STRING, required: true}
nodes:
  - {id: ok, uses: approval, with: {title: "Go?"}}
  - {id: read, uses: ingest, with: {file: "${inputs.file}", collection: c}}
output: done
"""
MAX_INTERRUPTIONS = 2


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    settings = {"initial_retry_seconds": 0.01, "max_interruptions": MAX_INTERRUPTIONS}
    services: JsonObject = FAST_SETTINGS | {"orchestration": settings}
    starter = replace(caller, key="oidc:corp:starter")  # a person without a key, so that nobody created it
    async with workflow_harness(profile, folder, starter, services=services, names=WITH_PERSONS) as made:
        yield made


def fetch(harness: WorkflowHarness, query: str, *args: object) -> list[Any]:
    with psycopg.connect(harness.profile.postgres, autocommit=True) as connection:
        return connection.execute(query.encode(), args).fetchall()


async def interrupt(harness: WorkflowHarness, run: Run) -> None:
    """End the leadership of the process, as its death does, and wait until it has taken the run again."""
    ((fence,),) = fetch(harness, "select fence from orchestration.run where id = %s", run.id)
    fetch(harness, "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted"
                   " and database = (select oid from pg_database where datname = current_database())")  # fmt: skip

    def is_taken() -> bool:
        query = "select fence >= %s or state = 'FAILED' from orchestration.run where id = %s"
        return bool(fetch(harness, query, fence + 2, run.id)[0][0])  # one rejects the old process, one is the new owner

    await until(is_taken, "the new owner of the run")


async def test_a_run_that_only_waits_survives_any_number_of_interruptions(harness: WorkflowHarness) -> None:
    await harness.put(WAITS)
    run = await harness.start(0, template="waits", file="file-0")
    await until(lambda: step_is(harness, run, "read", SUCCEEDED), "the end of the step")
    for _ in range(MAX_INTERRUPTIONS + 2):
        await until(lambda: step_is(harness, run, "ok", RUNNING), "the approval")
        await interrupt(harness, run)
    await harness.decide(run, "ok", "oidc:corp:risk", Vote.APPROVE)
    ended = await harness.wait_until_ended(run)
    assert (ended.state, ended.error) == (SUCCEEDED, "")


async def test_interruptions_of_a_step_count_although_another_one_waits(harness: WorkflowHarness) -> None:
    await harness.put(WAITS)
    harness.calls.block("index file-1")
    run = await harness.start(0, template="waits", file="file-1")
    for calls in range(1, MAX_INTERRUPTIONS + 2):
        await until(lambda: harness.calls.names.count("index file-1") >= calls, "the call")  # noqa: B023 - awaited
        await interrupt(harness, run)
    ended = await harness.wait_until_ended(run)
    assert ended.state == FAILED and "without a finished step" in ended.error
