"""Active probes and passive signals of replicas: what is sent, to whom, and what opens a circuit."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import openai
import pytest

from drw.api.models.v1.serving_pb2 import Probe, ProbeRequest, Replica, Replicas, WatchReplicasRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.kernel.errors import DeadlineExceeded, NotFound
from models.cluster import ModelsCluster


async def probe(cluster: ModelsCluster, model: str = "double", **request: float) -> list[Probe]:
    client = cluster.host.client(ServingClient)
    return list((await client.probe(ProbeRequest(model=model, **request), timeout=60)).probes)


def outcomes(probes: list[Probe]) -> list[tuple[int, str]]:
    return [(each.outcome, each.error) for each in probes]


async def chat(cluster: ModelsCluster, text: str = "plain") -> str:
    answer = await cluster.client.chat.completions.create(
        model="double", messages=[{"role": "user", "content": text}], stream=False
    )
    return answer.choices[0].message.content or ""


@pytest.fixture
def frozen(folder: Path) -> Iterator[str]:
    """The address of a replica whose process is stopped: the kernel accepts connections, nobody answers."""
    path = folder / "frozen.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(128)
        yield f"unix:{path}"


async def test_a_probe_is_one_token_without_a_record_and_without_a_caller(cluster: ModelsCluster) -> None:
    (answered,) = await probe(cluster)
    assert (answered.outcome, answered.model) == (Probe.ANSWERED, "double")
    assert answered.latency_ms > 0
    (body,) = cluster.double.bodies
    assert (body["max_tokens"], body["messages"]) == (1, [{"role": "user", "content": "ping"}])
    assert cluster.records() == []
    assert (await probe(cluster, "vectors"))[0].outcome == Probe.ANSWERED
    with pytest.raises(NotFound):
        await probe(cluster, "unknown")


async def test_a_flood_of_probes_is_one_request(cluster: ModelsCluster) -> None:
    flood = await asyncio.gather(*(probe(cluster) for _ in range(50)))
    assert all(outcomes(each) == [(Probe.ANSWERED, "")] for each in flood)
    assert len(cluster.double.bodies) == 1


async def test_a_replica_that_a_caller_has_just_used_is_not_probed(cluster: ModelsCluster) -> None:
    await chat(cluster)
    assert outcomes(await probe(cluster, fresh_seconds=60)) == [(Probe.FRESH, "")]
    assert len(cluster.double.bodies) == 1


async def test_a_probe_takes_no_slot_of_a_caller(start: Callable[..., Any]) -> None:
    async with start(double={"max_concurrent": 1}) as cluster:
        call = asyncio.create_task(chat(cluster, "wait"))
        await cluster.until(lambda: cluster.double.under_way == 1, "the call")
        assert outcomes(await probe(cluster)) == [(Probe.BUSY, "")]  # its health check answers
        assert len(cluster.double.bodies) == 1
        cluster.double.go.set()
        assert await call


async def test_a_failed_probe_opens_the_circuit_and_a_later_one_closes_it(start: Callable[..., Any]) -> None:
    async with start(circuits={"open_seconds": 0.01, "max_open_seconds": 0.01}) as cluster:
        broken = pytest.MonkeyPatch()
        broken.setattr(cluster.double, "plain", cluster.double.status_500)
        watch = cluster.host.client(ServingClient).watch_replicas(WatchReplicasRequest())
        async with aclosing(watch) as states:
            assert outcomes(await probe(cluster)) == [(Probe.FAILED, "EngineUnavailable")]
            await _reached(states, "double", Replica.OPEN)
            broken.undo()
            async with asyncio.timeout(30):
                while outcomes(await probe(cluster)) != [(Probe.ANSWERED, "")]:
                    await asyncio.sleep(0.05)
            await _reached(states, "double", Replica.CLOSED)


async def test_after_a_failed_probe_the_next_request_finds_a_model_that_is_back(start: Callable[..., Any]) -> None:
    async with start(circuits={"open_seconds": 3600, "max_open_seconds": 3600}) as cluster:
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(cluster.double, "plain", cluster.double.status_500)
            assert outcomes(await probe(cluster)) == [(Probe.FAILED, "EngineUnavailable")]
        assert await chat(cluster) == "Rates rose."


async def test_after_a_failed_probe_one_failed_request_keeps_the_circuit_open(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(circuits={"open_seconds": 3600, "max_open_seconds": 3600}) as cluster:
        monkeypatch.setattr(cluster.double, "plain", cluster.double.status_500)
        assert outcomes(await probe(cluster)) == [(Probe.FAILED, "EngineUnavailable")]
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await chat(cluster)
        assert len(cluster.double.bodies) == 2  # the probe and one request


async def test_an_engine_that_limits_requests_has_answered(
    cluster: ModelsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.double, "plain", cluster.double.status_429)
    assert outcomes(await probe(cluster)) == [(Probe.ANSWERED, "")]


async def test_a_frozen_replica_fails_its_probe_in_time(start: Callable[..., Any], frozen: str) -> None:
    async with start(double={"base_url": frozen}) as cluster:
        assert outcomes(await probe(cluster, timeout_seconds=0.2)) == [(Probe.FAILED, "EngineStalled")]
        assert outcomes(await _later(cluster)) == [(Probe.COOLING_DOWN, "")]


async def test_a_frozen_replica_leaves_the_rotation_while_its_first_call_still_waits(
    start: Callable[..., Any], frozen: str
) -> None:
    """The order of events: a call waits at the frozen replica, its circuit opens, further calls go to the other."""
    async with start() as first:
        working = first.host.profile.services["discovery"]["models"]["double"]["base_url"]
        addresses = {"base_url": "", "base_urls": [frozen, working], "affinity": "none"}
        async with start(double=addresses) as cluster:
            waiting = [asyncio.create_task(chat(cluster)) for _ in range(2)]  # one at each replica
            watch = cluster.host.client(ServingClient).watch_replicas(WatchReplicasRequest())
            async with aclosing(watch) as states:
                await _reached(states, "double", Replica.OPEN)
            assert not all(call.done() for call in waiting)  # its deadline is far away
            for _ in range(6):
                assert await chat(cluster) == "Rates rose."
            for call in waiting:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            records: list[dict[str, Any]] = []

            def is_recorded() -> bool:
                records.extend(cluster.records())
                return any(record["outcome"] == "client_gone" for record in records)

            await cluster.until(is_recorded, "the record of the call that was given up")


async def _later(cluster: ModelsCluster) -> list[Probe]:
    """Return the results of the next probe that is not a repetition of the last one."""
    async with asyncio.timeout(30):
        while (probes := await probe(cluster))[0].outcome == Probe.FAILED:
            await asyncio.sleep(0.05)
    return probes


async def _reached(states: Any, model: str, circuit: Replica.Circuit) -> None:
    async with asyncio.timeout(30):
        async for state in states:
            assert isinstance(state, Replicas)
            if any(replica.model == model and replica.circuit == circuit for replica in state.replicas):
                return
    raise DeadlineExceeded("the watch ended")
