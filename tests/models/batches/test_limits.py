"""Bounds, retries and fairness of batches; attacks with files that are long, large, deleted or wide."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, Limit, Price
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from models.batches.batch_cluster import BatchCluster, batch_cluster, chat, jsonl
from support.gateway.kills import kill
from support.gateway.money import until_counters_open

BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))


@pytest.fixture
async def running(start: Callable[..., Any]) -> AsyncIterator[BatchCluster]:
    async with batch_cluster(start) as cluster:
        yield cluster


async def test_an_org_has_a_bounded_number_of_active_batches(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches={"max_active_per_org": 2}) as running:
        desk, side = await running.desk(), await running.desk(name="side")
        batches = [await desk.create([chat("w", "wait")]), await side.create([chat("w", "wait")])]
        with pytest.raises(openai.RateLimitError, match="2 active batches"):
            await desk.create([chat("more")])
        other = await running.desk(org="other")
        await other.ended(await other.create([chat("a")]))  # another org is not affected
        running.cluster.double.go.set()
        await desk.ended(batches[0])
        await side.ended(batches[1])
        assert (await desk.ended(await desk.create([chat("again")]))).status == "completed"


async def test_files_beyond_the_bounds_fail_with_the_line(start: Callable[..., Any]) -> None:
    bounds = {"max_requests": 3, "max_line_bytes": 1024, "max_input_bytes": 4096}
    async with batch_cluster(start, batches=bounds) as running:
        desk = await running.desk()
        for lines, expected in (
            ([chat(str(n)) for n in range(4)], (4, "too_many_requests")),
            ([chat("a"), chat("b", "x" * 2000)], (2, "line_too_long")),
        ):
            batch = await desk.ended(await desk.create(lines))
            assert batch.status == "failed" and batch.errors and batch.errors.data
            assert [(error.line, error.code) for error in batch.errors.data] == [expected]
        with pytest.raises(openai.BadRequestError, match="at most 4,096") as caught:
            await desk.create([chat("a", "x" * 5000)])
        assert caught.value.param == "input_file_id"


async def test_a_request_with_a_long_body_runs(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.ended(await desk.create([chat("long", "x" * (10 << 20)), chat("short")]))
    results = await desk.results(batch)
    assert batch.status == "completed" and len(results) == 2
    assert results["short"]["response"]["status_code"] == 200
    assert results["long"]["response"]["status_code"] == 413  # the double takes at most 1 MB
    records = json.dumps(running.cluster.records())
    assert "xxxxxxxxxx" not in records and "Rates rose" not in records


def peak_bytes(process: int) -> int:
    """Return the maximum resident memory of a process so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


async def test_a_large_file_is_validated_in_bounded_memory(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches={"concurrent": 0}) as running:
        desk = await running.desk()
        content = jsonl(chat(f"r-{n}", "x" * 4000) for n in range(6_000))
        file = await desk.openai.files.create(file=("in.jsonl", content), purpose="batch")
        async with running.worker(concurrent=1) as worker:
            before = peak_bytes(worker.pid)
            batch = await desk.openai.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            batch = await desk.ended(batch, "in_progress")
            assert peak_bytes(worker.pid) - before < len(content)
        assert batch.request_counts and batch.request_counts.total == 6_000


async def test_a_file_that_is_deleted_while_the_batch_runs_does_not_matter(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.create([chat(f"w-{n}", "wait") for n in range(10)])
    await running.cluster.until(lambda: running.cluster.double.under_way > 0, "requests that run")
    await desk.openai.files.delete(batch.input_file_id)
    running.cluster.double.go.set()
    batch = await desk.ended(batch)
    assert batch.status == "completed" and len(await desk.results(batch)) == 10


async def test_a_file_that_is_deleted_before_validation_fails_the_batch(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches={"concurrent": 0}) as running:
        desk = await running.desk()
        batch = await desk.create([chat("a")])
        await desk.openai.files.delete(batch.input_file_id)
        async with running.worker(concurrent=1):
            batch = await desk.ended(batch)
        assert batch.status == "failed" and batch.errors and batch.errors.data
        assert batch.errors.data[0].code == "file_not_found"


async def test_results_beyond_the_maximum_size_are_not_requested(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches={"max_output_bytes": 1024, "concurrent": 1}) as running:
        desk = await running.desk()
        batch = await desk.ended(await desk.create([chat(f"r-{n}") for n in range(12)]))
        results = await desk.results(batch)
        refused = [line for line in results.values() if line["error"]]
        assert len(results) == 12 and {line["error"]["code"] for line in refused} == {"output_limit_exceeded"}
        assert len(running.cluster.double.bodies) == 12 - len(refused) < 6


async def test_limits_pause_a_batch_until_they_allow_more(running: BatchCluster) -> None:
    desk = await running.desk()
    limits = running.cluster.host.client(RateLimitingClient)
    await until_counters_open(running.cluster.host.profile)
    with acting_for(BOSS):
        await limits.set_price(Price(model="double", completion_usd_per_million="10"))
        await limits.set_budget(Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount="0.0005"))
    batch = await desk.create([chat(f"r-{n}", max_tokens=20) for n in range(20)])
    await desk.until_row("select 1 from serving.batch where not_before > now() and completed > 0", "the pause")
    assert (await desk.openai.batches.retrieve(batch.id)).status == "in_progress"
    with acting_for(BOSS):
        await limits.set_budget(Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount="10"))

    async def resumed() -> None:
        await desk.change("update serving.batch set not_before = now()")
        await desk.change("update serving.batch_line set not_before = now() where state = 'pending'")

    await desk.until_row("select 1 from serving.batch where completed > 0", "the answers")
    for _ in range(5):
        await resumed()
        batch = await desk.openai.batches.retrieve(batch.id)
    while batch.status not in ("completed", "failed", "expired"):
        await resumed()
        batch = await desk.openai.batches.retrieve(batch.id)
    results = await desk.results(batch)
    assert {line["response"]["status_code"] for line in results.values()} == {200} and len(results) == 20
    assert desk.query("select count(*) from metering.ledger where outcome = 'ok'") == [(20,)]


async def test_a_request_that_no_budget_allows_fails(running: BatchCluster) -> None:
    desk = await running.desk()
    limits = running.cluster.host.client(RateLimitingClient)
    await until_counters_open(running.cluster.host.profile)
    with acting_for(BOSS):
        await limits.set_limit(Limit(subject=Block.DESK, desk="research", tokens_per_minute=50))

    async def refused() -> bool:
        batch = await desk.ended(await desk.create([chat("large", max_tokens=5000)]))
        result = (await desk.results(batch))["large"]
        return bool(result["response"]["status_code"] == 429)

    while not await refused():
        pass


async def test_a_kill_pauses_a_batch_until_it_is_lifted(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.create([chat("first"), *(chat(f"w-{n}", "wait") for n in range(8))])
    await running.cluster.until(lambda: running.cluster.double.under_way > 0, "requests that run")
    await running.cluster.kills.kill(kill("DESK", "research", "acme"))
    await running.cluster.until(lambda: running.cluster.double.under_way == 0, "the end of the killed requests")
    await desk.until_row("select 1 from serving.batch where not_before > now()", "the pause")
    running.cluster.double.go.set()
    await running.cluster.kills.kill()
    await desk.change("update serving.batch set not_before = now()")
    await desk.change("update serving.batch_line set not_before = now() where state = 'pending'")
    batch = await desk.ended(batch)
    results = await desk.results(batch)
    assert batch.status == "completed" and len(results) == 9
    assert {line["response"]["status_code"] for line in results.values()} == {200}


async def test_orgs_take_turns(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches={"concurrent": 1}) as running:
        large, small = await running.desk(org="large"), await running.desk(org="small")
        first = await large.create([chat("w", "wait"), *(chat(f"l-{n}") for n in range(40))])
        await running.cluster.until(lambda: running.cluster.double.under_way > 0, "the first request")
        second = await small.create([chat(f"s-{n}") for n in range(3)])
        await small.ended(second, "in_progress")
        running.cluster.double.go.set()
        await small.ended(second)
        await large.ended(first)
        calls = "from audit.inbox where record::jsonb ->> 'action' = 'model.chat' order by id"
        users = small.query(f"select record::jsonb ->> 'org' {calls}")
        last_small = max(index for index, (org,) in enumerate(users) if org == "small")
        assert last_small < 12, "the requests of the small org waited for those of the large one"


async def test_answers_that_end_early_are_retried_a_few_times(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.create([chat("cut", "cut"), chat("fine")])

    async def skip_waits() -> None:
        await desk.change("update serving.batch set not_before = now()")
        await desk.change("update serving.batch_line set not_before = now() where state = 'pending'")

    while batch.status not in ("completed", "failed", "expired"):
        await skip_waits()
        batch = await desk.openai.batches.retrieve(batch.id)
    results = await desk.results(batch)
    assert results["cut"]["response"]["status_code"] == 503
    assert results["fine"]["response"]["status_code"] == 200
