"""Prices of predictive models: rows are charged, a budget refuses the next call, and the ledger agrees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg

from drw.api.gateway.v1.rate_limiting_pb2 import (
    Block,
    Budget,
    ListBudgetsRequest,
    Policy,
    Price,
    WatchPolicyRequest,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from models.cluster import ModelsCluster
from models.inference import onnx_models
from models.inference.running import infer, predictive, rows, with_models
from support.gateway.money import until_counters_open

BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))


async def set_money(cluster: ModelsCluster) -> RateLimitingClient:
    """Charge 100 USD for a million rows of `one`, limit the desk to the price of four rows, and wait for both."""
    client = cluster.host.client(RateLimitingClient)
    await until_counters_open(cluster.host.profile)
    with acting_for(BOSS):
        await client.set_price(Price(model="one", prompt_usd_per_million="100"))
        await client.set_budget(Budget(subject=Block.DESK, name="research", period=Budget.DAY, amount="0.0004"))
    async with aclosing(client.watch_policy(WatchPolicyRequest())) as news:
        policy = await anext(news)
    file = cluster.host.profile.data / "serving" / "policy.pb"
    await cluster.until(lambda: file.exists() and Policy.FromString(file.read_bytes()) == policy, "the policy")
    return client


def ledger(cluster: ModelsCluster) -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.database) as connection:
        query = "select model, prompt_tokens, completion_tokens, cost, outcome from metering.ledger order by at, id"
        return connection.execute(query).fetchall()


async def test_rows_are_charged_until_the_budget_is_used_up(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(
        one=predictive(onnx_models.scale(tmp_path / "one", 2.0)),
        free=predictive(onnx_models.scale(tmp_path / "f", 3.0)),
    )
    async with start(discovery=models, more=("rate_limiting",)) as cluster:
        client = await set_money(cluster)
        answer = await infer(cluster, "one", rows([1, 1], [2, 2], [3, 3]))
        assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [2, 2, 4, 4, 6, 6]), answer.text
        refused = await infer(cluster, "one", rows([1, 1], [2, 2]))
        assert refused.status_code == 429 and "budget" in refused.json()["error"], refused.text
        invalid = await infer(cluster, "one", rows([1, 1], name="y"))
        assert invalid.status_code == 400, invalid.text
        assert (await infer(cluster, "one", rows([4, 4]))).status_code == 200
        assert (await infer(cluster, "one", rows([4, 4]))).status_code == 429
        assert (await infer(cluster, "free", rows([1, 1]))).status_code == 200
        assert [row for row in ledger(cluster) if row[3]] == [
            ("one", 3, 0, 300_000, "ok"),
            ("one", 1, 0, 100_000, "ok"),
        ]
        with acting_for(BOSS):
            (budget,) = (await client.list_budgets(ListBudgetsRequest())).budgets
        assert round(float(budget.spent) * 1e9) == sum(row[3] for row in ledger(cluster)) == 400_000
        assert float(budget.reserved) == 0
