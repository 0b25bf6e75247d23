"""The `event` node: declared events, once for each step, in the outbox of the event bus."""

from __future__ import annotations

import orjson
import psycopg
import pytest

from drw.api.workflow.v1.orchestration_pb2 import FAILED, SUCCEEDED
from drw.kernel.errors import Unavailable
from drw.workflow.orchestration.execution.journal.run_journal import Run, RunJournal
from support.json_types import Json, JsonObject
from workflow.harness import WorkflowHarness
from workflow.nodes.running import finished, template

EVENT = template(
    "  - {id: tell, uses: event, with: {name: risk.limit_breached, key: rates,"
    ' data: {desk: "${inputs.value}", size: 5}}}',
    "${steps.tell.output.event}",
)


def published(harness: WorkflowHarness) -> list[JsonObject]:
    """Return the events of templates in the outbox."""
    with psycopg.connect(harness.profile.postgres) as connection:
        rows = connection.execute("select event from bus.outbox order by id").fetchall()
    found = [orjson.loads(row[0]) for row in rows]
    return [event for event in found if event["type"].endswith("workflow.published.v1")]


async def test_an_event_has_the_declared_name_the_data_and_the_tenant(harness: WorkflowHarness) -> None:
    run = await finished(harness, EVENT, value="rates")
    assert run.state == SUCCEEDED, run.error
    (event,) = published(harness)
    assert event["data"] == {
        "name": "risk.limit_breached",
        "run": run.id,
        "step": "tell",
        "template": "t",
        "template_version": run.template_version,
        "data": {"desk": "rates", "size": 5},
    }
    assert (event["org"], event["desk"], event["subject"]) == ("acme", "research", f"run/{run.id}")
    assert event["partitionkey"] == "acme/research/event/rates"
    assert event["id"] == orjson.loads(run.output.text)


async def test_the_same_idempotency_key_gives_the_same_event_id_for_one_tenant(harness: WorkflowHarness) -> None:
    source = EVENT.replace("{id: tell,", "{id: tell, idempotency_key: '${inputs.value}',")
    for value in ("a", "a", "b"):
        assert (await finished(harness, source, value=value)).state == SUCCEEDED
    first, again, other = (event["id"] for event in published(harness))
    assert first == again != other


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('desk: "${inputs.value}"', "dsk: x", "breaks the rule 'required'"),
        ('desk: "${inputs.value}"', "desk: 5", "desk breaks the rule 'properties/desk/type'"),
        ("name: risk.limit_breached", 'name: "${inputs.value}"', "the event 'v' is not declared"),
    ],
)
async def test_other_events_are_refused(harness: WorkflowHarness, old: str, new: str, message: str) -> None:
    run = await finished(harness, EVENT.replace(old, new))
    assert run.state == FAILED and message in run.error
    assert published(harness) == []


async def test_a_lost_answer_of_the_commit_publishes_once(
    harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_step = RunJournal.end_step
    lost: list[str] = []

    async def end(self: RunJournal, run: Run, step: str, attempt: int, **fields: Json) -> None:
        await end_step(self, run, step, attempt, **fields)
        if not lost:
            lost.append(step)
            raise Unavailable("the connection was lost after the commit")

    monkeypatch.setattr(RunJournal, "end_step", end)
    run = await finished(harness, EVENT)
    assert (run.state, lost) == (SUCCEEDED, ["tell"])
    assert len(published(harness)) == 1
    assert [record["resource"] for record in harness.audit("step.end")] == [f"{run.id}/tell"]
