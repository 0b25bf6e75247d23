"""Templates that desks write: versions, tenants, walls, limits, audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.templates_pb2 import (
    DeleteTemplateRequest,
    GetTemplateRequest,
    ListTemplatesRequest,
    ListTemplateVersionsRequest,
    PutTemplateRequest,
    Template,
    ValidateTemplateRequest,
)
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.workflow.templates import desk_templates
from workflow.harness import WorkflowHarness, workflow_harness

SOURCE = "name: own\ndescription: first\nnodes: [{id: a, uses: wait, with: {seconds: 1}}]\noutput: 1\n"


@pytest.fixture(params=["together", "strict"])
async def harness(
    profile: Profile, folder: Path, caller: Principal, request: pytest.FixtureRequest
) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(profile, folder, caller, request.param) as harness:
        yield harness


async def get(harness: WorkflowHarness, caller: Principal, version: str = "", name: str = "own") -> Template:
    with acting_for(caller):
        request = GetTemplateRequest(name=name, version=version)
        return await harness.host.client(TemplatesClient).get_template(request)


async def names(harness: WorkflowHarness, caller: Principal) -> list[str]:
    with acting_for(caller):
        listed = await harness.host.client(TemplatesClient).list_templates(ListTemplatesRequest())
    return [template.name for template in listed.templates if template.name == "own"]


async def put(harness: WorkflowHarness, caller: Principal, source: str, name: str = "own", if_version: str = "") -> str:
    request = PutTemplateRequest(name=name, source=source, if_version=if_version)
    with acting_for(caller):
        return (await harness.host.client(TemplatesClient).put_template(request)).version


async def test_changes_are_listed_with_their_author_and_audited(harness: WorkflowHarness) -> None:
    client, caller = harness.host.client(TemplatesClient), harness.caller
    first = await put(harness, caller, SOURCE)
    assert await put(harness, caller, SOURCE) == first  # changes nothing
    second = await put(harness, replace(caller, key="key_b"), SOURCE.replace("first", "second"), if_version=first)
    with pytest.raises(Conflict, match=f"the current version of 'own' is {second}"):
        await put(harness, caller, SOURCE, if_version=first)
    with acting_for(caller):
        changes = (await client.list_template_versions(ListTemplateVersionsRequest(name="own"))).changes
        assert [(c.version, c.changed_by) for c in changes] == [(second, "key_b"), (first, caller.key)]
        await client.delete_template(DeleteTemplateRequest(name="own"))
        await client.delete_template(DeleteTemplateRequest(name="own"))
    with pytest.raises(NotFound):
        await get(harness, caller)
    assert (await get(harness, caller, first)).description == "first"
    records = [(r["action"], r["actor"], r["details"]["version"]) for r in harness.audit("template.put")]
    assert sorted(records) == sorted([("template.put", caller.key, first), ("template.put", "key_b", second)])
    assert [r["resource"] for r in harness.audit("template.delete")] == ["own"]


async def test_other_tenants_and_keys_outside_the_walls_do_not_see_a_template(harness: WorkflowHarness) -> None:
    inside = replace(harness.caller, walls=frozenset({"credit"}))
    walled = await put(harness, inside, SOURCE.replace("first", "walled"))
    strangers = [harness.caller, replace(inside, desk="other"), replace(inside, org="other")]
    for stranger in strangers:
        assert await names(harness, stranger) == []
        for version in ("", walled):
            with pytest.raises(NotFound):
                await get(harness, stranger, version)
    await put(harness, harness.caller, SOURCE)
    assert (await get(harness, harness.caller)).description == "first"
    assert (await get(harness, inside)).description == "walled"
    assert await names(harness, inside) == ["own"]


async def test_a_template_of_the_desk_takes_precedence_over_one_of_the_platform(harness: WorkflowHarness) -> None:
    await put(harness, harness.caller, SOURCE.replace("own", "digest"), "digest")
    assert (await get(harness, harness.caller, name="digest")).description == "first"
    assert (await get(harness, replace(harness.caller, desk="other"), name="digest")).description != "first"


async def test_invalid_templates_are_rejected(harness: WorkflowHarness) -> None:
    with pytest.raises(InvalidRequest, match="the name in the source is 'own'; it must be 'other'"):
        await put(harness, harness.caller, SOURCE, "other")
    source = SOURCE.replace("uses: wait", "uses: wat")
    with pytest.raises(InvalidRequest, match="own:3:23: 'wat' is not an activity"):
        await put(harness, harness.caller, source)
    with acting_for(harness.caller):
        client = harness.host.client(TemplatesClient)
        (problem,) = (await client.validate_template(ValidateTemplateRequest(source=source))).problems
        assert (problem.line, problem.column) == (3, 23)
        assert not (await client.validate_template(ValidateTemplateRequest(source=SOURCE))).problems


async def test_templates_of_a_desk_are_limited(harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_templates, "MAX_TEMPLATES", 2)
    sources = [SOURCE.replace("own", f"own{i}") for i in range(6)]
    puts = [put(harness, harness.caller, source, f"own{i}") for i, source in enumerate(sources)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 4
