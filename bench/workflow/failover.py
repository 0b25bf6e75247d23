"""The time from the kill of an executor to the end of the last of its runs, with 1, 16 and 500 runs in flight.

Two executors share PostgreSQL. All runs stand in the second of three steps when the first executor is killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from drw.api.workflow.v1.orchestration_pb2 import StartRunRequest
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.templates_pb2 import PutTemplateRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.json_messages import json_message
from drw.kernel.runtime.settings import Profile
from support.parts import new_database, running_postgres, running_valkey, short_folder
from workflow.doubles import until
from workflow.failover.executors import executors

RUNS = (1, 16, 500)
TARGET_SECONDS = 10.0
CALLER = Principal("acme", "research", "key_bench", frozenset(SCOPES), frozenset())
HELD = "held"
TEMPLATE = f"""
name: three
description: Three steps, the second of which is held.
nodes:
  - {{id: first, uses: ingest, with: {{file: first, collection: c}}}}
  - {{id: second, needs: [first], uses: ingest, with: {{file: {HELD}, collection: c}}}}
  - {{id: third, needs: [second], uses: ingest, with: {{file: third, collection: c}}}}
output: done
"""


async def seconds_after_kill(profile: Profile, folder: Path, count: int) -> tuple[float, float, int]:
    """Return the seconds from the kill to the end of the first and of the last run, and the repeated calls."""
    async with executors(profile, folder) as started:
        calls = started.doubles.calls
        calls.block(f"index {HELD}")
        first = await started.start("one")
        with acting_for(CALLER):
            templates = started.channels.client(TemplatesClient, first.address)
            await templates.put_template(PutTemplateRequest(name="three", source=TEMPLATE))
            client = started.channels.client(OrchestrationClient, first.address)
            for number in range(count):
                request = StartRunRequest(template="three", request_id=str(number), inputs=json_message({}))
                await client.start_run(request)
        await until(lambda: calls.names.count(f"index {HELD}") == count, "the second step of all runs", 300)
        await started.start("two")
        first.kill()
        killed_at = time.time()
        calls.gates.clear()
        query = (
            "select min(ended_at), max(ended_at), count(*) filter (where state = 'SUCCEEDED') from orchestration.run"
        )
        async with await psycopg.AsyncConnection.connect(profile.postgres, autocommit=True) as connection:

            async def have_ended() -> bool:
                row = await (await connection.execute(query)).fetchone()
                return row is not None and row[2] == count

            await until(have_ended, "the end of all runs", 300)
            row = await (await connection.execute(query)).fetchone()
            assert row is not None
        repeated = len(calls.names) - 3 * count
        return row[0].timestamp() - killed_at, row[1].timestamp() - killed_at, repeated


async def measure(counts: Sequence[int]) -> bool:
    """Print a table; return whether all runs ended in time."""
    print("| runs in flight | first run ended | last run ended | target | steps repeated |")
    print("| --: | --: | --: | --: | --: |")
    last = 0.0
    with short_folder() as folder, TemporaryDirectory() as data, running_postgres(folder) as postgres:
        for number, count in enumerate(counts):
            with running_valkey(folder / f"v{number}") as valkey:
                profile = Profile(name="bench", data=Path(data), postgres=new_database(postgres), valkey=valkey)
                first, seconds, repeated = await seconds_after_kill(profile, folder, count)
            last = max(last, seconds)
            print(f"| {count} | {first:.1f} s | {seconds:.1f} s | {TARGET_SECONDS:.0f} s | {repeated} |", flush=True)
    return last <= TARGET_SECONDS


def main() -> bool:
    """Measure all numbers of runs."""
    logging.disable(logging.ERROR)
    return asyncio.run(measure(RUNS))
