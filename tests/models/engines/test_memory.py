"""Memory limits: of the engine process, of prompts and of request bodies."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from pathlib import Path

import aiohttp
import openai
import psutil
import pytest

from drw.kernel.errors import RateLimited, Unavailable
from drw.local.processes.child_process import ChildProcess, ProcessSpec, ProcessState
from drw.models.serving.http.body_buffers import BodyBuffers
from models.cluster import CONTEXT, SLOTS, StartCluster, running_engine
from support.json_types import JsonObject

MEMORY_MIB = 1024
STORY: JsonObject = {"model": "small", "messages": [{"role": "user", "content": "Tell a long story."}]}
ENDLESS: JsonObject = {"n": 8, "logit_bias": {"0": -100, "2": -100}}
"""Without the tokens that end an answer, and again when the context is full."""


async def healthy(socket: Path) -> bool:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.get("http://engine/health") as answer,
        ):
            return answer.status == 200
    return False


async def test_an_engine_above_its_memory_limit_returns_503_and_is_restarted(
    weights: Path, folder: Path, start: StartCluster
) -> None:
    socket = folder / "limited.sock"
    command = [sys.executable, "-m", "drw.models.engine", "--model", str(weights), "--socket", str(socket)]
    command += ["--slots", str(SLOTS), "--context", str(CONTEXT), "--memory", str(MEMORY_MIB)]
    log_lines: list[str] = []
    part = ProcessSpec(name="engine", title="the engine", command=lambda: command, ready=partial(healthy, socket))
    child = ChildProcess(part, folder / "limited.log", log_lines.append)
    await child.start()
    keeping = asyncio.create_task(child.supervise())
    try:
        never = {"consecutive_failures": 1000, "window": 1000}  # a circuit would tell of itself
        async with start(small=socket, circuits=never) as cluster:
            stream = await cluster.client.chat.completions.create(**STORY, **ENDLESS, stream=True)
            assert (await anext(aiter(stream))).choices
            first = child.pid
            under_what_it_holds = 64 << 20
            psutil.Process(first).rlimit(psutil.RLIMIT_DATA, (under_what_it_holds, under_what_it_holds))
            with pytest.raises(openai.APIError, match="try again"):
                async for _ in stream:
                    pass
            await cluster.until(lambda: child.restarts > 0 and child.state == ProcessState.READY, "a new engine")
            patient = cluster.client.with_options(max_retries=5)  # after as long as the platform says
            again = await patient.chat.completions.create(**STORY, max_tokens=2)
            assert again.choices[0].finish_reason == "length"
        assert (child.pid != first, child.restarts) == (True, 1)
        assert len(log_lines) == 1 and log_lines[0].endswith("starting it again")
        assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_DATA)[0] == 2 * MEMORY_MIB << 20
    finally:
        await child.stop()
        await keeping


@pytest.mark.parametrize(
    "body", [{"model": "small", "prompt": "a " * (1 << 20)}, {"model": "vectors", "input": "x " * 9999}]
)
async def test_prompts_with_too_many_bytes_do_not_reach_the_engine(
    weights: Path, folder: Path, start: StartCluster, body: JsonObject
) -> None:
    socket = folder / "long.sock"
    with running_engine(weights, socket) as process:
        memory = psutil.Process(process.pid)
        before = memory.memory_info().rss
        async with start(small=socket, vectors={"context_length": 256}) as cluster:
            path = "embeddings" if "input" in body else "completions"
            answer = await cluster.http.post(f"/v1/{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert [record["outcome"] for record in cluster.records()] == ["refused"]
        assert memory.memory_info().rss - before < 16 << 20


async def test_a_model_with_a_longer_context_answers_prompts_too_long_for_the_first(start: StartCluster) -> None:
    async with start(double={"context_length": 100}, fallback={"context_length": 100_000}) as cluster:
        body = {"model": "double", "max_tokens": 8}
        messages = [{"role": "user", "content": "plain"}, {"role": "user", "content": "x" * 6401}]
        answer = await cluster.http.post("/v1/chat/completions", json={**body, "messages": messages})
        assert (answer.status_code, answer.headers["x-drw-model"]) == (200, "other")
        messages[1]["content"] *= 1001
        answer = await cluster.http.post("/v1/chat/completions", json={**body, "messages": messages})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert len(cluster.double.bodies) == 1


def test_body_bytes_are_limited_per_org_and_in_total() -> None:
    buffers = BodyBuffers(100, 250)
    with buffers.reserve("a") as a, buffers.reserve("b") as b, buffers.reserve("c") as c:
        a(60)
        with buffers.reserve("a") as more:
            more(40)
            with pytest.raises(RateLimited, match="org 'a'"):
                more(1)
        a(40)
        b(100)
        with pytest.raises(Unavailable, match="try again"):
            c(51)
        c(50)
    assert not buffers._reserved


async def test_an_org_above_its_body_limit_receives_429_until_bytes_are_released(start: StartCluster) -> None:
    async with start(max_buffered_bytes_per_org=1 << 20) as cluster:
        waiting_body = {"model": "double", "messages": [{"role": "user", "content": "wait"}], "user": "x" * 500}
        long = {"model": "double", "messages": [{"role": "user", "content": "x" * (1 << 20)}]}
        waiting = asyncio.create_task(cluster.http.post("/v1/chat/completions", json=waiting_body))
        await cluster.until(lambda: cluster.double.under_way > 0, "the call under way")
        rejected = await cluster.http.post("/v1/chat/completions", json=long)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "the org 'acme'" in rejected.json()["error"]["message"] and rejected.headers["retry-after"] == "1"
        other = await cluster.http.post(
            "/v1/chat/completions", json=waiting_body | {"messages": HELLO}, headers={"x-drw-org": "b"}
        )
        assert other.status_code == 200
        cluster.double.go.set()
        await waiting
        assert (
            await cluster.http.post("/v1/chat/completions", json=waiting_body | {"messages": HELLO})
        ).status_code == 200


HELLO = [{"role": "user", "content": "plain"}]
