"""Samples and history in PostgreSQL: each request once, restarts, bounds and retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from drw.api.kernel.v1.kernel_pb2 import ProcessStatus, RequestCounts, ServiceStatus
from drw.api.models.v1.health_pb2 import ListTransitionsRequest, Transition
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.models.health.burn_rates import BUDGET_WINDOW, Counts
from drw.models.health.history import History
from drw.models.health.samples import SampleStore
from drw.models.health.settings import HistorySettings

READY, DOWN, DEGRADED = ServiceStatus.READY, ServiceStatus.DOWN, ServiceStatus.DEGRADED
HOUR = 60


def status(instance: str, good: int, failed: int = 0, process: str = "models", unanswered: int = 0) -> ProcessStatus:
    return ProcessStatus(
        name=process,
        instance=instance,
        requests={"serving": RequestCounts(good=good, slow=1, failed=failed)},
        unanswered={"state": unanswered, "no_service": 5} if unanswered else {},
    )


@pytest.fixture
async def health_database(profile: Profile) -> AsyncIterator[Database]:
    database = Database(profile.postgres, "health", pool_size=8)
    await database.start("drw.models.health")
    yield database
    await database.stop()


async def transitions(history: History, **request: object) -> list[Transition]:
    page, _ = await history.page(ListTransitionsRequest(**request), 1000, None)  # type: ignore[arg-type]
    return page


async def test_each_request_counts_once_over_restarts_of_processes_and_of_health(health_database: Database) -> None:
    samples = SampleStore(health_database, HistorySettings())
    await samples.record([status("a", good=10, failed=2)])
    await samples.record([status("a", good=10, failed=2)])  # nothing new
    again = SampleStore(health_database, HistorySettings())  # health was restarted
    await again.record([status("a", good=15, failed=2)])
    await again.record([status("b", good=3, failed=1)])  # the process was restarted: its counts begin at 0
    await again.record([status("a", good=15, process="other")])  # the same id in another process
    windows = (await again.windows())["serving"]
    assert windows[5] == windows[BUDGET_WINDOW] == Counts(good=10 + 5 + 3 + 15, slow=3, failed=2 + 1)


async def test_two_health_services_that_poll_at_once_do_not_count_twice(health_database: Database) -> None:
    stores = [SampleStore(health_database, HistorySettings()) for _ in range(6)]
    for total in (100, 250):
        await asyncio.gather(*(store.record([status("a", good=total)]) for store in stores))
    assert (await stores[0].windows())["serving"][5].good == 250


async def test_calls_without_an_answer_count_as_failures_of_the_called_service(health_database: Database) -> None:
    samples = SampleStore(health_database, HistorySettings())
    await samples.record([status("a", good=0, unanswered=4)])
    windows = await samples.windows()
    assert windows["state"][5] == Counts(failed=4)
    assert "no_service" not in windows


async def test_windows_contain_what_is_recent_enough_and_old_samples_are_deleted(health_database: Database) -> None:
    samples = SampleStore(health_database, HistorySettings(minute_days=1, hour_days=31))
    values = "values ('serving', now() - make_interval(mins => %s), 1, 0, 0)"
    async with health_database.transaction() as connection:
        for minutes in (2, 20, 200, 2000, 50_000):
            await connection.execute(f"insert into sample_minute {values}".encode(), (minutes,))
            await connection.execute(f"insert into sample_hour {values}".encode(), (minutes,))
    windows = (await samples.windows())["serving"]
    assert {minutes: windows[minutes].good for minutes in (5, 30, HOUR, 6 * HOUR, 72 * HOUR, BUDGET_WINDOW)} == {
        5: 1,
        30: 2,
        HOUR: 2,
        6 * HOUR: 3,
        72 * HOUR: 4,
        BUDGET_WINDOW: 4,
    }
    await samples.purge()
    rows = await health_database.one(
        "select (select count(*) from sample_minute) as minutes, (select count(*) from sample_hour) as hours"
    )
    assert rows == {"minutes": 3, "hours": 4}


async def test_history_has_each_change_once_and_survives_a_restart(health_database: Database) -> None:
    history = History(health_database, HistorySettings())
    for state, detail in ((READY, ""), (READY, "again"), (DOWN, "gone"), (READY, "")):
        await history.record("serving", state, detail)
    restarted = History(health_database, HistorySettings())
    await restarted.record("serving", READY, "")  # the state before the restart
    await restarted.record("serving", DEGRADED, "x" * 10_000)
    assert [(getattr(each, "from"), each.to) for each in await transitions(restarted)] == [
        (READY, DEGRADED),
        (DOWN, READY),
        (READY, DOWN),
        (0, READY),
    ]
    assert len((await transitions(restarted))[0].detail) == 500


async def test_a_flood_of_changes_stays_bounded_and_ends_with_the_present_state(health_database: Database) -> None:
    settings = HistorySettings(max_transitions=20, max_transitions_per_hour=10)
    history = History(health_database, settings)
    for number in range(101):
        await history.record("serving", DOWN if number % 2 else READY, f"change {number}")
    await history.record("state", READY, "")
    flood = await transitions(history, service="serving")
    assert len(flood) == 10
    assert (flood[0].to, flood[0].more, flood[0].detail) == (READY, 91, "change 100")
    assert len(await transitions(history, service="state")) == 1  # another service has its own bound


async def test_the_oldest_changes_are_deleted_by_number_and_by_age(health_database: Database) -> None:
    settings = HistorySettings(max_transitions=10, max_transitions_per_hour=1000, transition_days=1)
    history = History(health_database, settings)
    for number in range(25):
        await history.record("serving", DOWN if number % 2 else READY, str(number))
    assert [each.detail for each in await transitions(history)] == [str(number) for number in range(24, 14, -1)]
    await health_database.run("update health.transition set at = now() - interval '2 days' where detail = '15'")
    await history.purge()
    assert [each.detail for each in await transitions(history)][-1] == "16"


async def test_pages_filters_and_times(health_database: Database) -> None:
    history = History(health_database, HistorySettings())
    for subject in ("serving", "model/a/x", "model/a/y", "model/ab/x"):
        await history.record(subject, READY, subject)
    assert len(await transitions(history, service="model/a")) == 2
    assert len(await transitions(history, service="model/a/x")) == 1
    first, token = await history.page(ListTransitionsRequest(), 3, None)
    second, end = await history.page(ListTransitionsRequest(page_token=token), 3, None)
    assert [each.service for each in (*first, *second)] == ["model/ab/x", "model/a/y", "model/a/x", "serving"]
    assert end == ""
    past = ListTransitionsRequest()
    past.to.FromSeconds(1)
    assert await history.page(past, 3, None) == ([], "")
    with pytest.raises(InvalidRequest):
        await history.page(ListTransitionsRequest(page_token="x"), 3, None)


async def test_other_tenants_see_neither_details_nor_replicas_and_cannot_ask_for_a_replica(
    health_database: Database,
) -> None:
    history = History(health_database, HistorySettings())
    await history.record("model/org/a/10.0.0.1:80", DOWN, "secret")
    (seen,), _ = await history.page(ListTransitionsRequest(), 10, {"org/a"})
    assert (seen.service, seen.detail) == ("model/org/a", "")
    assert await history.page(ListTransitionsRequest(), 10, {"org", "org/a/10.0.0.1:80"}) == ([], "")
    for guess, found in (("model/org/a", 1), ("model/org/a/10.0.0.1:80", 0)):
        page, _ = await history.page(ListTransitionsRequest(service=guess), 10, {"org/a"})
        assert len(page) == found
