"""Routes and upstreams made by API and command, on the whole front door: what counts, what is refused, what stays."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.data_plane import Fed, Front, running
from agent.upstream import DoubleVllm
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import HeaderMatch, Route, Share
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.runtime.settings import Profile

CHAT = "/v1/chat/completions"
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}
SCOPES = ("platform:admin", "platform:read", "models:invoke", "models:read")


@pytest.fixture
async def vllm() -> AsyncIterator[DoubleVllm]:
    """An upstream of others, running."""
    double = await DoubleVllm().start()
    yield double
    await double.stop()


@pytest.fixture
async def open_front(front_profile: Profile) -> AsyncIterator[Front]:
    """Everything, running, with upstreams allowed on this machine."""
    section = {"load_balancer": {"allowed_upstreams": ["127.0.0.1"]}}
    async with running(Front(front_profile.model_copy(update={"services": section}))) as found:
        yield found


async def drw(front: Front, secret: str, *words: str, code: int = 0) -> str:
    """Run the command against this front door; return what it said."""
    env = {**os.environ, "DRW_URL": front.url, "DRW_API_KEY": secret}
    command = [sys.executable, "-m", "drw.cli.main", *words]
    done = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=env)
    out, err = await done.communicate()
    assert done.returncode == code, err.decode() + out.decode()
    return (out or err).decode()


async def test_routes_and_upstreams_are_made_by_command(open_front: Front, vllm: DoubleVllm) -> None:
    front = open_front
    secret = await front.key(*SCOPES)
    said = await drw(front, secret, "upstreams", "set", "vllm", "--address", vllm.where)
    assert said == "the upstream vllm is set; applied by: 'test'\n"
    words = ["routes", "set", "llama", "--path", CHAT, "--model", "llama", "--pass-through", "--upstream", "vllm"]
    assert "applied by: 'test'" in await drw(front, secret, *words)
    async with front.client(secret) as client:
        answer = await client.post(CHAT, json=BODY)
        assert answer.headers["x-upstream"] == "vllm"
        other = await client.post(CHAT, json=BODY | {"model": "managed"})
        assert other.json()["path"] == CHAT
    listed, ups, told, wrong = await asyncio.gather(
        drw(front, secret, "routes", "list"),
        drw(front, secret, "upstreams", "list"),
        drw(front, secret, "routes", "explain", CHAT, "--model", "llama"),
        drw(front, secret, "upstreams", "set", "far", "--address", "169.254.169.254:80", code=2),
    )
    assert "vllm (pass-through)" in listed and "model llama" in listed
    assert "closed" in ups
    assert told.startswith("route: llama\nwhy: ") and f"to: vllm at {vllm.where} (100 %)" in told
    assert "limit: 600 requests a minute, keys without a limit of their own (the tightest)\n" in told
    assert wrong.startswith("drw: ") and "metadata" in wrong
    async with front.client(await front.key("platform:read")) as client:
        assert (await client.delete("/api/v1/routes/llama")).status_code == 403
        assert (await client.get("/api/v1/routes")).status_code == 200
    assert "deleted" in await drw(front, secret, "routes", "delete", "llama")
    async with front.client(secret) as client:
        assert (await client.post(CHAT, json=BODY)).json()["path"] == CHAT


async def test_what_is_made_survives_a_restart_of_everything(open_front: Front, vllm: DoubleVllm) -> None:
    front = open_front
    async with front.client(await front.key(*SCOPES)) as client:
        before = await front.wanted()
        assert (await client.put("/api/v1/upstreams/vllm", json={"addresses": [vllm.where]})).status_code == 200
        made = {"path": CHAT, "models": ["llama"], "pass_through": True, "upstream": "vllm"}
        assert (await client.put("/api/v1/routes/llama", json=made)).status_code == 200
        await front.settled(before)
        await front.stop_envoy()
        await front.stop_agent()
        await front.stop_gateway()
        await front.start_gateway()
        front.start_agent()
        await front.start_envoy()
        await front.settled()
        assert (await client.post(CHAT, json=BODY)).headers["x-upstream"] == "vllm"
        rollout = (await client.get("/api/v1/rollout")).json()
    (plane,) = rollout["data_planes"]
    assert (plane["data_plane"], plane["version"], plane["error"]) == ("test", rollout["version"], "")
    assert {h["upstream"]: h["circuit"] for h in plane["upstreams"]}["vllm"] == "CLOSED"


async def test_a_route_that_envoy_refuses_keeps_no_revoked_key_in_use(fed: Fed) -> None:
    good = with_defaults(Route(name="good", path="/v1/good", upstream="models", scopes=["models:read"]))
    assert (await fed.want(records=[good])).error == ""
    bad = Route(name="bad", path="/v1/bad", upstream="models", headers=[HeaderMatch(name="a\nb")])
    report = await fed.want(records=[good, bad], revoked=["key_gone"])
    assert "Envoy refuses the configuration" in report.error
    async with fed.client(fed.sign("key_gone", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 401
    async with fed.client(fed.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 200
        assert (await client.get("/v1/bad")).status_code == 404
    await fed.stop_agent()
    fed.start_agent()  # one that knows only what is on the disk
    report = await fed.want(records=[good, bad], revoked=["key_gone", "key_2"])
    assert "Envoy refuses the configuration" in report.error
    async with fed.client(fed.sign("key_2", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 401
    assert (await fed.want(records=[good])).error == ""
    async with fed.client(fed.sign("key_2", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 200


def change(number: int, a: DoubleVllm, b: DoubleVllm) -> dict[str, Any]:
    """Return the state after the change of this number: weights, routes, upstreams, limits and revoked keys differ."""
    shares = [Share(upstream="a", weight=1 + number % 5), Share(upstream="b", weight=1 + number % 3)]
    routes = [
        Route(name="split", path="/v1/embeddings", methods=["POST"], split=shares, pass_through=True),
        Route(name="llama", path=CHAT, models=["llama"], pass_through=True, upstream="ab"[number % 2]),
        Route(name=f"new{number}", path=f"/v1/new{number}", upstream="models", scopes=["models:read"]),
    ]
    ups = [
        Upstream(name="a", addresses=[a.where], max_requests=100 + number),
        Upstream(name="b", addresses=[b.where, *([a.where] if number % 3 else [])]),
    ]
    revoked = [f"key_{number}"]
    return {
        "records": [with_defaults(r) for r in routes],
        "made": ups,
        "revoked": revoked,
        "own": {"key_9": number + 1},
    }


async def test_changes_of_routes_weights_and_limits_fail_no_request(fed: Fed) -> None:
    a, b = await DoubleVllm("a").start(), await DoubleVllm("b").start()
    statuses: Counter[int] = Counter()
    done = asyncio.Event()
    assert (await fed.want(**change(0, a, b))).error == ""

    async def load(path: str, body: dict[str, Any]) -> None:
        async with fed.client(fed.sign("key_busy", "models:invoke")) as client:
            while not done.is_set():
                statuses[(await client.post(path, json=body)).status_code] += 1

    async with asyncio.TaskGroup() as tasks:
        for path, body in (("/v1/embeddings", {"model": "x", "input": "x"}), (CHAT, BODY), (CHAT, {"model": "m"})):
            tasks.create_task(load(path, body))
        for number in range(1, 13):
            assert (await fed.want(**change(number, a, b))).error == ""
        done.set()
    await a.stop()
    await b.stop()
    assert statuses.keys() == {200} and statuses[200] > 100
    assert a.got and b.got
    assert all(count == 0 for count in (await fed.admin().rejections()).values())
