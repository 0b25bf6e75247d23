"""Dead letters: cause, groups, lists, walls and discarding."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drw.api.workflow.v1.error_handling_pb2 import (
    DeadLetter,
    DeadLetterFilter,
    DiscardDeadLettersRequest,
    GetDeadLetterRequest,
    ListDeadLetterGroupsRequest,
    ListDeadLettersRequest,
)
from drw.api.workflow.v1.orchestration_pb2 import (
    AMBIGUOUS,
    BUDGET,
    FAILED,
    PERMANENT,
    POLICY,
    TRANSIENT,
    Failure,
    GetRunRequest,
    ListFailuresRequest,
)
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.billing.reservations.errors import InsufficientQuota
from drw.kernel.errors import DrwError, Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import json_value
from drw.kernel.runtime.settings import Profile
from drw.workflow.error_handling.groups import fingerprint
from drw.workflow.orchestration.activities import ACTIVITIES
from support.database.published import published
from support.json_types import Json, JsonObject
from workflow.dead_letters import (
    client,
    dead_letter_harness,
    execute,
    failed_runs,
    insert_letters,
    letter_of,
    letters,
)
from workflow.doubles import until
from workflow.harness import WorkflowHarness


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with dead_letter_harness(profile, folder, caller) as harness:
        yield harness


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_a_failed_run_becomes_a_dead_letter_with_its_cause(
    profile: Profile, folder: Path, caller: Principal, how: str
) -> None:
    async with dead_letter_harness(profile, folder, caller, how) as harness:
        harness.calls.failures["chat file-1"] = [InvalidRequest("no such model")]
        run = await harness.wait_until_ended(await harness.start(2, model="nothing"))
        listed = await letter_of(harness, run)
        assert (listed.state, listed.template, listed.template_version) == (
            DeadLetter.OPEN,
            "digest",
            run.template_version,
        )
        assert (listed.step, listed.failure_class, listed.reason) == ("summarise/1", PERMANENT, "InvalidRequest")
        assert (listed.error, listed.attempts, listed.started_by) == ("no such model", 1, "key_test")
        assert listed.failed_at == run.ended_at and not listed.inputs.text
        with acting_for(caller):
            letter = await client(harness).get_dead_letter(GetDeadLetterRequest(dead_letter=listed.id))
        assert json_value(letter.inputs) == json_value(run.inputs)
        (event,) = published(profile.postgres, "dead_letter.created")
        assert (event["org"], event["desk"], event["subject"]) == ("acme", "research", f"dead_letter/{letter.id}")
        assert event["data"] == {
            "dead_letter": letter.id, "run": run.id, "step": "summarise/1", "template": "digest",
            "error_class": "permanent", "fingerprint": letter.group, "error": "no such model",
        }  # fmt: skip


async def test_a_succeeded_or_cancelled_run_is_no_dead_letter(harness: WorkflowHarness) -> None:
    await harness.wait_until_ended(await harness.start(1))
    await harness.cancel(await harness.start(1))
    (letter,) = await failed_runs(harness, 1)  # later, so the others would have been stored before it
    assert await letters(harness) == [letter]


@pytest.mark.parametrize(
    ("error", "failure_class", "attempts"),
    [
        (Unavailable("gone"), TRANSIENT, 8),
        (NotFound("no file"), PERMANENT, 1),
        (Forbidden("no"), POLICY, 1),
        (InsufficientQuota("used up", code="insufficient_quota", retry_after="never"), BUDGET, 1),
    ],
)
async def test_the_class_of_a_failure_decides_about_retries(
    harness: WorkflowHarness, error: DrwError, failure_class: int, attempts: int
) -> None:
    harness.calls.failures["index file-0"] = [error] * 20
    run = await harness.wait_until_ended(await harness.start(1))
    assert harness.calls.names.count("index file-0") == attempts
    letter = await letter_of(harness, run)
    assert (letter.failure_class, letter.attempts) == (failure_class, attempts)
    assert {step.id: step.failure_class for step in run.steps}["ingest/0"] == failure_class


async def test_an_ambiguous_failure_is_not_retried(harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    once = replace(ACTIVITIES["documents.index"], repeatable=False)
    monkeypatch.setitem(ACTIVITIES, "documents.index", once)
    harness.calls.failures["index file-0"] = [Unavailable("the answer was lost")] * 20
    run = await harness.wait_until_ended(await harness.start(1))
    assert harness.calls.names.count("index file-0") == 1
    assert (await letter_of(harness, run)).failure_class == AMBIGUOUS


async def test_a_cancelled_run_ends_during_a_long_back_off(harness: WorkflowHarness) -> None:
    harness.calls.failures["index file-0"] = [RateLimited("later", retry_after="800")]
    run = await harness.start(1)

    async def is_retrying() -> bool:
        return ("ingest/0", "later") in [(s.id, s.error) for s in (await harness.get(run)).steps]

    await until(is_retrying, "the back-off")
    await harness.cancel(run)

    async def is_idle() -> bool:
        status = {s.name: s.detail for s in (await harness.host.status()).services}["orchestration"]
        return "0 active runs" in status

    await until(is_idle, "the end of the back-off")


async def test_dead_letters_are_listed_newest_first_in_pages(harness: WorkflowHarness) -> None:
    insert_letters(harness.profile, 5, 2)
    listed, token = [], ""
    with acting_for(harness.caller):
        while True:
            page = await client(harness).list_dead_letters(ListDeadLettersRequest(page_size=2, page_token=token))
            listed += [letter.id for letter in page.dead_letters]
            if not (token := page.next_page_token):
                break
        with pytest.raises(InvalidRequest, match="page_token"):
            await client(harness).list_dead_letters(ListDeadLettersRequest(page_token="x"))
    assert listed == ["dl_5", "dl_4", "dl_3", "dl_2", "dl_1"]


async def test_lists_are_filtered_by_every_field(harness: WorkflowHarness) -> None:
    insert_letters(harness.profile, 4, 2)
    execute(harness.profile, "update dead_letter set template = 'other', step = 'put', node = 'put' where id = 'dl_1'")
    execute(harness.profile, "update dead_letter set failure_class = 'BUDGET' where id = 'dl_2'")
    execute(harness.profile, "update dead_letter set state = 'DISCARDED' where id = 'dl_3'")
    for fields, expected in (
        ({"group": "group0"}, [4, 2]),
        ({"template": "other"}, [1]),
        ({"step": "ingest"}, [4, 3, 2]),
        ({"step": "ingest/0"}, [4, 3, 2]),
        ({"failure_class": BUDGET}, [2]),
        ({"state": DeadLetter.OPEN}, [4, 2, 1]),
        ({"error": "FILE 3"}, [3]),
        ({"error": "%"}, []),
        ({"failed_after": {"seconds": 2**31}}, []),
        ({"failed_before": {"seconds": 2**31}, "group": "group1"}, [3, 1]),
    ):
        assert [letter.id for letter in await letters(harness, **fields)] == [f"dl_{n}" for n in expected], fields


@pytest.mark.parametrize("condition", ["", "and group_id = 'group1'"])
async def test_a_page_of_10_000_dead_letters_reads_few_rows(harness: WorkflowHarness, condition: str) -> None:
    insert_letters(harness.profile, 10_000, 2)
    query = (
        "explain (analyze, format json) select * from dead_letter where org = 'acme' and desk = 'research' and"  # noqa: S608
        f" (not walled or inside(walls, '{{}}')) {condition} and number < 9000 order by number desc limit 51"
    )
    (scan,) = execute(harness.profile, query)[0][0][0]["Plan"]["Plans"]
    assert scan["Node Type"] == "Index Scan"
    assert scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) <= 2 * 51


async def test_groups_have_their_counts_and_newest_error(harness: WorkflowHarness) -> None:
    first, second = await failed_runs(harness, 2, "file-1")
    (other,) = await failed_runs(harness, 1, "odd")
    assert first.group == second.group == other.group  # the name of the file makes no difference
    harness.calls.failures["chat file-0"] = [InvalidRequest("no such model")]
    different = await letter_of(harness, await harness.wait_until_ended(await harness.start(1)))
    with acting_for(harness.caller):
        groups = (await client(harness).list_dead_letter_groups(ListDeadLetterGroupsRequest())).groups
    assert [(g.group, g.dead_letters, g.node) for g in groups] == [
        (first.group, 3, "ingest"),
        (different.group, 1, "summarise"),
    ]
    assert (groups[0].error, groups[0].last_failed_at) == (other.error, other.failed_at)


def test_a_fingerprint_ignores_values_and_separates_causes() -> None:
    def of(error: str = "the file 'a' has 3 pages", **fields: Json) -> str:
        failure: JsonObject = {"template": "digest", "step": "ingest/0", "error": error}
        return fingerprint(Failure(**failure | fields))

    same = (of(), of(step="ingest/7"), of("the file 'b c' has 44 pages"), of("the file 'x' has 0x3f pages"))
    assert len(set(same)) == 1
    assert len({of(step=f"each.{index}.summarise/2") for index in range(3)}) == 1
    ids = {of(f"there is no run {run}") for run in ("run_5c1e0b", "5c1e0b4e-1111-4222-8333-1234567890ab")}
    assert len(ids) == 1
    others = (of("other"), of(step="put"), of(template="x"), of(reason="NotFound"), of(failure_class=BUDGET))
    assert len({of(), *others}) == 6


async def test_dead_letters_are_seen_only_by_their_desk_inside_their_walls(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    inside = replace(caller, walls=frozenset({"m-and-a", "credit"}))
    async with dead_letter_harness(profile, folder, inside) as harness:
        (letter,) = await failed_runs(harness, 1)
        outsiders = [
            caller,
            replace(caller, walls=frozenset({"credit"})),
            replace(inside, desk="rates"),
            replace(inside, org="other"),
        ]
        everything = DeadLetterFilter(ids=[letter.id])
        for outsider in outsiders:
            assert await letters(harness, outsider) == []
            with acting_for(outsider):
                with pytest.raises(NotFound, match="there is no dead letter"):
                    await client(harness).get_dead_letter(GetDeadLetterRequest(dead_letter=letter.id))
                assert not (await client(harness).list_dead_letter_groups(ListDeadLetterGroupsRequest())).groups
                discarded = await client(harness).discard_dead_letters(
                    DiscardDeadLettersRequest(filter=everything, reason="x")
                )
                assert discarded.dead_letters == 0
        assert [found.state for found in await letters(harness)] == [DeadLetter.OPEN]


async def test_discarding_closes_open_letters_once_and_is_audited(harness: WorkflowHarness) -> None:
    insert_letters(harness.profile, 4, 2)

    async def discard(dry_run: bool) -> int:
        request = DiscardDeadLettersRequest(
            filter=DeadLetterFilter(group="group0"), reason="known bad files", dry_run=dry_run
        )
        with acting_for(harness.caller):
            return (await client(harness).discard_dead_letters(request)).dead_letters

    assert [await discard(dry_run) for dry_run in (True, False, False)] == [2, 2, 0]
    assert [letter.state for letter in await letters(harness)] == [DeadLetter.DISCARDED, DeadLetter.OPEN] * 2
    (record,) = harness.audit("dead_letter.discard")
    assert record["details"] == {"dead_letters": 2, "reason": "known bad files", "filter": {"group": "group0"}}
    with acting_for(harness.caller), pytest.raises(InvalidRequest, match="the filter is empty"):
        await client(harness).discard_dead_letters(DiscardDeadLettersRequest(filter=DeadLetterFilter(), reason="x"))


async def test_closed_letters_are_deleted_after_their_retention(
    profile: Profile, folder: Path, caller: Principal
) -> None:
    async with dead_letter_harness(profile, folder, caller) as harness:
        insert_letters(harness.profile, 3, 1)
        execute(harness.profile, "update dead_letter set failed_at = now() - interval '200 days'")
        for id_, days in (("dl_1", 91), ("dl_2", 89)):
            closed = (
                "update dead_letter set state = 'DISCARDED', closed_at = now() - %s * interval '1 day' where id = %s"
            )
            execute(harness.profile, closed, days, id_)
    async with dead_letter_harness(profile, folder, caller) as harness:

        async def is_purged() -> bool:
            return [letter.id for letter in await letters(harness)] == ["dl_3", "dl_2"]

        await until(is_purged, "the deletion")


async def test_a_failure_is_read_once_and_in_order(harness: WorkflowHarness) -> None:
    first, second = await failed_runs(harness, 2)
    orchestration = harness.host.client(OrchestrationClient)
    numbers = [f.number for f in (await orchestration.list_failures(ListFailuresRequest())).failures]
    assert numbers == sorted(numbers) and len(numbers) == 2
    later = await orchestration.list_failures(ListFailuresRequest(after=numbers[0]))
    assert [failure.run for failure in later.failures] == [second.run]
    with acting_for(harness.caller):
        run = await orchestration.get_run(GetRunRequest(run=first.run))
    assert run.state == FAILED
