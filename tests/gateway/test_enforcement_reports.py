"""Enforcement of limits by data planes: setting a limit waits for their reports and returns pending data planes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, ListKeysRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import (
    Block,
    Limit,
    ListLimitsRequest,
    RemoveLimitRequest,
    ReportEnforcementRequest,
    WatchLimitsRequest,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.api.gateway.v1.request_router_pb2 import ConfigurationReport, WatchConfigurationRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.gateway.rate_limiting import enforcement_reports
from drw.kernel.errors import Unavailable
from drw.kernel.rpc.context import acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.database.locks import until_locks_wait
from support.hosting import hosted
from support.json_types import JsonObject

OF_DESK: JsonObject = {"subject": Block.DESK, "desk": "research"}


@pytest.fixture(params=["together", "apart"])
async def host(
    profile: Profile, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Host]:
    monkeypatch.setattr(enforcement_reports, "LIVE_SECONDS", 600.0)  # the test sends no periodic reports
    async with hosted(profile, ["authentication", "rate_limiting"], request.param) as running:
        yield running


async def set_limit(host: Host, per_minute: int) -> list[str]:
    with acting_for(OPERATOR):
        limit = await host.client(RateLimitingClient).set_limit(Limit(requests_per_minute=per_minute, **OF_DESK))
    return list(limit.pending)


async def newest(host: Host) -> int:
    async for limits in host.client(RateLimitingClient).watch_limits(WatchLimitsRequest()):
        return limits.change
    raise AssertionError("nothing was sent")


async def report(host: Host, gone: tuple[str, ...] = (), **changes: int) -> None:
    planes = [ReportEnforcementRequest.DataPlane(name=name, change=change) for name, change in changes.items()]
    request = ReportEnforcementRequest(data_planes=planes, gone=gone)
    await host.client(RateLimitingClient).report_enforcement(request)


async def test_setting_a_limit_waits_for_live_data_planes_and_names_pending_ones(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 0.1)
    assert await set_limit(host, 1) == []  # no data plane has reported
    change = await newest(host)
    await report(host, one=change, two=change)
    assert await set_limit(host, 2) == ["one", "two"]
    await report(host, two=change + 1)
    assert await set_limit(host, 2) == ["one"]  # unchanged, and still pending at one data plane
    with acting_for(OPERATOR):
        request = RemoveLimitRequest(subject=Block.DESK, name="research")
        assert list((await host.client(RateLimitingClient).remove_limit(request)).pending) == ["one", "two"]
    await report(host, gone=("one",), two=change + 3)
    assert await set_limit(host, 3) == []
    monkeypatch.setattr(enforcement_reports, "LIVE_SECONDS", 0.0)
    assert await set_limit(host, 4) == []


async def test_a_report_of_a_data_plane_ends_the_wait(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 600.0)
    change = await newest(host)
    await report(host, one=change)
    set_task = asyncio.create_task(set_limit(host, 5))
    async with asyncio.timeout(30):
        async for limits in host.client(RateLimitingClient).watch_limits(WatchLimitsRequest()):
            if limits.change > change:
                assert [limit.requests_per_minute for limit in limits.limits] == [5]
                break
        assert not set_task.done()
        await report(host, one=change + 1)
        assert await set_task == []


async def test_a_slow_database_does_not_hide_pending_data_planes(
    profile: Profile, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 0.0)
    await report(host, one=await newest(host))
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("lock table rate_limiting.data_plane in access exclusive mode")
        set_task = asyncio.create_task(set_limit(host, 5))
        await until_locks_wait(profile, 1)
        connection.rollback()
    assert await set_task == ["one"]


async def test_reporting_a_configuration_does_not_wait_for_rate_limiting(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = ["authentication", "rate_limiting", "load_balancer", "request_router"]
    async with hosted(profile, services) as host:
        router, change = host.client(RequestRouterClient), await newest(host)
        async with aclosing(router.watch_configuration(WatchConfigurationRequest(data_plane="one"))) as states:
            await anext(states)
            with psycopg.connect(profile.postgres) as connection:
                connection.execute("lock table rate_limiting.data_plane in access exclusive mode")
                for number in range(3):
                    async with asyncio.timeout(20):  # below the timeout of a call to rate limiting
                        configuration_report = ConfigurationReport(data_plane="one", limits_change=change + number)
                        await router.report_configuration(configuration_report)
                connection.rollback()
            query = "select change from rate_limiting.data_plane where name = 'one'"
            with psycopg.connect(profile.postgres, autocommit=True) as connection:
                while connection.execute(query).fetchone() != (change + 2,):
                    await asyncio.sleep(0.02)


async def test_a_key_is_not_created_if_data_planes_do_not_enforce_its_limit(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement_reports, "WAIT_SECONDS", 0.1)
    await report(host, one=await newest(host))
    with acting_for(OPERATOR):
        keys, limiting = host.client(AuthenticationClient), host.client(RateLimitingClient)
        request = CreateKeyRequest(name="bounded", scopes=["models:read"], requests_per_minute=3)
        with pytest.raises(Unavailable, match="not enforced yet by the data plane 'one'; there is no new key"):
            await keys.create_key(request)
        assert not (await keys.list_keys(ListKeysRequest())).keys
        assert not (await limiting.list_limits(ListLimitsRequest())).limits
        await keys.create_key(
            CreateKeyRequest(name="default", scopes=["models:read"])
        )  # data planes enforce the default limit already
