"""Limits of requests in the data plane: what they let through, while everything changes, and what clients are told."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agent.data_plane import OPERATOR, Fed, Front
from drw.agent.xds.http_filters.request_limits import header_line, limit_lines
from drw.api.gateway.v1.authentication_pb2 import CreatedKey, CreateKeyRequest, ListKeysRequest, RotateKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits, RemoveLimitRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import DeleteRouteRequest, Route
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.gateway.rate_limiting import enforcement
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import acting_for
from support.parts import until

LIST = "/v1/models"
SPARE = RouteSettings(name="spare", path="/v1/spare", methods=("GET",), scopes=("models:read",), upstream="models")
READ: dict[str, Any] = {"scopes": ["models:read"], "upstream": "models"}
DESK = {"subject": Block.DESK, "desk": "research"}


async def set_limit(front: Front, per_minute: int, **subject) -> Limit:
    with acting_for(OPERATOR):
        limiting = front.host.client(RateLimitingClient)
        return await limiting.set_limit(Limit(requests_per_minute=per_minute, **subject))


async def remove_limit(front: Front, **subject) -> None:
    with acting_for(OPERATOR):
        await front.host.client(RateLimitingClient).remove_limit(RemoveLimitRequest(**subject))


async def create(front: Front, **fields) -> CreatedKey:
    request = CreateKeyRequest(name="test", scopes=["models:read", "keys:write"], **fields)
    with acting_for(OPERATOR):
        return await front.host.client(AuthenticationClient).create_key(request)


async def ask(front: Front, secret: str, times: int) -> list[int]:
    async with front.client(secret) as client:
        return [(await client.get(LIST)).status_code for _ in range(times)]


async def passes(front: Front, secret: str, most: int = 20) -> int:
    """Return how many requests of a key pass until one is refused, or `most`."""
    statuses = await ask(front, secret, most)
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


async def test_the_tightest_of_key_desk_and_org_counts_and_is_told(front: Front) -> None:
    key, other = await front.key("models:read"), await front.key("models:read")
    await set_limit(front, 5, subject=Block.ORG)
    await set_limit(front, 3, **DESK)
    async with front.client(key) as one, front.client(other) as two:
        answers = [await client.get(LIST) for client in (one, two, one, two)]
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


async def test_where_no_limit_binds_no_header_speaks_of_one(front: Front) -> None:
    async with front.client() as client:
        for answer in (await client.get("/healthz"), await client.get(LIST)):
            assert not [name for name in answer.headers if name.endswith("-requests") or name.startswith("ratelimit")]


@pytest.mark.parametrize("algorithm", [Limit.FIXED, Limit.SLIDING])
async def test_all_of_a_limit_may_come_at_once_and_not_one_more(front: Front, algorithm: Any) -> None:
    secret = await front.key("models:read")
    await set_limit(front, 200, algorithm=algorithm, **DESK)
    workers = await asyncio.gather(*(ask(front, secret, 25) for _ in range(16)))  # spread over Envoy's workers
    statuses = [status for found in workers for status in found]
    assert (statuses.count(200), statuses.count(429)) == (200, 200)
    assert "envoy_drw_requests_over_limit{} 200" in (await front.admin().prometheus()).decode()


async def test_a_changed_limit_applies_to_what_has_passed(front: Front) -> None:
    made = await create(front, requests_per_minute=5)
    own = {"key": made.key.id, "desk": "research"}
    assert await passes(front, made.secret) == 5
    await set_limit(front, 10, **own)
    assert await passes(front, made.secret) == 5
    await set_limit(front, 3, **own)
    assert await passes(front, made.secret) == 0
    await remove_limit(front, subject=Block.KEY, name=made.key.id)
    assert await passes(front, made.secret, 4) == 4
    await set_limit(front, 14, **own)
    assert await passes(front, made.secret) == 0
    await set_limit(front, 15, **own)
    assert await passes(front, made.secret) == 1


async def test_a_successor_has_what_is_left_of_its_line(front: Front) -> None:
    made = await create(front, requests_per_minute=5)
    assert await passes(front, made.secret, 3) == 3
    for left in (2, 1):
        with acting_for(OPERATOR):
            request = RotateKeyRequest(id=made.key.id, overlap_seconds=600)
            made = await front.host.client(AuthenticationClient).rotate_key(request)
        assert await ask(front, made.secret, 1) == [200]
        async with front.client(made.secret) as client:
            answer = await client.get("/v1/nothing-is-here") if left == 1 else None
        assert answer is None or answer.status_code == 429
    assert await passes(front, made.secret) == 0


async def test_the_limit_of_a_key_binds_no_key_of_that_name_in_another_org(fed: Fed) -> None:
    assert (await fed.want(own={"cert:pricing": 2})).error == ""
    ours, theirs = (fed.sign("cert:pricing", "models:read", org=org) for org in ("local", "other"))
    assert await passes(fed, theirs, 9) == 9
    assert await passes(fed, ours, 9) == 2


async def test_counts_outlive_every_kind_of_change_and_the_agent(fed: Fed) -> None:
    own = {"key_slow": 2}
    await fed.want(own=own)
    secret = fed.sign("key_slow", "models:read")
    assert await passes(fed, secret, 3) == 2
    newer = {"desks": [], "revoked": ["key_other"]}
    for change in ({"more": (SPARE,)}, newer, {"blocks": [Block(subject="KEY", org="local", name="x")]}, {}):
        assert (await fed.want(own=own | {f"key_{len(str(change))}": 7}, **change)).error == ""
        assert await passes(fed, secret, 1) == 0
    await fed.stop_agent()
    fed.start_agent()
    assert (await fed.want(own=own, more=(SPARE,), default=1000)).error == ""
    assert await passes(fed, secret, 1) == 0
    assert await passes(fed, fed.sign("key_new", "models:read"), 3) == 3


async def test_no_sequence_of_changes_lets_more_pass_than_the_highest_limit(front: Front) -> None:
    """Callers of one desk ask all the time, while keys are made, limits and routes change and go."""
    seed = random.randrange(1 << 32)
    draw, router = random.Random(seed), front.host.client(RequestRouterClient)
    limits = [draw.randint(5, 40)]
    await set_limit(front, limits[0], **DESK)
    made = [await create(front) for _ in range(2)]
    statuses: list[int] = []
    done = asyncio.Event()

    async def call() -> None:
        async with front.client() as client:
            while not done.is_set():
                headers = {"authorization": f"Bearer {draw.choice(made).secret}"}
                statuses.append((await client.get(LIST, headers=headers)).status_code)

    async def new_key() -> None:
        made.append(await create(front, requests_per_minute=draw.randint(1, 900)))

    async def key_limit() -> None:
        await set_limit(front, draw.randint(1, 900), key=draw.choice(made).key.id, desk="research")

    async def desk_limit() -> None:
        limits.append(draw.randint(1, max(limits) + 5))
        await set_limit(front, limits[-1], **DESK)

    async def rotation() -> None:
        with acting_for(OPERATOR):
            old = made.pop(draw.randrange(len(made)))
            request = RotateKeyRequest(id=old.key.id, overlap_seconds=600)
            made.append(await front.host.client(AuthenticationClient).rotate_key(request))

    async def route() -> None:
        with acting_for(OPERATOR):
            await router.set_route(Route(name="spare", path=f"/v1/spare{draw.randint(1, 99)}", **READ))

    async def no_route() -> None:
        with acting_for(OPERATOR):
            await router.set_route(Route(name="gone", path="/v1/gone", **READ))
            await router.delete_route(DeleteRouteRequest(name="gone"))

    async with asyncio.timeout(55), asyncio.TaskGroup() as callers:  # in less than a minute nothing leaves the window
        for _ in range(2):
            callers.create_task(call())
        for _ in range(20):
            step = draw.choice([new_key, key_limit, desk_limit, rotation, route, no_route])
            await step()
            assert statuses.count(200) <= max(limits), (seed, step.__name__)
        await set_limit(front, max(limits), **DESK)
        made.append(await create(front))
        await until(lambda: asyncio.sleep(0, statuses.count(200) >= max(limits)), "what is left of the limit")
        done.set()
    assert statuses.count(200) == max(limits)


async def test_a_limit_is_answered_when_it_is_enforced_or_says_where_it_is_not(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement, "WAIT_SECONDS", 25.0)
    secret = await front.key("models:read")
    assert (await set_limit(front, 1, **DESK)).pending == []
    assert await ask(front, secret, 2) == [200, 429]
    front.signal_envoy(signal.SIGSTOP)
    monkeypatch.setattr(enforcement, "WAIT_SECONDS", 0.5)
    try:
        assert (await set_limit(front, 2, **DESK)).pending == ["test"]
        with pytest.raises(Unavailable, match="not enforced yet by the data plane 'test'"):
            await create(front, requests_per_minute=7)
        with acting_for(OPERATOR):
            listed = await front.host.client(AuthenticationClient).list_keys(ListKeysRequest())
        assert 7 not in [key.requests_per_minute for key in listed.keys]
    finally:
        front.signal_envoy(signal.SIGCONT)
    monkeypatch.setattr(enforcement, "WAIT_SECONDS", 25.0)
    await create(front, requests_per_minute=7)


async def test_nobody_waits_for_a_data_plane_that_is_away(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "WAIT_SECONDS", 30)
    await set_limit(front, 1, **DESK)
    await front.stop_envoy()
    assert (await set_limit(front, 2, **DESK)).pending == []
    await front.stop_agent()
    assert (await set_limit(front, 3, **DESK)).pending == []


async def test_no_more_limits_are_delivered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drw.agent.xds.http_filters.request_limits.MAX_LIMITS", 2)
    wanted = Limits(
        limits=[Limit(key=f"key_{number}", org="o", requests_per_minute=number) for number in (9, 3, 5)],
        default_requests_per_minute=700,
        data_planes=3,
    )
    assert limit_lines(wanted, lambda subject: f"{len(subject):016x}") == [f"{11:016x}{1:08x}{11:016x}\n"] * 2
    assert header_line(wanted, bytes(16), 2) == f"{'0' * 32}{233:08x}{2:08x}\n"


async def test_many_callers_are_counted_each_by_itself(fed: Fed) -> None:
    """So many that some of them share a place in the memory of Envoy."""
    await fed.want(default=1)
    tokens = [fed.sign(f"key_{number}", "models:read") for number in range(600)]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(fed.client()) for _ in range(8)]

        async def ask_all(client, part: list[str]) -> list[int]:
            return [(await client.get(LIST, headers={"authorization": f"Bearer {t}"})).status_code for t in part]

        for status in (200, 429):
            found = await asyncio.gather(*(ask_all(c, tokens[n::8]) for n, c in enumerate(clients)))
            assert {s for statuses in found for s in statuses} == {status}
