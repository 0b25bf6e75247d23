"""Batches of responses and moderations: results, errors of a line, charges, audit records, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from models.batches.batch_cluster import Desk, batch_cluster, chat
from models.responses.test_stored_responses import bytes_counted
from models.test_money import BillingHarness
from support.json_types import Json, JsonObject
from support.telemetry.metrics import scrape

POLICY: JsonObject = {"categories": {"violence": {"words": ["attack"]}}}
RECORDS = """
select record::jsonb ->> 'outcome', (record::jsonb -> 'details' ->> 'line')::int from audit.inbox
where record::jsonb ->> 'action' = %s and record::jsonb -> 'details' ->> 'batch' = %s order by 2
"""


def response(custom_id: str, text: str = "plain", **body: Json) -> JsonObject:
    """Return a line that creates a response; `text` names the behaviour of the double."""
    request = {"model": "double", "input": text, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/responses", "body": request}


def moderation(custom_id: str, text: Json, **body: Json) -> JsonObject:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/moderations",
        "body": {"input": text, **body},
    }


async def test_responses_run_as_a_batch_and_are_stored(start: Callable[..., Any]) -> None:
    async with batch_cluster(start) as running:
        desk = await running.desk()
        money = BillingHarness(running.cluster)
        await money.set("1000", prompt_usd_per_million="2", completion_usd_per_million="10")
        lines = [
            response("stored"),
            response("other", store=False),
            response("unknown", temperature=9),
            response("streamed", stream=True),
            response("refused", "status_400"),
            response("chained", previous_response_id="resp_unknown"),
        ]
        batch = await desk.ended(await desk.create(lines, endpoint="/v1/responses"))
        assert batch.status == "completed" and batch.request_counts, batch
        assert batch.request_counts.model_dump() == {"completed": 2, "failed": 4, "total": 6}
        assert batch.usage and (batch.usage.input_tokens, batch.usage.output_tokens) == (10, 6)
        results = await desk.results(batch)
        stored, other = (results[name]["response"]["body"] for name in ("stored", "other"))
        assert (stored["object"], stored["status"], other["status"]) == ("response", "completed", "completed")
        statuses = {name: line["response"]["status_code"] for name, line in results.items()}
        wrong = {"unknown": 400, "streamed": 400, "refused": 400, "chained": 400}
        assert statuses == {"stored": 200, "other": 200, **wrong}
        params = [results[name]["response"]["body"]["error"]["param"] for name in ("unknown", "streamed", "chained")]
        assert params == ["temperature", "stream", "previous_response_id"]

        retrieved = await desk.openai.responses.retrieve(stored["id"])
        assert (
            retrieved.output_text == "Rates rose." and retrieved.model_dump(mode="json", exclude_unset=True) == stored
        )
        items = [item async for item in desk.openai.responses.input_items.list(stored["id"])]
        assert [item.type for item in items] == ["message"]
        with pytest.raises(openai.NotFoundError):
            await desk.openai.responses.retrieve(other["id"])
        stranger = await running.desk(name="side")
        with pytest.raises(openai.NotFoundError):
            await stranger.openai.responses.retrieve(stored["id"])
        assert desk.query("select id from serving.response") == [(stored["id"],)]
        counted, actual = bytes_counted(running.cluster)
        assert counted == actual > 0

        assert [row["cost"] for row in money.new() if row["outcome"] == "ok"] == [5 * 2000 + 3 * 10_000] * 2
        records = desk.query(RECORDS, "model.response", batch.id)
        assert records[:2] == [("ok", 1), ("ok", 2)] and [line for _, line in records] == [1, 2, 3, 4, 5, 6]


async def test_a_response_of_an_interrupted_batch_is_stored_once(start: Callable[..., Any]) -> None:
    nobody = {"concurrent": 0}
    async with batch_cluster(start, batches=nobody) as running:
        desk = await running.desk()
        batch = await desk.create([response("a", "wait")], endpoint="/v1/responses")
        async with running.worker(concurrent=1):
            await running.cluster.until(lambda: running.cluster.double.under_way == 1, "the first attempt")
        running.cluster.double.go.set()
        async with running.worker(concurrent=1):
            batch = await desk.ended(batch)
        body = (await desk.results(batch))["a"]["response"]["body"]
        stored = desk.query("select id from serving.response where status = 'completed'")
        assert stored == [(body["id"],)] and len(running.cluster.double.bodies) == 2


async def test_moderations_run_as_a_batch(start: Callable[..., Any]) -> None:
    async with batch_cluster(start, moderation=POLICY) as running:
        desk = await running.desk()
        lines = [
            moderation("calm", "Rates rose."),
            moderation("named", ["an attack", "calm"], model="policy"),
            moderation("wrong", []),
        ]
        batch = await desk.ended(await desk.create(lines, endpoint="/v1/moderations"))
        assert batch.status == "completed" and batch.model == "policy", batch
        results = await desk.results(batch)
        assert results["wrong"]["response"]["body"]["error"]["param"] == "input"
        bodies = {name: results[name]["response"]["body"] for name in ("calm", "named")}
        flagged = {name: [result["flagged"] for result in body["results"]] for name, body in bodies.items()}
        assert flagged == {"calm": [False], "named": [True, False]}
        assert batch.usage and batch.usage.input_tokens > 0
        outcomes = desk.query(RECORDS, "model.moderation", batch.id)
        assert outcomes == [("ok", 1), ("ok", 2), ("refused", 3)]
        assert desk.query("select count(*) from metering.ledger where outcome = 'ok'") == [(2,)]

        unknown = [moderation("a", "x", model="double"), moderation("b", "x", model="unknown")]
        batch = await desk.ended(await desk.create(unknown, endpoint="/v1/moderations"))
        assert batch.errors and batch.errors.data
        assert [(error.line, error.code) for error in batch.errors.data] == [
            (1, "model_not_found"),
            (2, "model_not_found"),
        ]


async def test_moderations_need_a_model_without_the_policy(start: Callable[..., Any]) -> None:
    async with batch_cluster(start) as running:
        desk = await running.desk()
        batch = await desk.ended(await desk.create([moderation("a", "x")], endpoint="/v1/moderations"))
        assert batch.errors and batch.errors.data and batch.errors.data[0].code == "model_not_found"


async def test_metrics_count_the_requests_of_batches(start: Callable[..., Any]) -> None:
    async with batch_cluster(start) as running:
        desk, host = await running.desk(), running.cluster.host
        before = await scrape(host)
        batch = await desk.create([chat("good"), chat("bad", "status_400"), *(chat(f"w{n}", "wait") for n in range(6))])
        await running.cluster.until(lambda: running.cluster.double.under_way == 2, "requests that run")
        await desk.until_row("select 1 from serving.batch where completed = 1 and failed = 1", "the first results")

        here = 'endpoint="/v1/chat/completions"'
        waiting = await scrape(host)
        assert waiting[f'drw_batch_requests_open{{{here},state="queued"}}'] + running_now(waiting) == 6
        assert running_now(waiting) > 0
        assert waiting[f"drw_batch_oldest_seconds{{{here}}}"] > 0
        assert waiting[f"drw_batches_late{{{here}}}"] == 0
        await late(desk, batch.id)
        assert (await scrape(host))[f"drw_batches_late{{{here}}}"] == 1

        await desk.openai.batches.cancel(batch.id)
        running.cluster.double.go.set()
        batch = await desk.ended(batch)
        assert batch.request_counts
        after = await scrape(host)
        counts = {"completed": batch.request_counts.completed, "failed": 1, "not_run": batch.request_counts.failed - 1}
        for outcome, number in counts.items():
            name = f'drw_batch_requests_total{{{here},outcome="{outcome}"}}'
            assert after[name] == before.get(name, 0) + number, outcome
        assert counts["not_run"] > 0
        tokens = f'drw_batch_tokens_total{{{here},gen_ai_token_type="output"}}'
        assert after[tokens] == before.get(tokens, 0) + 3 * batch.request_counts.completed
        for name in ("drw_batch_oldest_seconds", "drw_batches_late"):
            assert after[f"{name}{{{here}}}"] == 0
        assert running_now(after) == 0


def running_now(samples: dict[str, float]) -> float:
    return samples['drw_batch_requests_open{endpoint="/v1/chat/completions",state="running"}']


async def late(desk: Desk, id_: str) -> None:
    """Move the start of a batch back, so that its rate is too low for its window."""
    await desk.change(
        "update serving.batch set in_progress_at = now() - interval '20 hours', "
        "expires_at = now() + interval '4 hours' where id = %s",
        id_,
    )
