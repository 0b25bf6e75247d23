"""The shipped templates run to their end, and their files are valid for editors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from drw.api.workflow.v1.orchestration_pb2 import SUCCEEDED, Run, Vote
from drw.generate.reference.template_schema import PATH, template_schema
from drw.kernel.errors import NotFound
from drw.kernel.rpc.context import Principal
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.workflow.templates import parser
from workflow.doubles import until
from workflow.harness import WITH_PERSONS, WorkflowHarness, workflow_harness

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "src/drw/workflow/templates/shipped").glob("*.yaml"))


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    starter = replace(caller, key="oidc:corp:starter")  # a person without a key, so that nobody created it
    async with workflow_harness(profile, folder, starter, names=WITH_PERSONS) as harness:
        yield harness


async def output(harness: WorkflowHarness, run: Run) -> Any:
    ended = await harness.wait_until_ended(run)
    assert ended.state == SUCCEEDED, ended.error
    return json_value(ended.output)


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_each_file_names_the_published_schema_and_matches_it(file: Path) -> None:
    first_line = file.read_text().splitlines()[0]
    schema = (file.parent / first_line.partition("$schema=")[2]).resolve()
    assert schema == ROOT / PATH
    source = yaml.safe_load(file.read_text())
    jsonschema_rs.validator_for(json.loads(schema.read_text())).validate(source)
    assert parser.parse(file.read_bytes(), file.name).name == file.stem


@pytest.mark.parametrize(
    ("old", "new"), [("retrieve", "retreive"), ("question:", "querry:"), ("limit: 3", "limit: true")]
)
def test_the_schema_rejects_what_the_parser_rejects(old: str, new: str) -> None:
    source = (SHIPPED[0].parent / "risk_memo.yaml").read_text()
    validator = jsonschema_rs.validator_for(template_schema())
    assert validator.is_valid(yaml.safe_load(source))
    changed = source.replace(f"uses: {old}", f"uses: {new}").replace(f", {old}", f", {new}")
    assert changed != source
    assert not validator.is_valid(yaml.safe_load(changed))
    assert parser.validate(changed.encode(), "changed.yaml")


async def test_two_filings_are_compared_topic_by_topic(harness: WorkflowHarness) -> None:
    report = await output(harness, await harness.start(2, template="compare_filings", topics=["cash of 2023", "risk"]))
    assert report["text"].startswith("# Comparison of two filings\n\n## cash of 2023\n\n")
    assert "## risk" in report["text"]
    assert "> Found: cash of 2023\n> — 0.txt, page 1" in report["text"]
    assert harness.doubles.documents.put[report["file"]][1].decode() == report["text"]


async def test_the_inbox_is_sorted_by_subject(harness: WorkflowHarness) -> None:
    items = await output(harness, await harness.start(2, template="research_inbox"))
    assert [(item["file"], item["subject"]) for item in items] == [("file-0", "other"), ("file-1", "other")]
    assert sorted(harness.calls.names)[2:4] == ["index file-0", "index file-1"]


async def test_a_risk_memo_is_published_after_the_approval_of_another_key(harness: WorkflowHarness) -> None:
    run = await harness.start(0, template="risk_memo", question="who signs a waiver", collection="policies")

    async def approved() -> bool:
        try:
            await harness.decide(run, "sign", "oidc:corp:risk", Vote.APPROVE)
        except NotFound:
            return False
        return True

    await until(approved, "the approval")
    memo = await output(harness, run)
    assert memo["approved_by"] == ["oidc:corp:risk"]
    assert "# Risk memo: who signs a waiver" in memo["text"] and "> Found: who signs a waiver" in memo["text"]


async def test_a_news_brief_has_a_section_for_each_topic(harness: WorkflowHarness) -> None:
    brief = await output(harness, await harness.start(1, template="news_brief", topics=["banks and rates", "oil"]))
    assert "## banks and rates" in brief["text"] and "## oil" in brief["text"]
