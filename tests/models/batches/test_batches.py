"""Batches through the official client: results, errors, pagination, cancellation, expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from models.batches.batch_cluster import BatchCluster, batch_cluster, chat


@pytest.fixture
async def running(start: Callable[..., Any]) -> AsyncIterator[BatchCluster]:
    async with batch_cluster(start) as cluster:
        yield cluster


async def test_a_batch_returns_one_result_for_each_request(running: BatchCluster) -> None:
    desk = await running.desk()
    lines = [*(chat(f"r-{n}") for n in range(20)), chat("bad", "status_400"), chat("unknown", temperature=9)]
    created = await desk.create(lines, metadata={"project": "rates"})
    assert (created.status, created.metadata, created.endpoint) == (
        "validating",
        {"project": "rates"},
        "/v1/chat/completions",
    )
    batch = await desk.ended(created)
    assert batch.status == "completed", batch
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"completed": 20, "failed": 2, "total": 22}
    results = await desk.results(batch)
    assert results.keys() == {line["custom_id"] for line in lines}
    assert results["r-3"]["response"]["body"]["choices"][0]["message"]["content"] == "Rates rose."
    assert results["r-3"]["error"] is None
    assert results["bad"]["response"]["status_code"] == 400
    assert results["unknown"]["response"]["body"]["error"]["param"] == "temperature"
    assert batch.usage is not None and (batch.usage.input_tokens, batch.usage.output_tokens) == (100, 60)
    assert batch.model == "double"


async def test_completions_and_embeddings_run_as_batches(running: BatchCluster) -> None:
    desk = await running.desk()
    completion: dict[str, Any] = {"custom_id": "c", "method": "POST", "url": "/v1/completions"}
    completion["body"] = {"model": "double", "prompt": "Rates"}
    texts: dict[str, Any] = {
        "custom_id": "e",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "vectors", "input": "Rates"},
    }
    for line in (completion, texts):
        batch = await desk.ended(await desk.create([line], endpoint=line["url"]))
        body = (await desk.results(batch))[line["custom_id"]]["response"]["body"]
        assert body["object"] in ("text_completion", "list"), body
        assert batch.usage is not None and batch.usage.input_tokens > 0


async def test_an_invalid_file_fails_with_all_line_numbers(running: BatchCluster) -> None:
    desk = await running.desk()
    good = chat("a")
    lines: list[dict[str, Any] | str] = [
        good,
        good,
        "{not json",
        chat("b") | {"method": "GET"},
        chat("c") | {"url": "/v1/embeddings"},
        chat("d", model="unknown"),
        chat("e") | {"more": 1},
        {"custom_id": "f", "method": "POST", "url": "/v1/chat/completions"},
        chat("g", model="vectors"),
        chat(""),
        "[]",
        '{"custom_id": "h", "custom_id": "i"}',
    ]
    batch = await desk.ended(await desk.create(lines))
    assert batch.status == "failed" and batch.failed_at and batch.errors and batch.errors.data
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "invalid_json_line"),
        (4, "invalid_method"),
        (5, "mismatched_url"),
        (6, "model_not_found"),
        (7, "unknown_parameter"),
        (8, "missing_required_parameter"),
        (9, "model_not_found"),
        (10, "invalid_custom_id"),
        (11, "invalid_json_line"),
        (12, "invalid_json_line"),
    ]
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert running.cluster.double.bodies == []
    assert desk.query("select count(*) from serving.batch_line") == [(0,)]


async def test_a_file_without_requests_fails(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.ended(await desk.create(["", "  "]))
    assert batch.status == "failed" and batch.errors and batch.errors.data
    assert batch.errors.data[0].code == "empty_file"


async def test_parameters_that_are_not_supported_are_named(running: BatchCluster) -> None:
    desk = await running.desk()
    file = await desk.upload([chat("a")])
    other = await desk.openai.files.create(file=("a.txt", b"{}"), purpose="user_data")
    create = desk.openai.batches.create
    good: dict[str, Any] = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for wrong, param in (
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
        ({"input_file_id": other.id}, "input_file_id"),
        ({"input_file_id": "x\x00"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await create(**(good | wrong))
        assert caught.value.param == param, caught.value
    with pytest.raises(openai.NotFoundError):
        await create(**(good | {"input_file_id": "file-unknown"}))
    with pytest.raises(openai.BadRequestError, match="limit"):
        await desk.openai.batches.list(limit=101)


async def test_batches_are_listed_newest_first_in_pages(running: BatchCluster) -> None:
    desk = await running.desk()
    file = await desk.upload([chat("a")])
    request: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    created = [(await desk.openai.batches.create(**request)).id for _ in range(5)]
    page = await desk.openai.batches.list(limit=2)
    assert [batch.id for batch in page.data] == created[:2:-1] and page.has_more
    assert [batch.id async for batch in desk.openai.batches.list(limit=2)] == created[::-1]
    assert [batch.id async for batch in desk.openai.batches.list(after=created[1])] == created[:1]


async def test_a_repeated_creation_with_an_idempotency_key_is_one_batch(running: BatchCluster) -> None:
    desk = await running.desk()
    file = await desk.upload([chat("a")])
    request: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    once: Any = {"extra_headers": {"Idempotency-Key": "once"}}
    first = await desk.openai.batches.create(**request, **once)
    assert (await desk.openai.batches.create(**request, **once)).id == first.id
    with pytest.raises(openai.ConflictError, match="Idempotency-Key"):
        await desk.openai.batches.create(**request, metadata={"a": "b"}, **once)
    colleague = await running.desk()  # another key of the same desk
    assert (await colleague.openai.batches.create(**request, **once)).id != first.id
    assert len((await desk.openai.batches.list()).data) == 2


async def test_a_cancelled_batch_keeps_its_results(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.create([chat("done"), *(chat(f"wait-{n}", "wait") for n in range(30))])
    await running.cluster.until(lambda: running.cluster.double.under_way > 1, "requests that run")
    cancelling = await desk.openai.batches.cancel(batch.id)
    assert cancelling.status == "cancelling" and cancelling.cancelling_at
    assert (await desk.openai.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
    running.cluster.double.go.set()
    batch = await desk.ended(batch)
    assert batch.status == "cancelled" and batch.cancelled_at and batch.request_counts
    results = await desk.results(batch)
    assert len(results) == 31
    cancelled = [line for line in results.values() if line["error"]]
    assert {line["error"]["code"] for line in cancelled} == {"batch_cancelled"}
    assert batch.request_counts.failed == len(cancelled) > 0
    assert results["done"]["response"]["status_code"] == 200
    with pytest.raises(openai.ConflictError, match="completed|failed"):
        ended = await desk.ended(await desk.create([chat("x")]))
        await desk.openai.batches.cancel(ended.id)


async def test_a_batch_expires_with_its_partial_results(running: BatchCluster) -> None:
    desk = await running.desk()
    batch = await desk.create([chat("a"), *(chat(f"w-{n}", "wait") for n in range(10))])
    await running.cluster.until(lambda: running.cluster.double.under_way > 0, "requests that run")
    await desk.change("update serving.batch set expires_at = now()")
    await desk.ended(batch, "finalizing")
    with pytest.raises(openai.ConflictError, match="finalizing"):
        await desk.openai.batches.cancel(batch.id)
    running.cluster.double.go.set()
    batch = await desk.ended(batch)
    assert batch.status == "expired" and batch.expired_at
    results = await desk.results(batch)
    assert len(results) == 11
    codes = {line["error"]["code"] for line in results.values() if line["error"]}
    assert codes == {"batch_expired"}
    assert results["a"]["response"]["status_code"] == 200
