"""Batches survive processes that are killed or frozen: one result, one charge and one record for each request."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Budget, ListBudgetsRequest, Price
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from models.batches.batch_cluster import BatchCluster, Desk, batch_cluster, chat
from support.gateway.money import until_counters_open
from support.parts import until

REQUESTS = 1000
COST = 5 * 2000 + 3 * 10_000
"""Nano-dollars of an answer of the double."""
NO_WORKER = {"concurrent": 0}
BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
OK_ROWS = "select count(*), sum(cost) from metering.ledger where outcome = 'ok'"
OK_RECORDS = """
select count(*), count(distinct record::jsonb -> 'details' ->> 'line') from audit.inbox
where record::jsonb ->> 'action' = 'model.chat' and record::jsonb ->> 'outcome' = 'ok'
and record::jsonb -> 'details' ->> 'batch' = %s
"""


async def set_budget(running: BatchCluster) -> RateLimitingClient:
    """Set a price, and a budget that is counted exactly."""
    client = running.cluster.host.client(RateLimitingClient)
    with acting_for(BOSS):
        await client.set_price(Price(model="double", prompt_usd_per_million="2", completion_usd_per_million="10"))
        desk = Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount="1000")
        await client.set_budget(desk)
    await until_counters_open(running.cluster.host.profile)
    return client


async def completed(desk: Desk, number: int) -> None:
    await desk.until_row("select 1 from serving.batch where completed >= %s", f"{number} answers", number)


async def test_a_thousand_requests_survive_killed_processes(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches=NO_WORKER, double={"max_concurrent": 32}) as running:
        desk = await running.desk()
        limits = await set_budget(running)
        ids = [f"request-{number}" for number in range(REQUESTS)]
        batch = await desk.create(chat(id_, max_tokens=8) for id_ in ids)
        async with running.worker(concurrent=12) as first, running.worker(concurrent=12) as second:
            await completed(desk, 150)
            first.kill()
            await completed(desk, 350)
            second.kill()
        async with running.worker(concurrent=12):
            batch = await desk.ended(batch)
            assert batch.status == "completed" and batch.request_counts
            assert batch.request_counts.model_dump() == {"completed": REQUESTS, "failed": 0, "total": REQUESTS}
            lines = await desk.lines(batch.output_file_id)
            assert Counter(line["custom_id"] for line in lines) == Counter(ids)
            assert batch.error_file_id is None
            assert desk.query(OK_ROWS) == [(REQUESTS, REQUESTS * COST)]
            assert desk.query(OK_RECORDS, batch.id) == [(REQUESTS, REQUESTS)]
            answers = len(running.cluster.double.bodies)
            assert REQUESTS <= answers <= REQUESTS + 24  # interrupted requests ran twice

            async def counters_agree() -> bool:
                with acting_for(BOSS):
                    (budget,) = (await limits.list_budgets(ListBudgetsRequest())).budgets
                ((spent,),) = desk.query("select sum(cost) from metering.ledger")
                return budget.reserved == "0.00" and round(float(budget.spent) * 1e9) == spent

            await until(counters_agree, "the settlement of interrupted calls", 60)
            assert running.cluster.double.under_way == 0


async def test_a_frozen_process_writes_nothing_after_another_took_over(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches=NO_WORKER, double={"max_concurrent": 32}) as running:
        desk = await running.desk()
        await set_budget(running)
        double = running.cluster.double
        batch = await desk.create(chat(f"w-{n}", "wait", max_tokens=8) for n in range(6))
        async with running.worker(concurrent=6) as frozen:
            await running.cluster.until(lambda: double.under_way == 6, "the requests of the first process")
            os.kill(frozen.pid, signal.SIGSTOP)
            await desk.change("update serving.worker set lease_expires_at = now()")
            async with running.worker(concurrent=6):
                await running.cluster.until(lambda: double.under_way == 12, "the requests of the second process")
                double.go.set()
                batch = await desk.ended(batch)
                before = await desk.results(batch)
                os.kill(frozen.pid, signal.SIGCONT)
                discarded = (
                    "select 1 from audit.inbox where record::jsonb -> 'details' ->> 'error' = 'LeaseLost'"
                    " having count(*) = 6"
                )
                await desk.until_row(discarded, "the discarded answers")
        assert batch.status == "completed" and len(before) == 6
        assert await desk.results(batch) == before
        assert desk.query(OK_ROWS) == [(6, 6 * COST)]
        assert desk.query(OK_RECORDS, batch.id) == [(6, 6)]


async def test_validation_and_storage_start_again_after_a_kill(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, batches=NO_WORKER) as running:
        desk = await running.desk()
        batch = await desk.create(chat(f"r-{n}") for n in range(3000))
        async with running.worker(concurrent=1) as killed:
            await desk.until_row("select 1 from serving.batch_line", "the first stored requests")
            killed.kill()
        (state,) = desk.query("select state from serving.batch")[0]
        async with running.worker(concurrent=1) as killed:
            await desk.ended(batch, "in_progress")
            await desk.change("update serving.batch set expires_at = now()")
            await desk.ended(batch, "finalizing", "expired")
            killed.kill()
        async with running.worker(concurrent=1):
            batch = await desk.ended(batch)
        assert state in ("validating", "in_progress")
        assert batch.status == "expired" and len(await desk.results(batch)) == 3000
        named = [file.filename async for file in desk.openai.files.list(purpose="batch_output")]
        assert len(named) == len(set(named)) == len([f for f in (batch.output_file_id, batch.error_file_id) if f])
