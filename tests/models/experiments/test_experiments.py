"""Experiments: life cycle, assignment, exposures, outcomes, results and guardrails, on PostgreSQL."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import orjson
import pytest

from drw.api.models.v1.experiments_pb2 import (
    AssignUnitRequest,
    Comparison,
    DeleteExperimentRequest,
    Experiment,
    GetExperimentRequest,
    GetResultsRequest,
    ListExperimentsRequest,
    Outcome,
    RecordExposuresRequest,
    RecordOutcomesRequest,
    Results,
    StartExperimentRequest,
    StopExperimentRequest,
)
from drw.api.models.v1.experiments_rpc import ExperimentsClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import from_json, json_value
from drw.kernel.runtime.clock import Clock
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.models.experiments.guardrails import GuardrailWatch
from drw.models.experiments.recording.recorder import COUNT_SECONDS, Recorder
from drw.models.experiments.settings import Settings
from drw.models.experiments.store import ExperimentStore
from support.hosting import hosted
from support.json_types import Json, JsonObject
from support.parts import until

WHO = Principal("acme", "rates", "key_1", frozenset({"experiments:read", "experiments:write", "experiments:record"}))
ARMS = [{"name": "control", "weight": 1}, {"name": "candidate", "weight": 1}]
COST = {"name": "cost", "kind": "MEAN", "direction": "LOWER_IS_BETTER"}
WAIT = {"name": "wait", "kind": "RATIO", "direction": "LOWER_IS_BETTER"}
FAILED = {"name": "failed", "kind": "PROPORTION", "direction": "LOWER_IS_BETTER"}
SLOWEST = {"name": "slowest", "kind": "QUANTILE", "direction": "LOWER_IS_BETTER", "quantile": 0.9}
GRADE = {"name": "grade", "kind": "SCORE", "direction": "HIGHER_IS_BETTER", "lowest": 1, "highest": 5}


class DoubleClock(Clock):
    """Time that the test advances."""

    now = 0.0

    def time(self) -> float:
        return self.now


def definition(name: str = "test", **fields: Json) -> Experiment:
    metrics = [COST, WAIT, FAILED, SLOWEST, GRADE]
    return from_json({"name": name, "unit": "user", "arms": ARMS, "metrics": metrics} | fields, Experiment)


@pytest.fixture(autouse=True)
def caller() -> Iterator[None]:
    """Act for a key of the desk `rates`."""
    with acting_for(WHO):
        yield


@asynccontextmanager
async def experiments(profile: Profile, how: str = "together") -> AsyncIterator[ExperimentsClient]:
    async with hosted(profile, ["experiments"], how) as host:
        yield host.client(ExperimentsClient)


async def started(client: ExperimentsClient, name: str = "test", **fields: Json) -> Experiment:
    await client.create_experiment(definition(name, **fields))
    return await client.start_experiment(StartExperimentRequest(name=name))


async def expose(client: ExperimentsClient, units: Sequence[str], name: str = "test") -> dict[str, list[str]]:
    """Record exposures and return the units of each arm."""
    arms: dict[str, list[str]] = {"control": [], "candidate": []}
    for begin in range(0, len(units), 1000):
        batch = units[begin : begin + 1000]
        await client.record_exposures(RecordExposuresRequest(name=name, units=batch))
    for unit in units:
        arms[(await client.assign_unit(AssignUnitRequest(name=name, unit=unit))).arm].append(unit)
    return arms


@asynccontextmanager
async def own_database(profile: Profile) -> AsyncIterator[Database]:
    database = Database(profile.postgres, "experiments")
    await database.start("drw.models.experiments")
    try:
        yield database
    finally:
        await database.stop()


async def record(client: ExperimentsClient, *outcomes: Outcome, name: str = "test") -> tuple[int, int, int]:
    response = await client.record_outcomes(RecordOutcomesRequest(name=name, outcomes=outcomes))
    return response.recorded, response.duplicates, response.not_exposed


def by_metric(results: Results) -> dict[str, Comparison]:
    return {comparison.metric: comparison for comparison in results.comparisons}


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_an_experiment_goes_from_draft_to_running_to_stopped(profile: Profile, how: str) -> None:
    async with experiments(profile, how) as client:
        draft = await client.create_experiment(definition())
        assert (draft.state, draft.traffic_percent, draft.alpha) == (Experiment.DRAFT, 100, 0.05)
        with pytest.raises(Conflict, match="is not running"):
            await client.record_exposures(RecordExposuresRequest(name="test", units=["u"]))
        with pytest.raises(Conflict, match="is a draft"):
            await client.stop_experiment(StopExperimentRequest(name="test", reason="r"))
        first = await client.start_experiment(StartExperimentRequest(name="test"))
        again = await client.start_experiment(StartExperimentRequest(name="test"))
        assert first.state == Experiment.RUNNING and first.started_at == again.started_at
        with pytest.raises(Conflict, match="stop it first"):
            await client.delete_experiment(DeleteExperimentRequest(name="test"))
        stopped = await client.stop_experiment(StopExperimentRequest(name="test", reason="enough"))
        again = await client.stop_experiment(StopExperimentRequest(name="test", reason="other"))
        assert (again.state, again.stop_reason) == (
            Experiment.STOPPED,
            "enough",
        ) and again.stopped_at == stopped.stopped_at
        with pytest.raises(Conflict, match="was stopped"):
            await client.start_experiment(StartExperimentRequest(name="test"))
        await client.delete_experiment(DeleteExperimentRequest(name="test"))
        with pytest.raises(NotFound):
            await client.get_experiment(GetExperimentRequest(name="test"))


async def test_lists_have_pages_by_name(profile: Profile) -> None:
    async with experiments(profile) as client:
        for name in ("c", "a", "b"):
            await client.create_experiment(definition(name))
        names, token = [], ""
        while page := await client.list_experiments(ListExperimentsRequest(page_size=2, page_token=token)):
            names.append([experiment.name for experiment in page.experiments])
            if not (token := page.next_page_token):
                break
        assert names == [["a", "b"], ["c"]]
        with pytest.raises(Conflict, match="already has an experiment 'a'"):
            await client.create_experiment(definition("a"))


async def test_assignment_follows_the_weights_and_needs_no_call(profile: Profile) -> None:
    async with experiments(profile) as client:
        arms = [{"name": "control", "weight": 1}, {"name": "candidate", "weight": 1}]
        experiment = await started(client, arms=arms, traffic_percent=40)
        units = [f"user-{number}" for number in range(2000)]
        assigned = [await client.assign_unit(AssignUnitRequest(name="test", unit=unit)) for unit in units]
        inside = [each for each in assigned if each.in_experiment]
        assert 0.36 < len(inside) / len(units) < 0.44
        assert 0.44 < sum(each.arm == "candidate" for each in inside) / len(inside) < 0.56
        assert {each.arm for each in assigned if not each.in_experiment} == {"control"}
        assert [json_value(each.value) == each.arm for each in assigned] == [True] * len(units)
        recorded = await client.record_exposures(RecordExposuresRequest(name="test", units=units[:1000]))
        assert recorded.added == sum(each.in_experiment for each in assigned[:1000])
        assert recorded.added + recorded.not_in_experiment == 1000
        assert experiment.seed.startswith("test/")


async def test_units_of_a_stopped_experiment_get_the_control_arm(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client)
        units = [f"user-{number}" for number in range(50)]
        arms = await expose(client, units)
        assert arms["candidate"]
        await client.stop_experiment(StopExperimentRequest(name="test", reason="enough"))
        assigned = {(await client.assign_unit(AssignUnitRequest(name="test", unit=unit))).arm for unit in units}
        assert assigned == {"control"}
        with pytest.raises(Conflict):
            await record(client, Outcome(unit=arms["candidate"][0], metric="cost", value=1))
        results = await client.get_results(GetResultsRequest(name="test"))
        assert sum(arm.units for arm in results.arms) == 50


async def test_an_outcome_counts_once_and_only_after_the_exposure(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client)
        outcome = Outcome(unit="u", metric="cost", value=3, id="o-1")
        assert await record(client, outcome) == (0, 0, 1)
        await expose(client, ["u"])
        assert await record(client, outcome, outcome) == (1, 1, 0)
        assert await record(client, outcome) == (0, 1, 0)
        assert await record(client, Outcome(unit="u", metric="cost", value=3)) == (1, 0, 0)
        comparison = by_metric(await client.get_results(GetResultsRequest(name="test")))["cost"]
        assert {comparison.value, comparison.control_value} == {0.0, 6.0}


async def test_one_invalid_outcome_rejects_the_request(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client)
        await expose(client, ["u"])
        good = Outcome(unit="u", metric="cost", value=3)
        for param, bad in {
            "outcomes[1].metric": Outcome(unit="u", metric="profit", value=1),
            "outcomes[1].value": Outcome(unit="u", metric="cost", value=math.nan),
            "outcomes[1].denominator": Outcome(unit="u", metric="cost", value=1, denominator=2),
        }.items():
            with pytest.raises(InvalidRequest) as caught:
                await record(client, good, bad)
            assert caught.value.metadata["param"] == param
        for bad in (
            Outcome(unit="u", metric="grade", value=6),
            Outcome(unit="u", metric="slowest", value=-1),
            Outcome(unit="u", metric="wait", value=1, denominator=0),
            Outcome(unit="u", metric="wait", value=math.inf),
        ):
            with pytest.raises(InvalidRequest):
                await record(client, good, bad)
        comparison = by_metric(await client.get_results(GetResultsRequest(name="test")))["cost"]
        assert comparison.HasField("value") and {comparison.value, comparison.control_value} <= {0.0}


async def test_results_are_computed_per_unit(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client)
        arms = await expose(client, [f"user-{number}" for number in range(40)])
        outcomes, units = [], arms["candidate"]
        for number, unit in enumerate(units):
            for request in range(number % 3 + 1):
                outcomes += [
                    Outcome(unit=unit, metric="cost", value=number),
                    Outcome(unit=unit, metric="wait", value=10 * number, denominator=2),
                    Outcome(unit=unit, metric="slowest", value=number + 1),
                    Outcome(unit=unit, metric="grade", value=1 + (number + request) % 5),
                    Outcome(unit=unit, metric="failed", value=number % 2),
                ]
        await record(client, *outcomes)
        found = by_metric(await client.get_results(GetResultsRequest(name="test")))
        requests = [number % 3 + 1 for number in range(len(units))]
        grades = [statistics.mean(1 + (n + r) % 5 for r in range(times)) for n, times in enumerate(requests)]
        assert found["cost"].value == pytest.approx(statistics.mean(n * times for n, times in enumerate(requests)))
        assert found["wait"].value == pytest.approx(5 * sum(n * t for n, t in enumerate(requests)) / sum(requests))
        assert found["failed"].value == pytest.approx(sum(n % 2 for n in range(len(units))) / len(units))
        assert found["slowest"].value == pytest.approx(math.ceil(0.9 * len(units)), rel=0.02)
        assert found["grade"].value == pytest.approx(statistics.mean(grades))
        assert {each.verdict for each in found.values()} <= {Comparison.NO_RESULT_YET, Comparison.UNDECIDED}
        assert found["cost"].reason == f"an arm has {min(map(len, arms.values()))} units; the first look is at 500"


async def test_a_large_difference_is_found(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client, metrics=[FAILED])
        arms = await expose(client, [f"user-{number}" for number in range(600)])
        failing = [*arms["candidate"][: len(arms["candidate"]) // 2], *arms["control"][: len(arms["control"]) // 20]]
        await record(client, *(Outcome(unit=unit, metric="failed", value=1) for unit in failing))
        results = await client.get_results(GetResultsRequest(name="test"))
        comparison = by_metric(results)["failed"]
        assert comparison.verdict == Comparison.WORSE
        assert comparison.lift.lower > 1 and comparison.p_value < 0.001
        assert not results.sample_ratio.mismatch


async def test_lost_exposures_of_one_arm_are_a_sample_ratio_mismatch(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client, metrics=[FAILED])
        for begin in range(0, 2000, 1000):
            units = [f"user-{number}" for number in range(begin, begin + 1000)]
            assigned = [await client.assign_unit(AssignUnitRequest(name="test", unit=unit)) for unit in units]
            kept = [u for u, a in zip(units, assigned, strict=True) if a.arm == "control" or u[-1] in "02468"]
            await client.record_exposures(RecordExposuresRequest(name="test", units=kept))
        results = await client.get_results(GetResultsRequest(name="test"))
        assert results.sample_ratio.mismatch and results.sample_ratio.p_value < 0.001


async def test_a_breached_guardrail_stops_the_experiment(profile: Profile) -> None:
    async with hosted(profile, ["experiments"]) as host:
        client = host.client(ExperimentsClient)
        guarded = {**FAILED, "max_harm": 0.5}
        for name in ("broken", "harmful", "harmless"):
            await started(client, name, metrics=[guarded])
            arms = await expose(client, [f"user-{number}" for number in range(600)], name)
            failing = arms["candidate"] if name == "harmful" else arms["candidate"][:20]
            outcomes = [Outcome(unit=unit, metric="failed", value=1) for unit in [*failing, *arms["control"][:20]]]
            await record(client, *outcomes, name=name)
        async with own_database(profile) as database:
            await database.run(  # an experiment that cannot be analysed
                "update experiments.experiment set definition = jsonb_set(definition, '{unit}', '\"team\"')"
                " where name = 'broken'"
            )
            store, recorder = ExperimentStore(database, host.audit("experiments")), Recorder(database, Clock(), 10_000)
            await GuardrailWatch(database, store, recorder, Settings()).check()
            stops = await database.fetch(
                "select record::json as record from audit.inbox where record::json->>'action' = 'experiment.stop'"
            )
        (stop,) = [row["record"] for row in stops]
        assert (stop["org"], stop["desk"], stop["actor"]) == ("acme", "rates", "guardrail")
        stopped = await client.get_experiment(GetExperimentRequest(name="harmful"))
        assert stopped.state == Experiment.STOPPED
        assert stopped.stop_reason == "guardrail failed breached by arm candidate"
        assert (await client.get_experiment(GetExperimentRequest(name="harmless"))).state == Experiment.RUNNING


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"arms": ARMS[:1]}, "arms"),
        ({"arms": [ARMS[0], ARMS[0]]}, "arms"),
        ({"arms": [{"name": "control", "weight": 95}, {"name": "canary", "weight": 5}], "metrics": [COST]}, "metrics"),
        ({"arms": [{**ARMS[0], "value": 1}, {**ARMS[1], "value": "x"}]}, "arms[1].value"),
        ({"arms": [{**ARMS[0], "value": "x" * 5000}, ARMS[1]]}, "arms[0].value"),
        ({"metrics": [COST, COST]}, "metrics"),
        ({"metrics": []}, "metrics"),
        ({"metrics": [{**SLOWEST, "quantile": 1}]}, "metrics[0].quantile"),
        ({"metrics": [{**COST, "quantile": 0.5}]}, "metrics[0].quantile"),
        ({"metrics": [{**WAIT, "cap": 5}]}, "metrics[0].cap"),
        ({"metrics": [{**COST, "max_harm": -1}]}, "metrics[0].max_harm"),
        ({"metrics": [{**GRADE, "lowest": 5}]}, "metrics[0].lowest"),
        ({"metrics": [WAIT], "unit": "request"}, "metrics"),
        ({"unit": "team"}, "unit"),
        ({"alpha": 0.9}, "alpha"),
        ({"name": "Not A Name"}, "name"),
        ({"arms": [{**ARMS[0], "weight": 0}, ARMS[1]]}, "arms[0].weight"),
    ],
)
async def test_invalid_designs_are_refused(profile: Profile, fields: JsonObject, param: str) -> None:
    async with experiments(profile) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.create_experiment(definition(**fields))
        assert caught.value.metadata["param"] == param


async def test_other_desks_and_callers_outside_the_walls_see_nothing(profile: Profile) -> None:
    inside = Principal("acme", "rates", "key_2", WHO.scopes, frozenset({"deal"}))
    strangers = [WHO, Principal("acme", "equities", "key_3", WHO.scopes), Principal("other", "rates", "k", WHO.scopes)]
    async with experiments(profile) as client:
        with acting_for(inside):
            secret = await started(client, "secret")
            assert list(secret.walls) == ["deal"]
        for stranger in strangers:
            with acting_for(stranger):
                assert not (await client.list_experiments(ListExperimentsRequest())).experiments
                for call in (
                    client.get_experiment(GetExperimentRequest(name="secret")),
                    client.get_results(GetResultsRequest(name="secret")),
                    client.start_experiment(StartExperimentRequest(name="secret")),
                    client.stop_experiment(StopExperimentRequest(name="secret", reason="r")),
                    client.delete_experiment(DeleteExperimentRequest(name="secret")),
                    client.assign_unit(AssignUnitRequest(name="secret", unit="u")),
                    client.record_exposures(RecordExposuresRequest(name="secret", units=["u"])),
                    record(client, Outcome(unit="u", metric="cost", value=1), name="secret"),
                ):
                    with pytest.raises(NotFound):
                        await call
        with pytest.raises(Forbidden, match="outside the wall"):
            await client.create_experiment(definition("mine", walls=["deal"]))
        with acting_for(inside):
            assert (await client.get_experiment(GetExperimentRequest(name="secret"))).state == Experiment.RUNNING


async def test_concurrent_recording_of_the_same_units_loses_nothing(profile: Profile) -> None:
    async with experiments(profile) as client:
        await started(client, metrics=[COST])
        units = [f"user-{number}" for number in range(200)]
        await asyncio.gather(
            *(client.record_exposures(RecordExposuresRequest(name="test", units=units)) for _ in range(4)),
            *(client.record_exposures(RecordExposuresRequest(name="test", units=units[::-1])) for _ in range(4)),
        )
        outcomes = [Outcome(unit=unit, metric="cost", value=1) for unit in units]
        await asyncio.gather(*(record(client, *outcomes[:: 1 if turn % 2 else -1]) for turn in range(8)))
        results = await client.get_results(GetResultsRequest(name="test"))
        assert sum(arm.units for arm in results.arms) == 200
        comparison = by_metric(results)["cost"]
        assert (comparison.value, comparison.control_value) == (8.0, 8.0)


async def test_an_experiment_has_a_maximum_of_units(profile: Profile) -> None:
    clock = DoubleClock()
    async with hosted(profile, ["experiments"]) as host, own_database(profile) as database:
        store = ExperimentStore(database, host.audit("experiments"))
        client = host.client(ExperimentsClient)
        await started(client, "other", metrics=[COST])
        stored = await store.get(WHO, "other")
        recorder = Recorder(database, clock, 2)
        assert (await recorder.exposures(stored, ["a", "b", "c"])).added == 3  # the count is older than the request
        clock.now += COUNT_SECONDS + 1
        with pytest.raises(InvalidRequest, match="3 units, the maximum is 2"):
            await recorder.exposures(stored, ["d"])


async def test_ids_of_outcomes_are_forgotten_after_their_days(profile: Profile) -> None:
    async with experiments(profile) as client, own_database(profile) as database:
        await started(client, metrics=[COST])
        await expose(client, ["u"])
        old, new = (Outcome(unit="u", metric="cost", value=1, id=name) for name in ("old", "new"))
        assert await record(client, old) == (1, 0, 0)
        await database.run("update experiments.outcome_id set at = now() - interval '8 days'")
        assert await record(client, new) == (1, 0, 0)
        await Recorder(database, Clock(), 10).forget_ids(7)
        assert await record(client, new) == (0, 1, 0)
        assert await record(client, old) == (1, 0, 0)


async def test_values_from_before_narrow_the_interval(profile: Profile) -> None:
    """CUPED: half of the variance of each unit's cost is known from before the experiment."""
    adjusted = COST | {"name": "adjusted", "covariate": True}
    ratio = WAIT | {"name": "adjusted-wait", "covariate": True}
    async with experiments(profile) as client:
        await started(client, metrics=[COST, adjusted, WAIT, ratio])
        units = [f"user-{number}" for number in range(1400)]
        arms = await expose(client, units)
        random = Random(7)
        for begin in range(0, len(units), 100):
            outcomes = []
            for unit in units[begin : begin + 100]:
                before, now = random.gauss(), random.gauss()
                value = 10 + before + now + (0.5 if unit in arms["candidate"] else 0)
                outcomes += [Outcome(unit=unit, metric=name, value=value) for name in ("cost", "adjusted", "wait")]
                outcomes += [
                    Outcome(unit=unit, metric="adjusted-wait", value=value, denominator=1),
                    Outcome(unit=unit, metric="adjusted", value=before, covariate=True),
                    Outcome(unit=unit, metric="adjusted-wait", value=10 + before, covariate=True),
                ]
            await record(client, *outcomes)
        found = by_metric(await client.get_results(GetResultsRequest(name="test")))
        widths = {name: one.difference.upper - one.difference.lower for name, one in found.items()}
        assert widths["adjusted"] == pytest.approx(widths["cost"] / math.sqrt(2), rel=0.1)
        assert widths["adjusted-wait"] == pytest.approx(widths["wait"] / math.sqrt(2), rel=0.1)
        for one in found.values():
            assert one.difference.lower < 0.5 < one.difference.upper
        with pytest.raises(InvalidRequest, match="covariate needs a metric with `covariate`"):
            await record(client, Outcome(unit="user-1", metric="cost", value=1, covariate=True))


async def test_an_event_that_cannot_be_applied_is_lost_and_holds_nothing_up(profile: Profile) -> None:
    async with hosted(profile, ["experiments"]) as host, own_database(profile) as database:
        client = host.client(ExperimentsClient)
        await started(client, "broken", metrics=[COST])
        await started(client, "whole", metrics=[COST])
        keys = {row["name"]: row["key"] for row in await database.all("select name, key from experiment")}
        broken = {"experiment": keys["broken"], "unit": "no hash", "arm": 0, "response": "r1"}
        whole = {"experiment": keys["whole"], "unit": "00" * 16, "arm": 0, "response": "r2"}
        for event in (broken, whole, {"experiment": 999_999, "not_assigned": 1}):
            await database.run(
                "insert into audit.outbox (topic, body) values ('experiments', %s)", orjson.dumps(event).decode()
            )

        async def applied() -> bool:
            return await database.all("select from audit.outbox") == []

        await until(applied, "the events")
        rows = await database.all("select experiment, recorded, lost from delivery")
        assert {row["experiment"]: (row["recorded"], row["lost"]) for row in rows} == {
            keys["broken"]: (0, 1),
            keys["whole"]: (1, 0),
        }
