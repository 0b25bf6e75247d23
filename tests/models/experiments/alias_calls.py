"""Calls of an alias, and experiments of it, over HTTP and RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
import psycopg

from models.cluster import KEY, ModelsCluster
from support import parts

until = partial(parts.until, seconds=90)
"""Waits for a condition, with time for a machine under load."""
ALIAS = {"aliases": {"fast": {"targets": {"double": 1}}}}
"""Settings of discovery with an alias of the model `double`."""
FEED = {"consume_seconds": 0.02, "routing_seconds": 60}
WRITER = KEY | {"x-drw-scopes": "models:invoke experiments:read experiments:write experiments:record"}
LATENCY = {"name": "ms", "kind": "RATIO", "direction": "LOWER_IS_BETTER", "source": "TOTAL_MS"}
ERRORS = {"name": "errors", "kind": "PROPORTION", "direction": "LOWER_IS_BETTER", "source": "ERROR"}
COST = {"name": "cost", "kind": "MEAN", "direction": "LOWER_IS_BETTER", "source": "COST_USD", "cap": 1}
TOKENS = {"name": "tokens", "kind": "RATIO", "direction": "LOWER_IS_BETTER", "source": "TOKENS"}
GRADE = {"name": "grade", "kind": "SCORE", "direction": "HIGHER_IS_BETTER", "lowest": 1, "highest": 5}


def definition(treatment: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    arms = [
        {"name": "control", "weight": 1},
        {"name": "other", "weight": 1, "treatment": treatment or {"model": "candidate"}},
    ]
    metrics = [LATENCY, ERRORS, COST, TOKENS, GRADE]
    return {"name": "swap", "unit": "user", "alias": "fast", "arms": arms, "metrics": metrics} | fields


async def post(cluster: ModelsCluster, path: str, body: Any = None, headers: Any = WRITER) -> httpx.Response:
    return await cluster.http.post(path, json={} if body is None else body, headers=headers)


async def start_experiment(
    cluster: ModelsCluster, treatment: dict[str, Any] | None = None, *, headers: Any = WRITER, **fields: Any
) -> dict[str, Any]:
    """Create and start an experiment, and return when serving assigns by it."""
    created = await post(cluster, "/api/v1/experiments", definition(treatment, **fields), headers)
    assert created.status_code == 200, created.text
    started = await post(cluster, f"/api/v1/experiments/{created.json()['name']}:start", headers=headers)
    assert started.status_code == 200, started.text
    await until_assigned(cluster, headers)
    return dict(started.json())


async def until_assigned(cluster: ModelsCluster, headers: Any = KEY, *, assigned: bool = True) -> None:
    """Return when calls are assigned, or no longer."""

    async def probe() -> bool:
        response = await call(cluster, "probe", headers=headers)
        return ("x-experiment" in response.headers) == assigned

    await until(probe, "the routing of calls")


async def call(
    cluster: ModelsCluster, user: str | None, how: str = "plain", *, headers: Any = KEY, **fields: Any
) -> httpx.Response:
    """Call the alias as a user."""
    body = {"model": "fast", "messages": [{"role": "user", "content": how}], **fields}
    if user is not None:
        body["user"] = user
    return await cluster.http.post("/v1/chat/completions", json=body, headers=headers)


async def calls(cluster: ModelsCluster, users: Sequence[str], how: str = "plain") -> list[httpx.Response]:
    return list(await asyncio.gather(*(call(cluster, user, how) for user in users)))


async def results(cluster: ModelsCluster, name: str = "swap", headers: Any = WRITER) -> dict[str, Any]:
    response = await cluster.http.get(f"/api/v1/experiments/{name}/results", headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def until_recorded(cluster: ModelsCluster, count: int, name: str = "swap") -> dict[str, Any]:
    """Return the results once so many calls are recorded, the probes included."""
    found: dict[str, Any] = {}

    async def recorded() -> bool:
        nonlocal found
        found = await results(cluster, name)
        return outbox(cluster) == 0 and found["delivery"]["recorded"] >= count

    await until(recorded, f"{count} recorded calls")
    return found


def outbox(cluster: ModelsCluster) -> int:
    """Return the number of events that wait."""
    with psycopg.connect(cluster.database) as connection:
        return int(connection.execute("select count(*) from audit.outbox").fetchone()[0])  # type: ignore[index]


def events(cluster: ModelsCluster, query: str = "select arm, outcomes from experiments.call_event") -> list[Any]:
    with psycopg.connect(cluster.database) as connection:
        return connection.execute(query.encode()).fetchall()
