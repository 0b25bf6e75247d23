"""Helpers for dead letters: failed runs, lists, redrives and rows in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from drw.api.workflow.v1.error_handling_pb2 import (
    DeadLetter,
    DeadLetterFilter,
    GetRedriveRequest,
    ListDeadLettersRequest,
    Redrive,
    RedriveDeadLettersRequest,
)
from drw.api.workflow.v1.error_handling_rpc import ErrorHandlingClient
from drw.api.workflow.v1.orchestration_pb2 import FAILED, Run
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from support.json_types import Json, JsonObject
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, SERVICES, WorkflowHarness, workflow_harness

NAMES = [*SERVICES, "error_handling"]
SETTINGS = FAST_SETTINGS | {"error_handling": {"poll_seconds": 0.02}}
FAST = 6000
"""Runs per minute."""


@asynccontextmanager
async def dead_letter_harness(
    profile: Profile,
    folder: Path,
    caller: Principal,
    how: str = "together",
    *,
    more: JsonObject | None = None,
    names: Sequence[str] = NAMES,
    **settings: Json,
) -> AsyncIterator[WorkflowHarness]:
    """The workflow services with error handling, with its settings and `more` of other services."""
    services = SETTINGS | {"error_handling": SETTINGS["error_handling"] | settings} | (more or {})
    async with workflow_harness(profile, folder, caller, how, services, names) as harness:
        yield harness


def client(harness: WorkflowHarness) -> ErrorHandlingClient:
    return harness.host.client(ErrorHandlingClient)


async def letters(harness: WorkflowHarness, principal: Principal | None = None, **fields: Json) -> list[DeadLetter]:
    with acting_for(principal or harness.caller):
        response = await client(harness).list_dead_letters(ListDeadLettersRequest(**fields))
    return list(response.dead_letters)


async def letter_of(harness: WorkflowHarness, run: Run | str, principal: Principal | None = None) -> DeadLetter:
    """Wait for the dead letter of a run."""
    run_id = run if isinstance(run, str) else run.id
    found: list[DeadLetter] = []

    async def is_stored() -> bool:
        found[:] = [letter for letter in await letters(harness, principal, page_size=500) if letter.run == run_id]
        return bool(found)

    await until(is_stored, f"the dead letter of {run_id}")
    return found[0]


async def failed_runs(harness: WorkflowHarness, count: int, file: str = "file-0") -> list[DeadLetter]:
    """Let runs fail for the same reason, and return their dead letters in the order of the runs."""
    found = []
    for _ in range(count):
        harness.calls.failures[f"index {file}"] = [InvalidRequest(f"{file!r} has no pages")]
        run = await harness.wait_until_ended(await harness.start([file]))
        assert run.state == FAILED
        found.append(await letter_of(harness, run))
    return found


async def redrive(
    harness: WorkflowHarness, filter: DeadLetterFilter, principal: Principal | None = None, **fields: Json
) -> Redrive:
    """Request a redrive, as fast as possible unless `fields` has a rate."""
    requested: JsonObject = {"runs_per_minute": FAST} | fields
    if "inputs" in fields:
        requested["inputs"] = json_message(fields["inputs"])
    with acting_for(principal or harness.caller):
        request = RedriveDeadLettersRequest(filter=filter, **requested)
        return await client(harness).redrive_dead_letters(request)


async def get_redrive(harness: WorkflowHarness, redrive: Redrive) -> Redrive:
    with acting_for(harness.caller):
        return await client(harness).get_redrive(GetRedriveRequest(redrive=redrive.id))


async def wait_until_redriven(harness: WorkflowHarness, redrive: Redrive) -> Redrive:
    """Wait for the end of a redrive."""

    async def has_ended() -> bool:
        return (await get_redrive(harness, redrive)).state == Redrive.ENDED

    await until(has_ended, f"the end of {redrive.id}")
    return await get_redrive(harness, redrive)


def execute(profile: Profile, query: str, *args: object) -> list[tuple[Json, ...]]:
    """Run a statement in the schema of error handling, and return its rows."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        connection.execute("set search_path to error_handling, public")
        cursor = connection.execute(query.encode(), args)
        return cursor.fetchall() if cursor.description else []


INSERT_MANY = """
insert into dead_letter (id, org, desk, walls, run, key, template, template_version, inputs, step, node, failure_class,
    reason, error, attempts, restart_of, group_id, failed_at)
select 'dl_' || n, 'acme', %s, '{}', %s || n, 'key_test', 'digest', repeat('0', 64), '{}', 'ingest/0', 'ingest',
    'PERMANENT', 'InvalidRequest', 'file ' || n || ' has no pages', 1, '', 'group' || n %% %s, clock_timestamp()
from generate_series(1, %s) n
"""


def insert_letters(profile: Profile, count: int, groups: int, desk: str = "research") -> None:
    """Store dead letters of runs that do not exist."""
    execute(profile, INSERT_MANY, desk, f"run_{desk}_", groups, count)
    execute(profile, "analyze dead_letter")
