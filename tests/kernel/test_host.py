"""A process that fails while it starts or stops leaves nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.host import Host, ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.models.experiments import service
from support.measured import measured


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets a test say what a service does when it starts and stops; gives the list of what ran."""
    ran: list[str] = []

    def with_hooks(*failing: str) -> list[str]:
        build = service.build

        async def build_with_hooks(scope: ServiceContext):
            database = await scope.database()
            await database.all("select 1")
            for when, add in (("start", scope.on_start), ("stop", scope.on_stop)):
                for name in (f"{when} 1", f"{when} 2"):
                    add(hook(name, fails=name in failing))
            return await build(scope)

        def hook(name: str, fails: bool):
            async def run() -> None:
                ran.append(name)
                if fails:
                    raise ZeroDivisionError(name)

            return run

        monkeypatch.setattr(service, "build", build_with_hooks)
        return ran

    return with_hooks


async def test_a_start_that_fails_can_be_stopped(profile: Profile, hooks: Callable[..., list[str]]) -> None:
    ran = hooks("start 1")
    host = Host(profile, "test", ["experiments"])
    with pytest.raises(ZeroDivisionError):
        await host.start()
    await host.stop(grace=0)
    assert ran == ["start 1", "stop 2", "stop 1"]
    gc.collect()  # a connection or a server left open would warn here


async def test_a_stop_that_fails_stops_the_rest(profile: Profile, hooks: Callable[..., list[str]]) -> None:
    ran = hooks("stop 2")
    host = Host(profile, "test", ["experiments"])
    await host.start()
    with pytest.raises(ZeroDivisionError, match="stop 2"):
        await host.stop(grace=0)
    assert ran == ["start 1", "start 2", "stop 2", "stop 1"]
    gc.collect()


async def test_a_service_that_cannot_be_measured_is_not_ready_and_the_others_are_measured(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = service.build

    async def build_with_trouble(scope: ServiceContext):
        async def away() -> None:
            raise Unavailable("the database does not answer")

        scope.measure(away)
        return await build(scope)

    monkeypatch.setattr(service, "build", build_with_trouble)
    host = Host(profile, "test", ["experiments", "discovery"])
    await host.start()
    found = await measured(host)
    await host.stop(grace=0)
    assert found['drw_service_ready{service="experiments"}'] == 0
    assert found['drw_service_ready{service="discovery"}'] == 1
