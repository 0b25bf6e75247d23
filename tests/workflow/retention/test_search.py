"""Lists and searches of many runs use indexes, also deep in the list; another desk of the org needs its own right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, ListRunsRequest, Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.workflow.orchestration import run_search
from support.json_types import Json, JsonObject
from workflow.doubles import until
from workflow.harness import WorkflowHarness, workflow_harness
from workflow.retention.runs import insert_runs, leads

COUNT = 20_000


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(profile, folder, caller) as harness:
        await until(lambda: leads(harness), "leadership")
        insert_runs(profile, COUNT)
        yield harness


async def page(harness: WorkflowHarness, caller: Principal | None = None, **filters: Json) -> tuple[list[Run], str]:
    with acting_for(caller or harness.caller):
        listed = await harness.host.client(OrchestrationClient).list_runs(ListRunsRequest(**filters))
    return list(listed.runs), listed.next_page_token


def plan_of(harness: WorkflowHarness, **filters: Json) -> str:
    """Return the plan of the query that a request makes."""
    query, parameters = run_search.query(harness.caller, ListRunsRequest(**filters), 51)
    with psycopg.connect(harness.profile.postgres, options="-c search_path=orchestration,public") as connection:
        text = "explain " + query.as_string(connection)
        return "\n".join(row[0] for row in connection.execute(text.encode(), parameters))


async def test_each_filter_uses_an_index(harness: WorkflowHarness) -> None:
    _, token = await page(harness, page_size=500)
    expected: list[tuple[JsonObject, str]] = [
        ({}, "run_newest"),
        ({"page_token": token}, "run_newest"),
        ({"template": "template_7"}, "run_of_template"),
        ({"state": FAILED}, "run_in_state"),
        ({"template": "template_7", "state": FAILED}, "run_of_template_in_state"),
        ({"input": "file-777"}, "run_inputs"),
        ({"error": "summarise/7700'"}, "run_error"),
        ({"error": "nothing like this"}, "run_error"),
    ]
    for filters, index in expected:
        plan = plan_of(harness, **filters)
        assert index in plan and "Seq Scan on run" not in plan, plan
    deep = plan_of(harness, page_token=token)  # the page starts in the index, and not at the first run
    (condition,) = [line for line in deep.splitlines() if "Index Cond" in line and "ROW(created_at, id)" in line]
    assert "desk = 'research'" in condition


async def test_pages_list_every_run_once_in_order(harness: WorkflowHarness) -> None:
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        runs, token = await page(harness, page_size=500, page_token=token, template="template_7")
        seen += [run.id for run in runs]
        pages += 1
    with psycopg.connect(harness.profile.postgres) as connection:
        rows = connection.execute(
            "select id from orchestration.run where desk = 'research' and template_name = 'template_7'"
            " order by created_at desc"
        ).fetchall()
    assert seen == [row[0] for row in rows] and pages > 1


async def test_searches_find_parts_literally_in_any_case(harness: WorkflowHarness) -> None:
    (run,), _ = await page(harness, input='FILE-777"')
    with psycopg.connect(harness.profile.postgres) as connection:
        connection.execute("update orchestration.run set error = %s where id = %s", ("100% of a_b \\c failed", run.id))
    for text, found in (("100% of", 1), ("a_b \\C", 1), ("100_ of", 0), ("a%b", 0), ("a\\_b", 0)):
        assert len((await page(harness, error=text))[0]) == found, text
    with pytest.raises(InvalidRequest, match="3 to 200 printable characters"):
        await page(harness, error="ab")


async def test_another_desk_of_the_org_is_listed_with_org_admin_only(harness: WorkflowHarness) -> None:
    admin = replace(harness.caller, scopes=harness.caller.scopes | {"org:admin"})
    runs, token = await page(harness, admin, desk="rates", page_size=10)
    assert {run.desk for run in runs} == {"rates"} and len(runs) == 10
    following, _ = await page(harness, admin, desk="rates", page_size=10, page_token=token)
    assert not {run.id for run in runs} & {run.id for run in following}
    assert {run.desk for run in (await page(harness, desk="research"))[0]} == {"research"}
    with pytest.raises(Forbidden, match="lacks the scope 'org:admin'"):
        await page(harness, desk="rates")
    assert (await page(harness, replace(admin, org="other"), desk="rates"))[0] == []
    with psycopg.connect(harness.profile.postgres) as connection:
        connection.execute("update orchestration.run set walls = '{m-and-a}' where desk = 'rates'")
    assert (await page(harness, admin, desk="rates"))[0] == []
