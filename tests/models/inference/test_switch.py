"""Version swaps under load, aliases, permits, fallbacks and prices of predictive models."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from drw.api.models.v1.discovery_pb2 import Alias, Permit, WeightedTarget
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal, acting_for
from drw.models.serving.runtime.metrics import UNLOADS
from drw.routing import permits
from models.inference import onnx_models
from models.inference.running import ADMIN, infer, predictive, rows, with_models

OPERATOR = Principal("acme", "research", "operator", frozenset(("platform:admin",)))


async def test_alias_moves_under_load_without_a_failed_request(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(
        one=predictive(onnx_models.scale(tmp_path / "one", 1.0)),
        two=predictive(onnx_models.scale(tmp_path / "two", 2.0)),
    ) | {"aliases": {"live": {"targets": {"one": 1}}}}
    async with start(discovery=models, runtime={"preload": False}, remember_models_seconds=0.1) as cluster:
        assert (await infer(cluster, "live", rows([1, 1]))).status_code == 200
        statuses: Counter[int] = Counter()
        answers: list[float] = []
        finished = asyncio.Event()

        async def client() -> None:
            while not finished.is_set():
                response = await infer(cluster, "live", rows([1, 1]))
                statuses[response.status_code] += 1
                answers.append(response.json()["outputs"][0]["data"][0])

        clients = [asyncio.create_task(client()) for _ in range(4)]
        await cluster.until(lambda: statuses[200] > 20, "traffic on the old version")
        with acting_for(OPERATOR):
            alias = Alias(name="live", targets=[WeightedTarget(model="two", weight=1)])
            await cluster.host.client(DiscoveryClient).set_alias(alias)
        await cluster.until(lambda: answers[-1] == 2.0, "traffic on the new version")
        finished.set()
        await asyncio.gather(*clients)
        assert statuses.keys() == {200}
        switch = answers.index(2.0)
        assert set(answers[:switch]) == {1.0}


async def test_alias_stays_while_its_new_version_cannot_be_loaded(start: Callable[..., Any], tmp_path: Path) -> None:
    broken = onnx_models.scale(tmp_path / "broken", 2.0)
    models = with_models(one=predictive(onnx_models.scale(tmp_path / "one", 1.0)), broken=predictive(broken)) | {
        "aliases": {"live": {"targets": {"one": 1}}}
    }
    (broken / "model.onnx").write_bytes(b"not a model")
    async with start(discovery=models, runtime={"preload": False}, remember_models_seconds=0) as cluster:
        await infer(cluster, "live", rows([1, 1]))
        with acting_for(OPERATOR):
            alias = Alias(name="live", targets=[WeightedTarget(model="broken", weight=1)])
            await cluster.host.client(DiscoveryClient).set_alias(alias)
        for _ in range(20):
            response = await infer(cluster, "live", rows([1, 1]))
            assert response.status_code == 200, response.text


async def test_change_takes_effect_after_the_maximum_wait(start: Callable[..., Any], tmp_path: Path) -> None:
    broken = onnx_models.scale(tmp_path / "broken", 2.0)
    models = with_models(one=predictive(onnx_models.scale(tmp_path / "one", 1.0)), broken=predictive(broken)) | {
        "aliases": {"live": {"targets": {"one": 1}}}
    }
    (broken / "model.onnx").write_bytes(b"not a model")
    settings: dict[str, Any] = {"runtime": {"preload": False}, "remember_models_seconds": 0, "switch_seconds": 0}
    async with start(discovery=models, **settings) as cluster:
        await infer(cluster, "live", rows([1, 1]))
        with acting_for(OPERATOR):
            alias = Alias(name="live", targets=[WeightedTarget(model="broken", weight=1)])
            await cluster.host.client(DiscoveryClient).set_alias(alias)
        response = await infer(cluster, "live", rows([1, 1]))
        assert response.status_code == 503 and "cannot be loaded" in response.json()["error"]


@pytest.mark.parametrize(("switch_seconds", "answer", "unloads"), [(600, 1.0, 0), (0, 2.0, 1)])
async def test_old_version_stays_loaded_until_the_maximum_wait_if_both_do_not_fit(
    start: Callable[..., Any], tmp_path: Path, switch_seconds: float, answer: float, unloads: int
) -> None:
    models = with_models(
        one=predictive(onnx_models.scale(tmp_path / "one", 1.0), memory_mib=256),
        two=predictive(onnx_models.scale(tmp_path / "two", 2.0), memory_mib=256),
    ) | {"aliases": {"live": {"targets": {"one": 1}}}}
    settings: dict[str, Any] = {"runtime": {"preload": False, "memory_mib": 400}, "switch_seconds": switch_seconds}
    async with start(discovery=models, remember_models_seconds=0, **settings) as cluster:
        await infer(cluster, "live", rows([1, 1]))
        before = UNLOADS.labels("one", "memory")._value.get()
        with acting_for(OPERATOR):
            alias = Alias(name="live", targets=[WeightedTarget(model="two", weight=1)])
            await cluster.host.client(DiscoveryClient).set_alias(alias)
        for _ in range(20):
            response = await infer(cluster, "live", rows([1, 1]))
            assert response.json()["outputs"][0]["data"] == [answer, answer]
        assert UNLOADS.labels("one", "memory")._value.get() - before == unloads


async def test_fallback_answers_for_a_model_that_cannot_be_loaded(start: Callable[..., Any], tmp_path: Path) -> None:
    broken = onnx_models.scale(tmp_path / "broken", 2.0)
    (broken / "model.onnx").write_bytes(b"not a model")
    models = with_models(
        first=predictive(broken, fallbacks=["second"]), second=predictive(onnx_models.scale(tmp_path / "s", 3.0))
    )
    async with start(discovery=models, runtime={"preload": False}) as cluster:
        response = await infer(cluster, "first", rows([1, 1]))
        assert response.json()["model_name"] == "second" and response.json()["outputs"][0]["data"] == [3.0, 3.0]


async def test_version_in_the_path(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(one=predictive(onnx_models.scale(tmp_path / "one", 1.0)))
    async with start(discovery=models) as cluster:
        await cluster.http.post("/v2/repository/models/one/load", headers=ADMIN)
        (version,) = (await cluster.http.get("/v2/models/one")).json()["versions"]
        path = f"/v2/models/one/versions/{version}"
        assert (await cluster.http.post(f"{path}/infer", json=rows([1, 2]))).json()["model_version"] == version
        assert (await cluster.http.get(f"{path}/ready")).status_code == 200
        for other in ("0" * 12, version[:11], ""):
            response = await cluster.http.post(f"/v2/models/one/versions/{other}/infer", json=rows([1, 2]))
            assert response.status_code in (404, 405), other


@pytest.mark.parametrize(
    ("permit", "error"),
    [
        (Permit(), "no valid validation record"),
        (Permit(validation="val_1", expires_at=int(time.time()) - 1), "expired"),
    ],
)
def test_model_without_a_valid_permit_is_refused(permit: Permit, error: str) -> None:
    with pytest.raises(Forbidden, match=error):
        permits.check("fraud", permit)
    permits.check("fraud", Permit(validation="val_1", expires_at=int(time.time()) + 60))
    permits.check("fraud", Permit(validation="settings"))


async def test_rows_are_written_to_the_ledger(start: Callable[..., Any], tmp_path: Path) -> None:
    models = with_models(one=predictive(onnx_models.scale(tmp_path / "one", 1.0)))
    async with start(discovery=models) as cluster:
        await infer(cluster, "one", rows([1, 1], [2, 2], [3, 3]))
        with psycopg.connect(cluster.database) as connection:
            query = "select model, prompt_tokens, completion_tokens, outcome from metering.ledger"
            ledger = connection.execute(query).fetchall()
        assert ledger == [("one", 3, 0, "ok")]
