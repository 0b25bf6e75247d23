"""Probes of replicas: states, their effect on routing, and what they do not reveal."""

from __future__ import annotations

import asyncio

import pytest

from drw.api.models.v1.discovery_pb2 import (
    GetModelRequest,
    Model,
    ReplicaState,
    ResolvePlanRequest,
    WatchAliasesRequest,
)
from drw.kernel.rpc.context import acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from models.registry.double_vllm import double_vllm
from models.registry.harness import RegistryWorld, registry_world
from support.json_types import JsonObject


async def replicas(world: RegistryWorld) -> list[ReplicaState]:
    with acting_for(OPERATOR):
        return list((await world.client.get_model(GetModelRequest(id="both"))).replicas)


async def urls(world: RegistryWorld) -> list[str]:
    with acting_for(world.developer):
        plan = await world.client.resolve_plan(ResolvePlanRequest(id="both"))
    return list(plan.targets[0].model.base_urls)


async def test_unhealthy_replicas_receive_no_requests_while_another_is_healthy(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_KEY", "secret-of-the-upstream")
    async with double_vllm() as good, double_vllm() as wrong:
        wrong.models = ["other"]
        both: JsonObject = {
            "engine": "openai",
            "base_urls": [good.base_url, wrong.base_url],
            "upstream_model": "m1",
            "api_key_variable": "PROBE_KEY",
        }
        async with registry_world(profile, models={"both": both}, probe_seconds=0.05) as world:
            async with asyncio.timeout(20):
                while await urls(world) != [good.base_url]:
                    await asyncio.sleep(0.01)
            first, second = await replicas(world)
            assert (first.status, list(first.serves)) == (ReplicaState.HEALTHY, ["m1", "m2"])
            assert (second.status, "does not serve 'm1'" in second.error) == (ReplicaState.WRONG_MODEL, True)
            (status,) = (s for s in (await world.host.status()).services if s.name == "discovery")
            assert "answers and does not serve 'm1'" in status.detail
            with acting_for(world.developer):  # without "platform:read": no addresses
                shown: Model = await world.client.get_model(GetModelRequest(id="both"))
            assert [(state.name, list(state.serves), state.error) for state in shown.replicas] == [
                ("1", [], ""),
                ("2", [], ""),
            ]
            assert good.probes[0]["authorization"] == "Bearer secret-of-the-upstream"
            assert "secret" not in str(await replicas(world)) + status.detail
            watch = world.client.watch_aliases(WatchAliasesRequest())
            await anext(watch)
            good.status = 500
            async with asyncio.timeout(20):
                await anext(watch)  # the change is announced
                while await urls(world) != [good.base_url, wrong.base_url]:  # none is healthy: all are tried
                    await asyncio.sleep(0.01)
            wrong.models = ["m1"]
            async with asyncio.timeout(20):
                while await urls(world) != [wrong.base_url]:
                    await asyncio.sleep(0.01)
            await watch.aclose()


async def test_a_frozen_replica_is_unreachable_and_delays_no_other(profile: Profile) -> None:
    async with double_vllm() as frozen, double_vllm() as good:
        frozen.go.clear()
        both: JsonObject = {
            "engine": "openai",
            "base_urls": [frozen.base_url, good.base_url],
            "upstream_model": "m1",
        }
        probe: JsonObject = {"http_probe": {"seconds": 0.2}, "probe_seconds": 0.05}
        async with registry_world(profile, models={"both": both}, **probe) as world:
            async with asyncio.timeout(20):
                while await urls(world) != [good.base_url]:
                    await asyncio.sleep(0.01)
            first, _ = await replicas(world)
            assert (first.status, first.error) == (ReplicaState.UNREACHABLE, "no answer within 0.2 s")
