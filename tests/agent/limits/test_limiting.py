"""Request limits in the data plane: enforcement, changes, headers and reported pending data planes."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack

import httpx
import pytest

from agent.data_plane import OPERATOR, DataPlaneHarness, GatewayHarness
from drw.agent.xds.http_filters.request_limits import header_line, limit_lines
from drw.api.gateway.v1.authentication_pb2 import CreatedKey, CreateKeyRequest, ListKeysRequest, RotateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits, RemoveLimitRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import DeleteRouteRequest, Route
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.gateway.rate_limiting import enforcement_reports
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import acting_for
from support.json_types import Json, JsonObject
from support.parts import until

LIST = "/v1/models"
SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")
READ_ROUTE: JsonObject = {"scopes": ["models:read"], "upstream": "models"}
DESK_SUBJECT = {"subject": Block.DESK, "desk": "research"}


async def set_limit(gateway: GatewayHarness, per_minute: int, **subject: Json) -> Limit:
    with acting_for(OPERATOR):
        limiting = gateway.host.client(RateLimitingClient)
        return await limiting.set_limit(Limit(requests_per_minute=per_minute, **subject))


async def remove_limit(gateway: GatewayHarness, **subject: Json) -> None:
    with acting_for(OPERATOR):
        await gateway.host.client(RateLimitingClient).remove_limit(RemoveLimitRequest(**subject))


async def create_key(gateway: GatewayHarness, **fields: Json) -> CreatedKey:
    request = CreateKeyRequest(name="test", scopes=["models:read", "keys:write"], **fields)
    with acting_for(OPERATOR):
        return await gateway.host.client(AuthenticationClient).create_key(request)


async def send_requests(gateway: GatewayHarness, secret: str, times: int) -> list[int]:
    async with gateway.client(secret) as client:
        return [(await client.get(LIST)).status_code for _ in range(times)]


async def count_accepted(gateway: GatewayHarness, secret: str, maximum: int = 20) -> int:
    """Return how many of `maximum` requests of a key are accepted."""
    statuses = await send_requests(gateway, secret, maximum)
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


async def test_tightest_limit_of_key_desk_and_org_applies_and_is_in_the_headers(gateway: GatewayHarness) -> None:
    key, other = await gateway.create_key("models:read"), await gateway.create_key("models:read")
    await set_limit(gateway, 5, subject=Block.ORG)
    await set_limit(gateway, 3, **DESK_SUBJECT)
    async with gateway.client(key) as first_client, gateway.client(other) as second_client:
        answers = [await client.get(LIST) for client in (first_client, second_client, first_client, second_client)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["2", "1", "0", "0"]
    assert {a.headers["x-ratelimit-limit-requests"] for a in answers} == {"3"}
    for answer in answers:
        seconds = answer.headers["x-ratelimit-reset"]
        assert 1 <= int(seconds) <= 61
        assert answer.headers["x-ratelimit-reset-requests"] == f"{seconds}s"
        assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=60'
        assert answer.headers["ratelimit"].endswith(f";t={seconds}")
        assert answer.headers.get("retry-after") in ((seconds,) if answer.status_code == 429 else (None,))
    assert answers[1].headers["ratelimit"].startswith('"requests";r=1;')


async def test_responses_without_a_limit_have_no_rate_limit_headers(gateway: GatewayHarness) -> None:
    async with gateway.client() as client:
        for answer in (await client.get("/healthz"), await client.get(LIST)):
            assert not [name for name in answer.headers if name.endswith("-requests") or name.startswith("ratelimit")]


@pytest.mark.parametrize("algorithm", [Limit.FIXED, Limit.SLIDING])
async def test_burst_may_use_the_whole_limit_and_no_more(gateway: GatewayHarness, algorithm: int) -> None:
    secret = await gateway.create_key("models:read")
    await set_limit(gateway, 200, algorithm=algorithm, **DESK_SUBJECT)
    # Concurrent clients, so that Envoy spreads them over its workers.
    workers = await asyncio.gather(*(send_requests(gateway, secret, 25) for _ in range(16)))
    statuses = [status for worker in workers for status in worker]
    assert (statuses.count(200), statuses.count(429)) == (200, 200)
    assert "envoy_drw_requests_over_limit{} 200" in (await gateway.admin().prometheus()).decode()


async def test_changed_limit_counts_earlier_requests(gateway: GatewayHarness) -> None:
    created = await create_key(gateway, requests_per_minute=5)
    subject = {"key": created.key.id, "desk": "research"}
    assert await count_accepted(gateway, created.secret) == 5
    await set_limit(gateway, 10, **subject)
    assert await count_accepted(gateway, created.secret) == 5
    await set_limit(gateway, 3, **subject)
    assert await count_accepted(gateway, created.secret) == 0
    await remove_limit(gateway, subject=Block.KEY, name=created.key.id)
    assert await count_accepted(gateway, created.secret, 4) == 4
    await set_limit(gateway, 14, **subject)
    assert await count_accepted(gateway, created.secret) == 0
    await set_limit(gateway, 15, **subject)
    assert await count_accepted(gateway, created.secret) == 1


async def test_rotated_key_inherits_the_remaining_limit(gateway: GatewayHarness) -> None:
    created = await create_key(gateway, requests_per_minute=5)
    assert await count_accepted(gateway, created.secret, 3) == 3
    for remaining in (2, 1):
        with acting_for(OPERATOR):
            request = RotateKeyRequest(id=created.key.id, overlap_seconds=600)
            created = await gateway.host.client(AuthenticationClient).rotate_key(request)
        assert await send_requests(gateway, created.secret, 1) == [200]
        async with gateway.client(created.secret) as client:
            answer = await client.get("/v1/nothing-is-here") if remaining == 1 else None
        assert answer is None or answer.status_code == 429
    assert await count_accepted(gateway, created.secret) == 0


async def test_key_limit_does_not_apply_to_the_same_name_in_another_org(data_plane: DataPlaneHarness) -> None:
    assert (await data_plane.apply(key_limits={"cert:pricing": 2})).error == ""
    own_org, other_org = (data_plane.sign("cert:pricing", "models:read", org=org) for org in ("local", "other"))
    assert await count_accepted(data_plane, other_org, 9) == 9
    assert await count_accepted(data_plane, own_org, 9) == 2


async def test_counters_survive_configuration_changes_and_an_agent_restart(data_plane: DataPlaneHarness) -> None:
    limits = {"key_slow": 2}
    await data_plane.apply(key_limits=limits)
    secret = data_plane.sign("key_slow", "models:read")
    assert await count_accepted(data_plane, secret, 3) == 2
    credentials = {"desks": [], "revoked": ["key_other"]}
    for change in (
        {"static_routes": (SPARE,)},
        credentials,
        {"blocks": [Block(subject="KEY", org="local", name="x")]},
        {},
    ):
        assert (await data_plane.apply(key_limits=limits | {f"key_{len(str(change))}": 7}, **change)).error == ""
        assert await count_accepted(data_plane, secret, 1) == 0
    await data_plane.stop_agent()
    data_plane.start_agent()
    assert (await data_plane.apply(key_limits=limits, static_routes=(SPARE,), default_limit=1000)).error == ""
    assert await count_accepted(data_plane, secret, 1) == 0
    assert await count_accepted(data_plane, data_plane.sign("key_new", "models:read"), 3) == 3


async def test_random_changes_never_accept_more_than_the_highest_limit(gateway: GatewayHarness) -> None:
    """Callers of one desk send requests while keys, limits and routes are created, changed and deleted."""
    seed = random.randrange(1 << 32)
    rng, router = random.Random(seed), gateway.host.client(RequestRouterClient)
    limits = [rng.randint(5, 40)]
    await set_limit(gateway, limits[0], **DESK_SUBJECT)
    keys = [await create_key(gateway) for _ in range(2)]
    statuses: list[int] = []
    done = asyncio.Event()

    async def send_until_done() -> None:
        async with gateway.client() as client:
            while not done.is_set():
                headers = {"authorization": f"Bearer {rng.choice(keys).secret}"}
                statuses.append((await client.get(LIST, headers=headers)).status_code)

    async def create_limited_key() -> None:
        keys.append(await create_key(gateway, requests_per_minute=rng.randint(1, 900)))

    async def change_key_limit() -> None:
        await set_limit(gateway, rng.randint(1, 900), key=rng.choice(keys).key.id, desk="research")

    async def change_desk_limit() -> None:
        limits.append(rng.randint(1, max(limits) + 5))
        await set_limit(gateway, limits[-1], **DESK_SUBJECT)

    async def rotate_key() -> None:
        with acting_for(OPERATOR):
            old = keys.pop(rng.randrange(len(keys)))
            request = RotateKeyRequest(id=old.key.id, overlap_seconds=600)
            keys.append(await gateway.host.client(AuthenticationClient).rotate_key(request))

    async def change_route() -> None:
        with acting_for(OPERATOR):
            await router.set_route(Route(name="spare", path=f"/v1/spare{rng.randint(1, 99)}", **READ_ROUTE))

    async def delete_route() -> None:
        with acting_for(OPERATOR):
            await router.set_route(Route(name="gone", path="/v1/gone", **READ_ROUTE))
            await router.delete_route(DeleteRouteRequest(name="gone"))

    async with asyncio.timeout(55), asyncio.TaskGroup() as callers:  # within a minute no request leaves the window
        for _ in range(2):
            callers.create_task(send_until_done())
        for _ in range(20):
            change = rng.choice(
                [create_limited_key, change_key_limit, change_desk_limit, rotate_key, change_route, delete_route]
            )
            await change()
            assert statuses.count(200) <= max(limits), (seed, change.__name__)
        await set_limit(gateway, max(limits), **DESK_SUBJECT)
        keys.append(await create_key(gateway))
        await until(lambda: asyncio.sleep(0, statuses.count(200) >= max(limits)), "the remaining limit")
        done.set()
    assert statuses.count(200) == max(limits)


async def test_set_limit_waits_for_enforcement_or_names_pending_data_planes(
    gateway: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 25.0)
    secret = await gateway.create_key("models:read")
    assert (await set_limit(gateway, 1, **DESK_SUBJECT)).pending == []
    assert await send_requests(gateway, secret, 2) == [200, 429]
    gateway.signal_envoy(signal.SIGSTOP)
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 0.5)
    try:
        assert (await set_limit(gateway, 2, **DESK_SUBJECT)).pending == ["test"]
        with pytest.raises(Unavailable, match="not enforced yet by the data plane 'test'"):
            await create_key(gateway, requests_per_minute=7)
        with acting_for(OPERATOR):
            listed = await gateway.host.client(AuthenticationClient).list_keys(ListKeysRequest())
        assert 7 not in [key.requests_per_minute for key in listed.keys]
    finally:
        gateway.signal_envoy(signal.SIGCONT)
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 25.0)
    await create_key(gateway, requests_per_minute=7)


async def test_set_limit_does_not_wait_for_a_stopped_data_plane(
    gateway: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 30)
    await set_limit(gateway, 1, **DESK_SUBJECT)
    await gateway.stop_envoy()
    assert (await set_limit(gateway, 2, **DESK_SUBJECT)).pending == []
    await gateway.stop_agent()
    assert (await set_limit(gateway, 3, **DESK_SUBJECT)).pending == []


async def test_delivered_limits_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.agent.xds.http_filters.request_limits.MAX_LIMITS", 2)
    limits = Limits(
        limits=[Limit(key=f"key_{number}", org="o", requests_per_minute=number) for number in (9, 3, 5)],
        default_requests_per_minute=700,
        data_planes=3,
    )
    assert limit_lines(limits, lambda subject: f"{len(subject):016x}") == [f"{11:016x}{1:08x}{11:016x}\n"] * 2
    assert header_line(limits, bytes(16), 2) == f"{'0' * 32}{233:08x}{2:08x}\n"


async def test_many_callers_are_counted_separately(data_plane: DataPlaneHarness) -> None:
    """There are so many that some share a slot of the counter table."""
    await data_plane.apply(default_limit=1)
    tokens = [data_plane.sign(f"key_{number}", "models:read") for number in range(600)]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(data_plane.client()) for _ in range(8)]

        async def send_all(client: httpx.AsyncClient, tokens: list[str]) -> list[int]:
            return [(await client.get(LIST, headers={"authorization": f"Bearer {t}"})).status_code for t in tokens]

        for status in (200, 429):
            worker = await asyncio.gather(*(send_all(c, tokens[n::8]) for n, c in enumerate(clients)))
            assert {s for statuses in worker for s in statuses} == {status}
