"""Batches through the official client: results, errors, pagination, cancellation, expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

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
