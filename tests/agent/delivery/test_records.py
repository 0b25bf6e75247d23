"""Routes and upstreams set over REST and by command: precedence, rejections and persistence."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from agent.data_plane import DataPlaneHarness, GatewayHarness, running
from agent.upstream import DoubleVllm
from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.api.gateway.v1.request_router_pb2 import HeaderMatch, Route, Share
from drw.gateway.request_router.routes.validation import with_defaults
from drw.kernel.runtime.settings import Profile
from support.json_types import JsonObject

CHAT = "/v1/chat/completions"
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}
SCOPES = ("platform:admin", "platform:read", "models:invoke", "models:read")


@pytest.fixture
async def vllm() -> AsyncIterator[DoubleVllm]:
    """A running OpenAI-compatible upstream."""
    double = await DoubleVllm().start()
    yield double
    await double.stop()


@pytest.fixture
async def gateway_with_local_upstreams(data_plane_profile: Profile) -> AsyncIterator[GatewayHarness]:
    """A running gateway that allows upstreams on this machine."""
    section = {"load_balancer": {"allowed_upstreams": ["127.0.0.1"]}}
    async with running(GatewayHarness(data_plane_profile.model_copy(update={"services": section}))) as harness:
        yield harness


async def drw(gateway: GatewayHarness, secret: str, *arguments: str, code: int = 0) -> str:
    """Run `drw` against this gateway and return its output."""
    env = {**os.environ, "DRW_URL": gateway.url, "DRW_API_KEY": secret}
    command = [sys.executable, "-m", "drw.cli.main", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=env)
    out, err = await process.communicate()
    assert process.returncode == code, err.decode() + out.decode()
    return (out or err).decode()


async def test_routes_and_upstreams_are_configured_by_command(
    gateway_with_local_upstreams: GatewayHarness, vllm: DoubleVllm
) -> None:
    gateway = gateway_with_local_upstreams
    secret = await gateway.create_key(*SCOPES)
    output = await drw(gateway, secret, "upstreams", "set", "vllm", "--address", vllm.address)
    assert output == "the upstream vllm is set; applied by: 'test'\n"
    arguments = ["routes", "set", "llama", "--path", CHAT, "--model", "llama", "--pass-through", "--upstream", "vllm"]
    assert "applied by: 'test'" in await drw(gateway, secret, *arguments)
    async with gateway.client(secret) as client:
        answer = await client.post(CHAT, json=BODY)
        assert answer.headers["x-upstream"] == "vllm"
        other = await client.post(CHAT, json=BODY | {"model": "managed"})
        assert other.json()["path"] == CHAT
    route_list, upstream_list, explained, error = await asyncio.gather(
        drw(gateway, secret, "routes", "list"),
        drw(gateway, secret, "upstreams", "list"),
        drw(gateway, secret, "routes", "explain", CHAT, "--model", "llama"),
        drw(gateway, secret, "upstreams", "set", "far", "--address", "169.254.169.254:80", code=2),
    )
    assert "vllm (pass-through)" in route_list and "model llama" in route_list
    assert "closed" in upstream_list
    assert explained.startswith("route: llama\nwhy: ") and f"to: vllm at {vllm.address} (100 %)" in explained
    assert "limit: 600 requests a minute, keys without a limit of their own (the tightest)\n" in explained
    assert error.startswith("drw: ") and "metadata" in error
    async with gateway.client(await gateway.create_key("platform:read")) as client:
        assert (await client.delete("/api/v1/routes/llama")).status_code == 403
        assert (await client.get("/api/v1/routes")).status_code == 200
    assert "deleted" in await drw(gateway, secret, "routes", "delete", "llama")
    async with gateway.client(secret) as client:
        assert (await client.post(CHAT, json=BODY)).json()["path"] == CHAT


async def test_configured_routes_and_upstreams_survive_a_restart(
    gateway_with_local_upstreams: GatewayHarness, vllm: DoubleVllm
) -> None:
    gateway = gateway_with_local_upstreams
    async with gateway.client(await gateway.create_key(*SCOPES)) as client:
        before = await gateway.desired_version()
        assert (await client.put("/api/v1/upstreams/vllm", json={"addresses": [vllm.address]})).status_code == 200
        route = {"path": CHAT, "models": ["llama"], "pass_through": True, "upstream": "vllm"}
        assert (await client.put("/api/v1/routes/llama", json=route)).status_code == 200
        await gateway.wait_until_applied(before)
        await gateway.stop_envoy()
        await gateway.stop_agent()
        await gateway.stop_gateway()
        await gateway.start_gateway()
        gateway.start_agent()
        await gateway.start_envoy()
        await gateway.wait_until_applied()
        assert (await client.post(CHAT, json=BODY)).headers["x-upstream"] == "vllm"
        rollout = (await client.get("/api/v1/rollout")).json()
    (plane,) = rollout["data_planes"]
    assert (plane["data_plane"], plane["version"], plane["error"]) == ("test", rollout["version"], "")
    assert {h["upstream"]: h["circuit"] for h in plane["upstreams"]}["vllm"] == "CLOSED"


async def test_revocations_apply_although_envoy_rejects_a_route(data_plane: DataPlaneHarness) -> None:
    valid = with_defaults(Route(name="good", path="/v1/good", upstream="models", scopes=["models:read"]))
    assert (await data_plane.apply(routes=[valid])).error == ""
    invalid = Route(name="bad", path="/v1/bad", upstream="models", headers=[HeaderMatch(name="a\nb")])
    report = await data_plane.apply(routes=[valid, invalid], revoked=["key_gone"])
    assert "Envoy refuses the configuration" in report.error
    async with data_plane.client(data_plane.sign("key_gone", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 401
    async with data_plane.client(data_plane.sign("key_1", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 200
        assert (await client.get("/v1/bad")).status_code == 404
    await data_plane.stop_agent()
    data_plane.start_agent()  # a new agent that has only the files on disk
    report = await data_plane.apply(routes=[valid, invalid], revoked=["key_gone", "key_2"])
    assert "Envoy refuses the configuration" in report.error
    async with data_plane.client(data_plane.sign("key_2", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 401
    assert (await data_plane.apply(routes=[valid])).error == ""
    async with data_plane.client(data_plane.sign("key_2", "models:read")) as client:
        assert (await client.get("/v1/good")).status_code == 200


def configuration_change(number: int, a: DoubleVllm, b: DoubleVllm) -> JsonObject:
    """Return the arguments of change `number`: new weights, routes, upstreams, limits and revoked keys."""
    shares = [Share(upstream="a", weight=1 + number % 5), Share(upstream="b", weight=1 + number % 3)]
    routes = [
        Route(name="split", path="/v1/embeddings", methods=["POST"], split=shares, pass_through=True),
        Route(name="llama", path=CHAT, models=["llama"], pass_through=True, upstream="ab"[number % 2]),
        Route(name=f"new{number}", path=f"/v1/new{number}", upstream="models", scopes=["models:read"]),
    ]
    upstream_list = [
        Upstream(name="a", addresses=[a.address], max_requests=100 + number),
        Upstream(name="b", addresses=[b.address, *([a.address] if number % 3 else [])]),
    ]
    revoked = [f"key_{number}"]
    return {
        "routes": [with_defaults(r) for r in routes],
        "upstreams": upstream_list,
        "revoked": revoked,
        "key_limits": {"key_9": number + 1},
    }


async def test_changes_of_routes_weights_and_limits_fail_no_request(data_plane: DataPlaneHarness) -> None:
    a, b = await DoubleVllm("a").start(), await DoubleVllm("b").start()
    statuses: Counter[int] = Counter()
    done = asyncio.Event()
    assert (await data_plane.apply(**configuration_change(0, a, b))).error == ""

    async def send_requests(path: str, body: JsonObject) -> None:
        async with data_plane.client(data_plane.sign("key_busy", "models:invoke")) as client:
            while not done.is_set():
                statuses[(await client.post(path, json=body)).status_code] += 1

    async with asyncio.TaskGroup() as tasks:
        for path, body in (("/v1/embeddings", {"model": "x", "input": "x"}), (CHAT, BODY), (CHAT, {"model": "m"})):
            tasks.create_task(send_requests(path, body))
        for number in range(1, 13):
            assert (await data_plane.apply(**configuration_change(number, a, b))).error == ""
        done.set()
    await a.stop()
    await b.stop()
    assert statuses.keys() == {200} and statuses[200] > 100
    assert a.received and b.received
    assert all(count == 0 for count in (await data_plane.admin().rejections()).values())
