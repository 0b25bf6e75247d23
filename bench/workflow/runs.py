"""Lists and searches of 100,000 finished runs, and their deletion at the end of their retention.

`python -m bench.workflow.runs`; `--lists`: without the deletion. The services of workflows run in this process.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp

from drw.api.workflow.v1.orchestration_pb2 import FAILED, SUCCEEDED, ListRunsRequest, ListRunsResponse
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.json_types import Json
from support.parts import new_database, running_postgres, running_valkey, short_folder
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness
from workflow.retention.runs import ROWS, insert_runs, leads, row_counts

RUNS = 100_000
ROUNDS = 30
KEPT_DAYS = 30
CALLER = Principal("acme", "research", "key_test", frozenset(SCOPES), frozenset())


async def _page(harness: WorkflowHarness, **filters: Json) -> ListRunsResponse:
    with acting_for(harness.caller):
        return await harness.host.client(OrchestrationClient).list_runs(ListRunsRequest(**filters))


async def _percentiles_ms(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    durations = []
    for _ in range(ROUNDS):
        started_at = time.perf_counter()
        await call()
        durations.append((time.perf_counter() - started_at) * 1000)
    return statistics.median(durations), sorted(durations)[int(ROUNDS * 0.95)]


async def _lists(harness: WorkflowHarness) -> None:
    with psycopg.connect(harness.profile.postgres) as connection:
        deep = connection.execute(
            "select id from orchestration.run where desk = 'research' order by created_at desc offset 80000 limit 1"
        ).fetchone()
    assert deep
    month_ago = Timestamp(seconds=int(time.time()) - 30 * 24 * 3600)
    filters: dict[str, dict[str, Json]] = {
        "newest 50": {},
        "newest 500": {"page_size": 500},
        "page after 80,000 runs": {"page_token": deep[0]},
        "template": {"template": "template_7"},
        "state": {"state": FAILED},
        "template and state": {"template": "template_7", "state": FAILED},
        "template without runs": {"template": "unused"},
        "before a time": {"created_before": month_ago},
        "another desk": {"desk": "rates"},
        "another desk, state": {"desk": "rates", "state": SUCCEEDED, "template": "template_10"},
        "input, one match": {"input": "file-777"},
        "input, no match": {"input": "nothing"},
        "error, 2,000 matches": {"error": "no pages"},
        "error, one match": {"error": "summarise/7750'"},
    }
    for name, fields in filters.items():
        median, p95 = await _percentiles_ms(lambda fields=fields: _page(harness, **fields))  # type: ignore[misc]
        print(f"{name:<26}{median:8.1f} ms median {p95:8.1f} ms p95 of {RUNS:,} runs")


def _megabytes(harness: WorkflowHarness) -> float:
    with psycopg.connect(harness.profile.postgres) as connection:
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    assert row
    return row[0] / 1e6


async def _retention(profile: Profile, folder: Path) -> None:
    services = FAST_SETTINGS | {
        "orchestration": FAST_SETTINGS["orchestration"]
        | {"retention_days": KEPT_DAYS, "retention_interval_seconds": 0.5}
    }
    kept = KEPT_DAYS * 24 * 12  # a run every five minutes
    started_at = time.perf_counter()
    async with workflow_harness(profile, folder, CALLER, services=services) as harness:
        await until(lambda: row_counts(profile)[0] <= kept + 5, "the deletion", 1800)
        await until(lambda: row_counts(profile)[3] <= (kept + 5) * 8, "the deletion of events", 1800)
        seconds = time.perf_counter() - started_at
        print(f"deletion                  {(RUNS - kept) / seconds:8.0f} runs/s")
        for table, count in zip(ROWS, row_counts(profile), strict=True):
            print(f"{table:<40}{count:>10,} rows")
        for number in range(3):  # a further tenth each time, so that a store that grows would show
            insert_more(profile, number)
            await until(lambda: row_counts(profile)[0] <= kept + 5, "the deletion", 1800)
            print(f"after {(number + 1) * 10_000:>6,} more         {_megabytes(harness):8.0f} MB")


def insert_more(profile: Profile, number: int) -> None:
    """Insert 10,000 runs that have expired."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        connection.execute(
            "insert into orchestration.run (id, org, desk, key, scopes, request_id, fingerprint, template,"
            " template_name, template_version, inputs, trace, state, created_at, ended_at)"
            " select 'more_' || %s || '_' || i, org, desk, key, scopes, 'more_' || %s || '_' || i, '', template,"
            " template_name, template_version, inputs, '', 'SUCCEEDED', now() - interval '99 days',"
            " now() - interval '99 days' from generate_series(1, 10000) i, (select * from orchestration.run limit 1) r",
            (number, number),
        )


async def main() -> None:
    """Measure, and print the results."""
    logging.disable(logging.ERROR)
    with (
        short_folder() as folder,
        TemporaryDirectory() as data,
        running_postgres(folder) as postgres,
        running_valkey(folder / "v") as valkey,
    ):
        profile = Profile(name="bench", data=Path(data), postgres=new_database(postgres), valkey=valkey)
        async with workflow_harness(profile, folder, replace(CALLER)) as harness:
            await until(partial(leads, harness), "leadership")
            started_at = time.perf_counter()
            insert_runs(profile, RUNS)
            print(f"inserted {RUNS:,} runs in {time.perf_counter() - started_at:.0f} s; {_megabytes(harness):.0f} MB")
            await _lists(harness)
        if "--lists" not in sys.argv:
            await _retention(profile, folder)


if __name__ == "__main__":
    asyncio.run(main())
