"""Limits of requests in the data plane: of keys, desks and orgs, fixed and sliding, and what clients are told."""

from __future__ import annotations

from dataclasses import replace

from agent.conftest import OPERATOR
from drw.agent.limiting import limits
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.kernel.call import acting_for


async def set_limit(front, **fields) -> None:
    before = await front.wanted()
    with acting_for(replace(OPERATOR, org="local")):
        await front.host.client(RateLimitingClient).set_limit(Limit(**fields))
    await front.settled(before)


async def test_the_tightest_of_key_desk_and_org_counts_and_is_told(front):
    key, other = await front.key("models:read"), await front.key("models:read")
    await set_limit(front, subject=Block.ORG, requests_per_minute=5)
    await set_limit(front, subject=Block.DESK, desk="research", requests_per_minute=3)
    async with front.client(key) as one, front.client(other) as two:
        answers = [await client.get("/v1/models") for client in (one, two, one, two)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["2", "1", "0", "0"]
    assert {a.headers["x-ratelimit-limit-requests"] for a in answers} == {"3"}
    assert answers[0].headers["x-ratelimit-reset-requests"] == "0s"
    assert answers[3].headers["x-ratelimit-reset-requests"] == f"{answers[3].headers['retry-after']}s"
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert answers[1].headers["ratelimit"] == '"requests";r=1;t=0'


async def test_where_no_limit_binds_no_header_speaks_of_one(front):
    async with front.client() as client:
        for answer in (await client.get("/healthz"), await client.get("/v1/models")):
            assert not [name for name in answer.headers if name.endswith("-requests") or name.startswith("ratelimit")]


async def test_a_sliding_limit_holds_a_small_burst(front):
    secret = await front.key("models:read")
    await set_limit(front, subject=Block.DESK, desk="research", requests_per_minute=20, algorithm=Limit.SLIDING)
    async with front.client(secret) as client:
        statuses = [(await client.get("/v1/models")).status_code for _ in range(4)]
    assert statuses[:2] == [200, 200] and 429 in statuses


def test_no_60_seconds_have_more_than_a_sliding_limit_and_planes_share():
    for wanted in (1, 2, 9, 10, 600, 999_999):
        for planes in (1, 3):
            own = Limit(key="k", requests_per_minute=wanted, algorithm=Limit.SLIDING)
            made = limits(Limits(default_requests_per_minute=9, limits=[own], data_planes=planes))
            bucket = made["descriptors"][0]["token_bucket"]
            share = max(1, wanted // planes)
            # From a full bucket, in less than 60 seconds: the burst and, but for the last of it, what refills.
            assert bucket["max_tokens"] + bucket["tokens_per_fill"] - (share == 1) <= share
            assert made["descriptors"][-1]["token_bucket"]["max_tokens"] == 9 // planes
