"""Many finished runs, inserted at once, with steps, journal rows and events as the services write them."""

from __future__ import annotations

import psycopg
from psycopg.sql import SQL, Identifier

from drw.kernel.runtime.settings import Profile
from workflow.harness import WorkflowHarness

RUNS = """
insert into orchestration.run (id, org, desk, key, scopes, walls, request_id, fingerprint, template, template_name,
    template_version, inputs, trace, state, output, error, fence, events, created_at, ended_at, retention_days)
select 'run_' || md5(i::text), %(org)s, case when i %% 11 = 0 then 'rates' else %(desk)s end, 'key_' || i %% 7,
    array['documents:read', 'documents:write', 'models:invoke', 'workflows:run'], '{}', 'request-' || i, md5(i::text),
    decode(repeat(md5(i::text), 60), 'hex'), 'template_' || i %% 20, md5((i %% 20)::text),
    json_build_object('files', json_build_array('file-' || md5((i * 2)::text), 'file-' || i), 'title', 'Brief ' || i),
    '', case when i %% 50 = 0 then 'FAILED' when i %% 333 = 0 then 'CANCELLED' else 'SUCCEEDED' end,
    json_build_object('file', 'file-' || i, 'text', repeat('Rates rose. ', 20)),
    case when i %% 50 = 0 then 'the step ''summarise/' || i || ''' failed: no pages' else '' end, 1, 8,
    now() - i * interval '5 minutes' - interval '1 minute', now() - i * interval '5 minutes', -1
from generate_series(1, %(count)s) i
"""
STEPS = """
insert into orchestration.step (run, id, position, state, attempts, output, started_at, ended_at)
select run.id, step, row_number() over (), 'SUCCEEDED', 1, json_build_object('pages', 12), created_at, ended_at
from orchestration.run, unnest(array['ingest/0', 'summarise/0', 'digest']) step
"""
JOURNAL = """
insert into orchestration_engine.workflow_status (workflow_uuid, status, name, executor_id, application_version, inputs)
select id, 'SUCCESS', 'run', 'workflow-0', 'interpreter-1', '{}' from orchestration.run
"""
EVENTS = """
insert into state.event (org, desk, run, number, event)
select org, desk, id, n, decode(repeat(md5(id), 4), 'hex') from orchestration.run, generate_series(1, 8) n
"""
ROWS = ("orchestration.run", "orchestration.step", "orchestration_engine.workflow_status", "state.event")
"""The tables that have rows of runs."""


def insert_runs(profile: Profile, count: int, org: str = "acme", desk: str = "research") -> None:
    """Insert finished runs; the newest ended five minutes ago, each other one five minutes before the next."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        connection.execute(RUNS, {"org": org, "desk": desk, "count": count})
        for statement in (STEPS, JOURNAL, EVENTS):
            connection.execute(statement.encode())
        connection.execute("vacuum analyze orchestration.run, orchestration.step, state.event")


async def leads(harness: WorkflowHarness) -> bool:
    """Return whether the process leads, and so has the tables of the engine."""
    status = {service.name: service.detail for service in (await harness.host.status()).services}
    return status["orchestration"].startswith("leader")


def row_counts(profile: Profile) -> list[int]:
    """Return the number of rows of each of `ROWS`."""
    with psycopg.connect(profile.postgres) as connection:
        tables = [SQL(".").join(map(Identifier, table.split("."))) for table in ROWS]
        counts = [connection.execute(SQL("select count(*) from {}").format(table)).fetchone() for table in tables]
    return [count[0] for count in counts if count]
