"""Host: hooks that fail at start, stop or scrape."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from drw.kernel.errors import Unavailable
from drw.kernel.runtime.host import Host, ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.models.experiments import service
from drw.models.experiments.service import Experiments
from support.telemetry.metrics import scrape


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Returns a function that installs start and stop hooks, of which some fail, and returns the list of calls."""
    calls: list[str] = []

    def with_hooks(*failing: str) -> list[str]:
        build = service.build

        async def build_with_hooks(scope: ServiceContext) -> Experiments:
            database = await scope.database()
            await database.all("select 1")
            for when, add in (("start", scope.on_start), ("stop", scope.on_stop)):
                for name in (f"{when} 1", f"{when} 2"):
                    add(hook(name, fails=name in failing))
            return await build(scope)

        def hook(name: str, fails: bool) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                calls.append(name)
                if fails:
                    raise ZeroDivisionError(name)

            return run

        monkeypatch.setattr(service, "build", build_with_hooks)
        return calls

    return with_hooks


async def test_a_host_that_fails_to_start_can_be_stopped(profile: Profile, hooks: Callable[..., list[str]]) -> None:
    calls = hooks("start 1")
    host = Host(profile, "test", ["experiments"])
    with pytest.raises(ZeroDivisionError):
        await host.start()
    await host.stop(grace=0)
    assert calls == ["start 1", "stop 2", "stop 1"]
    gc.collect()  # warns about connections and servers that are still open


async def test_a_failing_stop_hook_does_not_prevent_the_others(
    profile: Profile, hooks: Callable[..., list[str]]
) -> None:
    calls = hooks("stop 2")
    host = Host(profile, "test", ["experiments"])
    await host.start()
    with pytest.raises(ZeroDivisionError, match="stop 2"):
        await host.stop(grace=0)
    assert calls == ["start 1", "start 2", "stop 2", "stop 1"]
    gc.collect()


async def test_a_failing_scrape_hook_marks_only_its_service_as_not_ready(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = service.build

    async def build_with_failing_scrape(scope: ServiceContext) -> Experiments:
        async def unavailable() -> None:
            raise Unavailable("the database does not answer")

        scope.on_scrape(unavailable)
        return await build(scope)

    monkeypatch.setattr(service, "build", build_with_failing_scrape)
    host = Host(profile, "test", ["experiments", "discovery"])
    await host.start()
    samples = await scrape(host)
    await host.stop(grace=0)
    assert samples['drw_service_ready{service="experiments"}'] == 0
    assert samples['drw_service_ready{service="discovery"}'] == 1
