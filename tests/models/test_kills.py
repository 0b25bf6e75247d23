"""Kill switch and model calls: new calls are rejected, running ones end, records are written."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import openai
import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.models.v1.serving_pb2 import ChatMessage, ChatRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.transport import Channels
from drw.killswitch.watch import Killed, KillList
from models.cluster import ModelsCluster, StartCluster
from models.test_failures import ask
from support.gateway.kills import kill
from support.json_types import JsonObject

WHO = Principal("acme", "research", "key_test", frozenset({"models:invoke"}))
SUBJECTS = [
    kill("KEY", "key_test", "acme"),
    kill("DESK", "research", "acme"),
    kill("MODEL", "double"),
    kill("MODEL", "double", "acme"),
]


async def stopped(cluster: ModelsCluster, *kills: Kill) -> openai.PermissionDeniedError:
    """Kill, and return when calls are refused."""
    await cluster.kills.kill(*kills)
    async with asyncio.timeout(30):
        while True:
            try:
                await cluster.client.chat.completions.create(**ask("plain"))
            except openai.PermissionDeniedError as error:
                return error
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("what", SUBJECTS, ids=["key", "desk", "model", "own model"])
async def test_a_kill_rejects_new_calls_and_ends_streams(cluster: ModelsCluster, what: Kill) -> None:
    stream = await cluster.client.chat.completions.create(**ask("stall"), stream=True)
    first = await anext(stream)
    assert first.choices[0].delta.content
    waiting = asyncio.create_task(cluster.client.chat.completions.create(**ask("wait")))
    await cluster.until(lambda: cluster.double.under_way == 2, "both calls")
    rejected = await stopped(cluster, what)
    assert rejected.code == "killed" and "`drw kill list`" in rejected.message
    with pytest.raises(openai.APIError, match="stopped by a kill switch") as cut:
        await anext(stream)
    assert (cut.value.type, cut.value.code) == ("permission_error", "killed")
    with pytest.raises(openai.PermissionDeniedError, match="stopped by a kill switch"):
        await waiting
    await cluster.until(lambda: cluster.double.under_way == 0, "the end of the engine's work")
    # Both that were under way; the call that was refused first may have had its answer on record just before.
    outcomes = [record["outcome"] for record in cluster.records()]
    assert outcomes.count("killed") >= 2 and set(outcomes) <= {"killed", "ok"}
    with pytest.raises(openai.PermissionDeniedError):
        await cluster.client.chat.completions.create(**ask("plain"))
    assert [record["outcome"] for record in cluster.records()] == ["killed"]
    await cluster.kills.kill()
    async with asyncio.timeout(30):
        while True:
            try:
                await cluster.client.chat.completions.create(**ask("plain"))
                break
            except openai.PermissionDeniedError:
                await asyncio.sleep(0.01)


async def test_calls_of_others_are_not_affected_by_a_kill(cluster: ModelsCluster) -> None:
    stream = await cluster.client.chat.completions.create(**ask("stall"), stream=True)
    await anext(stream)
    others = [
        kill("KEY", "key_test", "other"),
        kill("DESK", "trading", "acme"),
        kill("MODEL", "double", "other"),
        kill("MODEL", "vectors"),
    ]
    await cluster.kills.kill(*others)
    async with asyncio.timeout(30):
        while True:
            try:
                await cluster.client.embeddings.create(model="vectors", input="x")
            except openai.PermissionDeniedError:
                break
            await asyncio.sleep(0.01)
    assert cluster.double.under_way == 1
    assert (await cluster.client.chat.completions.create(**ask("plain"))).choices


async def test_an_rpc_call_is_stopped_by_a_kill(cluster: ModelsCluster) -> None:
    serving = cluster.host.client(ServingClient)
    request = ChatRequest(model="double", messages=[ChatMessage(role="user", content="stall")])
    with acting_for(WHO):
        async with aclosing(serving.chat(request)) as chunks:
            assert (await anext(chunks)).text
            await cluster.kills.kill(SUBJECTS[2])
            with pytest.raises(Killed) as cut:
                await anext(chunks)
            assert (cut.value.metadata["code"], cut.value.metadata["killed"]) == ("killed", "model")
        with pytest.raises(Killed):
            await anext(serving.chat(request))
    await cluster.until(lambda: cluster.double.under_way == 0, "the end of the engine's work")
    assert [record["outcome"] for record in cluster.records()] == ["killed", "killed"]


async def test_kills_persist_without_the_router_and_across_restarts(start: StartCluster) -> None:
    async with start() as cluster:
        await stopped(cluster, SUBJECTS[0])
        await cluster.kills.stop()
        assert (await stopped(cluster)).code == "killed"
        file = cluster.host.profile.data / "serving" / "kills"
    router = Channels().client(RequestRouterClient, "unix:/nothing")
    with pytest.raises(Killed):
        KillList(router, file).check(WHO)
    file.write_bytes(b"\xff\xff")
    KillList(router, file).check(WHO)  # what cannot be read hinders nobody, and the router will tell it anew


@pytest.mark.parametrize("org", ["", "acme"])
async def test_a_kill_of_the_local_policy_stops_moderations(start: StartCluster, org: str) -> None:
    rules: JsonObject = {"categories": {"violence": {"words": ["attack"]}}}
    async with start(moderation=rules) as cluster:
        await cluster.kills.kill(kill("MODEL", "policy", "other"))
        assert (await cluster.client.moderations.create(input="an attack")).results[0].flagged
        await cluster.kills.kill(kill("MODEL", "policy", org))

        async def refused() -> bool:
            answer = await cluster.http.post("/v1/moderations", json={"input": "an attack"})
            return answer.status_code == 403 and answer.json()["error"]["code"] == "killed"

        async with asyncio.timeout(30):
            while not await refused():
                await asyncio.sleep(0.01)
        assert (await cluster.client.chat.completions.create(**ask("plain"))).choices
        await cluster.kills.kill()
        async with asyncio.timeout(30):
            while await refused():
                await asyncio.sleep(0.01)
