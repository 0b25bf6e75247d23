"""Retention and legal holds: which runs are deleted, from which stores, and after a failure in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis

from drw.api.workflow.v1.orchestration_pb2 import Run
from drw.api.workflow.v1.orchestration_rpc import OrchestrationClient
from drw.api.workflow.v1.retention_pb2 import Hold, ListHoldsRequest, PlaceHoldRequest, ReleaseHoldRequest
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound, RateLimited, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Database
from drw.workflow.orchestration.retention import deletion, holds
from drw.workflow.orchestration.retention.deletion import DeletedRun, Forget, RunDeletion
from support.json_types import Json
from workflow.doubles import until
from workflow.harness import FAST_SETTINGS, WorkflowHarness, workflow_harness
from workflow.retention.runs import insert_runs, leads, row_counts
from workflow.templates.test_nodes import LOOP, PARENT

WAIT = "name: {name}\ndescription: Waits.\nnodes: [{{id: w, uses: wait}}]\noutput: 1\nretention_days: {days}\n"
SERVICES = FAST_SETTINGS | {
    "orchestration": {
        "initial_retry_seconds": 0.01,
        "retention_days": 30,
        "retention_interval_seconds": 0.1,
        "functions": {"double": "workflow.functions:double"},
    }
}


@pytest.fixture
async def harness(profile: Profile, folder: Path, caller: Principal) -> AsyncIterator[WorkflowHarness]:
    async with workflow_harness(profile, folder, caller, services=SERVICES) as harness:
        await until(lambda: leads(harness), "leadership")
        yield harness


async def ended(harness: WorkflowHarness, source: str, days_ago: int) -> Run:
    """Return a run of a template that ended some days ago."""
    template = await harness.put(source)
    run = await harness.wait_until_ended(await harness.start(0, template=template.name))
    await published(harness)
    age(harness, days_ago, run.id)
    return run


async def published(harness: WorkflowHarness) -> None:
    """Wait until the events of all runs are published, without which none is deleted."""

    def is_empty() -> bool:
        with psycopg.connect(harness.profile.postgres) as connection:
            return connection.execute("select from orchestration.outbox").fetchone() is None

    await until(is_empty, "the publication of events")


def age(harness: WorkflowHarness, days: int, *runs: str) -> None:
    with psycopg.connect(harness.profile.postgres) as connection:
        connection.execute(
            "update orchestration.run set ended_at = now() - make_interval(days => %s) where id = any(%s)",
            (days, list(runs)),
        )


async def remaining(harness: WorkflowHarness, gone: Run) -> set[str]:
    """Wait until a run is deleted; return the ids of the others."""

    def ids() -> set[str]:
        with psycopg.connect(harness.profile.postgres) as connection:
            return {row[0] for row in connection.execute("select id from orchestration.run")}

    def is_gone() -> bool:
        return gone.id not in ids()

    await until(is_gone, f"the deletion of {gone.id}")
    return ids()


async def place(harness: WorkflowHarness, kind: Hold.Kind, name: str = "", caller: Principal | None = None) -> Hold:
    with acting_for(caller or harness.caller):
        request = PlaceHoldRequest(kind=kind, name=name, reason="matter 7")
        return await harness.host.client(OrchestrationClient).place_hold(request)


async def release(harness: WorkflowHarness, hold: Hold, caller: Principal | None = None) -> Hold:
    with acting_for(caller or harness.caller):
        request = ReleaseHoldRequest(hold=hold.id, reason="closed")
        return await harness.host.client(OrchestrationClient).release_hold(request)


async def listed(harness: WorkflowHarness, caller: Principal, **fields: Json) -> list[str]:
    with acting_for(caller):
        request = ListHoldsRequest(**fields)
        return [hold.id for hold in (await harness.host.client(OrchestrationClient).list_holds(request)).holds]


async def test_runs_are_deleted_after_the_days_of_their_template(harness: WorkflowHarness) -> None:
    default = WAIT.format(name="plain", days=1).replace("retention_days: 1\n", "")
    kept = [
        await ended(harness, default, 29),
        await ended(harness, WAIT.format(name="long", days=100), 99),
        await ended(harness, WAIT.format(name="always", days=0), 9999),
    ]
    short = await ended(harness, WAIT.format(name="short", days=2), 3)
    plain = await ended(harness, default, 31)
    await remaining(harness, short)
    assert await remaining(harness, plain) == {run.id for run in kept}
    records = {r["resource"]: r for r in harness.audit("run.delete")}
    assert records.keys() == {short.id, plain.id}
    assert (records[short.id]["desk"], records[short.id]["details"]["retention_days"]) == ("research", 2)
    assert short.id in {r["resource"] for r in harness.audit("run.end")}  # audit records stay


async def test_all_rows_of_a_run_are_deleted_in_all_stores(harness: WorkflowHarness) -> None:
    insert_runs(harness.profile, 250)  # the oldest ended 21 hours ago
    await harness.put(LOOP)
    parent = await ended(harness, PARENT, 31)  # with a child run

    def counts_of(*expected: int) -> bool:
        with psycopg.connect(harness.profile.postgres) as connection:
            has_finished = connection.execute("select from orchestration.deleted_run").fetchone() is None
        return has_finished and row_counts(harness.profile) == list(expected)

    await until(lambda: counts_of(250, 750, 250, 2000), "the deletion of parent and child")
    assert {r["details"]["runs"] for r in harness.audit("run.delete")} == {2}
    with redis.Redis.from_url(harness.profile.valkey) as valkey:
        assert not [key for key in valkey.keys("drw:run:*") if parent.id.encode() in key]
    with psycopg.connect(harness.profile.postgres) as connection:
        connection.execute("update orchestration.run set ended_at = ended_at - interval '31 days'")
    await until(lambda: counts_of(0, 0, 0, 0), "the deletion in several batches")


async def test_a_held_run_is_never_deleted(harness: WorkflowHarness) -> None:
    await harness.put(LOOP)
    parent = await ended(harness, PARENT, 1)
    with psycopg.connect(harness.profile.postgres) as connection:
        (child,) = (
            connection.execute("select id from orchestration.run where parent = %s", (parent.id,)).fetchone() or ()
        )
    admin = replace(harness.caller, scopes=harness.caller.scopes | {"org:admin"})
    for kind, name, by in (
        (Hold.RUN, parent.id, None),
        (Hold.RUN, child, None),
        (Hold.TEMPLATE, "parent", None),
        (Hold.TEMPLATE, "grow", None),
        (Hold.DESK, "", None),
        (Hold.ORG, "", admin),
    ):
        hold = await place(harness, kind, name, by)
        age(harness, 99, parent.id)
        other = await ended(harness, WAIT.format(name="short", days=2), 3)
        if kind in (Hold.DESK, Hold.ORG):
            with psycopg.connect(harness.profile.postgres) as connection:
                connection.execute("update orchestration.run set org = 'other' where id = %s", (other.id,))
        assert {parent.id, child} <= await remaining(harness, other)  # a sweep has passed
        age(harness, 1, parent.id)
        assert (await release(harness, hold, by)).released_by == (by or harness.caller).key
    age(harness, 99, parent.id)
    assert child not in await remaining(harness, parent)
    assert len(harness.audit("hold.place")) == len(harness.audit("hold.release")) == 6


async def test_holds_are_those_of_a_tenant(harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = replace(harness.caller, walls=frozenset({"m-and-a"}))
    harness.caller = caller
    run = await ended(harness, WAIT.format(name="walled", days=0), 1)
    strangers = [replace(caller, desk="other"), replace(caller, org="other"), replace(caller, walls=frozenset())]
    for stranger in strangers:
        with pytest.raises(NotFound, match="there is no run"):
            await place(harness, Hold.RUN, run.id, stranger)
    hold = await place(harness, Hold.RUN, run.id)
    for stranger in strangers:
        assert await listed(harness, stranger) == []
        with pytest.raises(NotFound, match="there is no hold"):
            await release(harness, hold, stranger)
    assert await listed(harness, caller) == [hold.id]
    with pytest.raises(Forbidden, match="org:admin"):
        await place(harness, Hold.ORG)
    of_org = await place(harness, Hold.ORG, caller=replace(caller, walls=frozenset(), scopes=frozenset({"org:admin"})))
    other_desk = replace(caller, desk="other")
    assert await listed(harness, other_desk) == [of_org.id]
    with pytest.raises(Forbidden, match="org:admin"):
        await release(harness, of_org, other_desk)
    for kind, name in ((Hold.RUN, ""), (Hold.DESK, "name")):
        with pytest.raises(InvalidRequest, match="a hold of the kind"):
            await place(harness, kind, name)
    await release(harness, hold)
    assert (await listed(harness, caller), len(await listed(harness, caller, all=True))) == ([of_org.id], 2)
    monkeypatch.setattr(holds, "MAX_HOLDS", 1)
    with pytest.raises(RateLimited, match="has 1 holds"):
        await place(harness, Hold.DESK)


async def test_a_deletion_that_fails_in_between_continues(
    profile: Profile, folder: Path, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "PAGE_SIZE", 1)
    calls: list[tuple[int, list[str]]] = []

    def double_store(number: int) -> Forget:
        """Return a store whose first deletion fails."""

        async def forget(runs: Sequence[DeletedRun]) -> None:
            calls.append((number, [run.id for run in runs]))
            if [called for called, _ in calls].count(number) == 1:
                raise Unavailable("the store does not answer")

        return forget

    async with workflow_harness(profile, folder, caller) as harness:  # its own deletion has nothing to do at its start
        await until(lambda: leads(harness), "leadership")
        held, first, second = [await ended(harness, WAIT.format(name="short", days=1), days) for days in (7, 6, 5)]
        await place(harness, Hold.RUN, held.id)
        database = Database(profile.postgres, "orchestration")
        await database.start("drw.workflow.orchestration")
        try:
            stores = [double_store(0), double_store(1)]
            sweeper = RunDeletion(database, AuditWriter(database, "orchestration"), 0, 60, stores)
            for _ in stores:
                with pytest.raises(Unavailable):
                    await sweeper.sweep()
            assert await sweeper.sweep() == 1
        finally:
            await database.stop()
        assert calls == [
            *((0, [first.id]), (0, [first.id]), (1, [first.id])),
            *((0, [first.id]), (1, [first.id]), (0, [second.id]), (1, [second.id])),
        ]
        assert await remaining(harness, second) == {held.id}
        assert {r["resource"] for r in harness.audit("run.delete")} == {first.id, second.id}
