"""Rollouts: approval, shadow calls, ramp, promotion and automatic rollback, with the real services and traffic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from drw.kernel.rpc.context import Principal
from models.cluster import KEY, ModelsCluster
from models.experiments.alias_calls import ALIAS, FEED, WRITER, call, definition, post, start_experiment, until
from support.gateway.keys import issued
from support.gateway.kills import kill
from support.hosting import make_desks

SERVICES = ["experiments", "rate_limiting", "authentication"]
QUICK = FEED | {"rollout_seconds": 0.05}
STEPS = {"steps": [10, 50], "step_seconds": 1, "step_units": 5, "shadow_percent": 100}


@dataclass
class Rollouts:
    """A cluster with two administrators, and the traffic of an application."""

    cluster: ModelsCluster
    ann: dict[str, str]
    bob: dict[str, str]
    answers: list[httpx.Response] = field(default_factory=list)

    async def post(self, path: str, body: Any = None, who: dict[str, str] | None = None) -> httpx.Response:
        return await post(self.cluster, f"/api/v1/rollouts{path}", body, who or self.ann)

    async def started(self, **fields: Any) -> None:
        """Create, approve and start the rollout `swap`."""
        body = {"name": "swap", "alias": "fast", "model": "candidate", "unit": "request"} | STEPS | fields
        for path, content, who in (
            ("", body, self.ann),
            ("/swap:approve", None, self.bob),
            ("/swap:start", None, self.ann),
        ):
            response = await self.post(path, content, who)
            assert response.status_code == 200, response.text

    async def report(self) -> dict[str, Any]:
        response = await self.cluster.http.get("/api/v1/rollouts/swap/report", headers=self.ann)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def until_state(self, *states: str, percent: int | None = None) -> dict[str, Any]:
        """Return the report once the rollout is in one of the states."""
        found: dict[str, Any] = {}

        async def reached() -> bool:
            nonlocal found
            found = await self.report()
            rollout = found["rollout"]
            return rollout["state"] in states and percent in (None, rollout["percent"])

        await until(reached, f"the state {' or '.join(states)}")
        return found

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Call the alias all the time while the block runs; no call may fail."""
        going = True

        async def drive() -> None:
            while going:
                self.answers.append(await call(self.cluster, "user-1"))

        drivers = [asyncio.create_task(drive()) for _ in range(4)]
        try:
            yield
        finally:
            going = False
            await asyncio.gather(*drivers)
        failed = [answer.text for answer in self.answers if answer.status_code != 200]
        assert self.answers and failed == []


@pytest.fixture
async def rollouts(start: Callable[..., Any]) -> AsyncIterator[Rollouts]:
    """The cluster with an alias of `double`, the model `candidate`, and two administrators."""
    async with start(more=SERVICES, candidate={}, discovery=ALIAS, experiments=QUICK) as cluster:
        await make_desks(cluster.host, SERVICES)
        ann, bob = [await issued(cluster.host, "platform:admin") for _ in range(2)]
        yield Rollouts(cluster, headers(ann), headers(bob))


def headers(principal: Principal) -> dict[str, str]:
    scopes = " ".join(principal.scopes)
    return KEY | {"x-drw-key": principal.key, "x-drw-desk": principal.desk, "x-drw-scopes": scopes}


async def test_a_candidate_goes_through_all_phases_under_load_without_an_error(rollouts: Rollouts) -> None:
    async with rollouts.traffic():
        await rollouts.started()
        report = await rollouts.until_state("PROMOTED")
        last = len(rollouts.answers)
        await until(lambda: all_after(rollouts, last, "candidate"), "the alias to have one model")
    actions = [(change["action"], change["state"], change["percent"]) for change in reversed(report["history"])]
    assert actions == [
        ("create", "DRAFT", 0),
        ("approve", "APPROVED", 0),
        ("start", "SHADOW", 0),
        ("advance", "RAMP", 10),
        ("advance", "RAMP", 50),
        ("advance", "PROMOTING", 50),
        ("promote", "PROMOTED", 50),
    ]
    assert {change["actor"] for change in report["history"][:4]} == {"rollout"}
    assert report["shadow"]["compared"] >= 5 and report["shadow"]["failed"] == 0
    assert report["shadow"]["same_text"] == report["shadow"]["compared"]
    assert report["delivery"]["lost"] == 0 and report["delivery"]["recorded"] >= 20
    control, candidate = [arm["units"] for arm in report["arms"]]
    assert min(control, candidate) >= 10
    aliases = (await rollouts.cluster.http.get("/api/v1/aliases")).json()["aliases"]
    assert [alias["targets"] for alias in aliases] == [[{"model": "candidate", "weight": 1}]]
    labels = {answer.headers.get("x-experiment") for answer in rollouts.answers}
    assert labels == {None, "swap/control", "swap/candidate"}
    records = rollouts.cluster.records()
    assert {one["action"] for one in records} >= {"rollout.create", "rollout.advance", "rollout.promote"}


async def all_after(rollouts: Rollouts, start: int, model: str) -> bool:
    later = rollouts.answers[start:]
    return len(later) > 10 and {answer.json()["model"] for answer in later[-10:]} == {model}


async def test_errors_of_the_candidate_roll_it_back_and_callers_notice_nothing(rollouts: Rollouts) -> None:
    async with rollouts.traffic():
        await rollouts.started(shadow_percent=0, steps=[50], step_units=100_000)
        rollouts.cluster.double.failing.add("up-2")
        report = await rollouts.until_state("ROLLED_BACK")
        assert report["rollout"]["reason"] == "guardrail error breached by arm candidate"
        start = len(rollouts.answers)
        await until(lambda: all_after(rollouts, start, "double"), "the former model")
    numbers = report["history"][0]["numbers"]
    breached = [one for one in numbers["comparisons"] if one["guardrail_breached"]]
    assert [one["metric"] for one in breached] == ["error"] and breached[0]["control_value"] == 0
    assert {answer.json()["model"] for answer in rollouts.answers} == {"double"}


async def test_a_candidate_that_fails_shadow_calls_gets_no_traffic(rollouts: Rollouts) -> None:
    rollouts.cluster.double.failing.add("up-2")
    async with rollouts.traffic():
        await rollouts.started()
        report = await rollouts.until_state("ROLLED_BACK")
    assert "shadow calls failed" in report["rollout"]["reason"]
    assert {answer.headers.get("x-experiment") for answer in rollouts.answers} == {None}


async def test_lost_exposures_roll_back(rollouts: Rollouts) -> None:
    with psycopg.connect(rollouts.cluster.database) as connection:
        connection.execute(
            """
            create sequence failures;
            create function fail_once() returns trigger language plpgsql as $$
            begin
                if new.body ? 'unit' and nextval('public.failures') = 10 then raise 'disk full'; end if;
                return new;
            end $$;
            create trigger fail_once before insert on audit.outbox for each row execute function fail_once();
            """
        )
    await rollouts.started(shadow_percent=0, steps=[50], step_units=100_000)
    statuses: list[int] = []

    async def rolled_back() -> bool:
        statuses.extend([(await call(rollouts.cluster, "user-1")).status_code for _ in range(5)])
        return bool((await rollouts.report())["rollout"]["state"] == "ROLLED_BACK")

    await until(rolled_back, "the rollback")
    report = await rollouts.report()
    assert statuses.count(200) == len(statuses) - 1  # the call without its audit record got no answer
    assert "exposures were lost" in report["rollout"]["reason"]
    assert report["delivery"]["lost"] == 1


async def test_the_creator_cannot_approve_with_any_of_its_keys(rollouts: Rollouts) -> None:
    body = {"name": "swap", "alias": "fast", "model": "candidate", "unit": "request"}
    assert (await rollouts.post("", body)).status_code == 200
    own = Principal("acme", "research", rollouts.ann["x-drw-key"], frozenset({"platform:admin"}))
    second = headers(await issued(rollouts.cluster.host, "platform:admin", by=own))
    for who in (rollouts.ann, second):
        refused = await rollouts.post("/swap:approve", who=who)
        assert refused.status_code == 403, refused.text
    assert (await rollouts.post("/swap:start")).status_code == 409
    assert (await rollouts.post("/swap:approve", who=rollouts.bob)).status_code == 200
    assert (await rollouts.post("/swap:approve", who=rollouts.bob)).status_code == 200


async def test_rollouts_belong_to_the_platform(rollouts: Rollouts) -> None:
    await rollouts.started()
    http = rollouts.cluster.http
    for path in ("", "/swap", "/swap/report"):
        assert (await http.get(f"/api/v1/rollouts{path}", headers=WRITER)).status_code == 403
    for action in ("approve", "start", "pause", "resume", "advance", "rollback"):
        refused = await rollouts.post(f"/swap:{action}", {"reason": "mine"}, WRITER)
        assert refused.status_code == 403, refused.text
    assert (await http.get("/api/v1/experiments/swap", headers=rollouts.ann | WRITER)).status_code == 404


async def test_a_rollout_is_paused_advanced_and_rolled_back_by_hand(rollouts: Rollouts) -> None:
    await rollouts.started(step_seconds=3600)
    paused = (await rollouts.post("/swap:pause")).json()
    assert paused["paused"] and (await rollouts.report())["waits_for"] == "it is paused"
    advanced = (await rollouts.post("/swap:advance", {"from_percent": 0})).json()
    assert (advanced["state"], advanced["percent"], advanced["paused"]) == ("RAMP", 10, False)
    again = (await rollouts.post("/swap:advance", {"from_percent": 0})).json()
    assert again["percent"] == 10
    refused = await rollouts.post("/swap:advance", {"from_percent": 50})
    assert refused.status_code == 409
    ended = (await rollouts.post("/swap:rollback", {"reason": "drill"})).json()
    assert (ended["state"], ended["percent"], ended["reason"]) == ("ROLLED_BACK", 0, "drill")
    assert (await rollouts.post("/swap:rollback", {"reason": "again"})).json()["reason"] == "drill"
    assert (await rollouts.post("/swap:start")).status_code == 409


async def test_one_rollout_of_an_alias_runs_at_a_time(rollouts: Rollouts) -> None:
    await rollouts.started()
    body = {"name": "second", "alias": "fast", "model": "candidate", "unit": "request"}
    assert (await rollouts.post("", body)).status_code == 200
    assert (await rollouts.post("/second:approve", who=rollouts.bob)).status_code == 200
    refused = await rollouts.post("/second:start")
    assert refused.status_code == 409 and "'swap'" in refused.text
    cancelled = (await rollouts.post("/second:rollback", {"reason": "not now"})).json()
    assert cancelled["state"] == "CANCELLED"


async def test_an_experiment_of_a_desk_takes_its_calls_out_of_the_rollout(rollouts: Rollouts) -> None:
    await start_experiment(rollouts.cluster, name="mine")
    await rollouts.started(shadow_percent=0, steps=[50])
    other = KEY | {"x-drw-desk": "equities", "x-drw-key": "key_equities"}

    async def routed() -> bool:
        labels = [(await call(rollouts.cluster, "u", headers=other)).headers.get("x-experiment") for _ in range(5)]
        return any(label and label.startswith("swap/") for label in labels)

    await until(routed, "the calls of another desk in the rollout")
    assert (await call(rollouts.cluster, "user-1")).headers["x-experiment"].startswith("mine/")


async def test_invalid_rollouts_are_refused(rollouts: Rollouts) -> None:
    metrics = definition()["metrics"]
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"alias": "unknown"}, "alias"),
        ({"model": "unknown"}, "model"),
        ({"model": "vectors"}, "model"),
        ({"steps": [5, 1]}, "steps"),
        ({"steps": [51]}, "steps[0]"),
        ({"guardrails": [metrics[0]]}, "guardrails[0].max_harm"),
        ({"guardrails": [metrics[4] | {"max_harm": 1}]}, "guardrails[0].source"),
    ]
    for fields, param in invalid:
        body = {"name": "swap", "alias": "fast", "model": "candidate", "unit": "user"} | fields
        refused = await rollouts.post("", body)
        assert (refused.status_code, refused.json()["error"].get("param")) == (400, param), refused.text


async def test_the_platform_pays_for_shadow_calls(rollouts: Rollouts) -> None:
    await rollouts.started(step_units=1000)

    async def compared() -> bool:
        await call(rollouts.cluster, "user-1")
        return int((await rollouts.report())["shadow"]["compared"]) > 0

    await until(compared, "a shadow call")
    with psycopg.connect(rollouts.cluster.database) as connection:
        rows = connection.execute("select distinct org, desk, key, route, model from metering.ledger").fetchall()
    assert sorted(rows) == [
        ("", "", "platform", "shadow", "candidate"),
        ("acme", "research", "key_test", "managed", "double"),
    ]
    shadows = [record for record in rollouts.cluster.records() if record["action"] == "model.shadow"]
    assert {(record["org"], record["actor"]) for record in shadows} == {("", "platform")}


async def test_a_kill_of_the_candidate_stops_its_shadow_calls(rollouts: Rollouts) -> None:
    cluster = rollouts.cluster
    await cluster.kills.kill(kill("MODEL", "candidate"))

    async def killed() -> bool:
        return (await call(cluster, "user-1", model="candidate")).status_code == 403

    await until(killed, "the kill")
    await rollouts.started(step_units=1000)
    cluster.double.bodies.clear()

    async def dropped() -> bool:
        assert (await call(cluster, "user-1")).status_code == 200
        return int((await rollouts.report())["shadow"]["dropped"]) > 0

    await until(dropped, "a dropped copy")
    shadow = (await rollouts.report())["shadow"]
    assert shadow["compared"] == shadow["failed"] == 0
    assert {body["model"] for body in cluster.double.bodies} == {"up-1"}


async def test_a_candidate_that_hangs_delays_nobody_and_copies_are_dropped(rollouts: Rollouts) -> None:
    double = rollouts.cluster.double
    double.hanging.add("up-2")
    await rollouts.started(step_units=1000)

    async def hanging() -> bool:
        assert (await call(rollouts.cluster, "user-1")).status_code == 200
        return double.under_way > 0

    await until(hanging, "a copy that hangs")
    for _ in range(20):
        assert (await call(rollouts.cluster, "user-1")).status_code == 200
    assert double.under_way <= 8
    double.go.set()

    async def compared() -> bool:
        shadow = (await rollouts.report())["shadow"]
        return shadow["compared"] > 0 and shadow["dropped"] > 0

    await until(compared, "the comparison of the copies that were not dropped")
