"""Questions under experiments with retrieval settings: the search of each arm, exposures, and what an arm cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import psycopg
import pytest

from drw.api.models.v1 import experiments_rpc
from drw.api.models.v1.experiments_pb2 import RoutedExperiment, Routing, WatchRoutingRequest
from drw.api.rag.v1.retrieval_pb2 import Answer, AskEvent, AskRequest, SearchRequest
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.api.rag.v1.vector_store_pb2 import CreateCollectionRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.errors import InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.rpc.json_messages import from_json
from drw.kernel.runtime.host import Host, ServiceContext
from drw.kernel.runtime.settings import Profile
from drw.routing.assignment import Allocation, unit_hash
from rag.passages import put
from rag.retrieval.filings import DoubleServing, fill
from support.hosting import hosted
from support.json_types import Json, JsonObject

QUESTION = "What was the gross margin?"
SEED, KEY = "seed", 7
INTEL = {"type": "eq", "key": "ticker", "value": "INTC"}
APPLE = {"type": "eq", "key": "ticker", "value": "AAPL"}


class DoubleExperiments(experiments_rpc.Experiments):
    """Streams the configured state."""

    def __init__(self) -> None:
        self.routing = Routing(expires_at=2**40)

    async def watch_routing(self, request: WatchRoutingRequest) -> AsyncIterator[Routing]:
        yield self.routing
        await asyncio.Event().wait()


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> DoubleExperiments:
    """Replaces the experiments service by a double."""
    double = DoubleExperiments()

    async def build(scope: ServiceContext) -> DoubleExperiments:
        return double

    monkeypatch.setattr("drw.models.experiments.service.build", build)
    return double


@pytest.fixture
async def host(
    profile: Profile, caller: Principal, doubles: None, how: str, experiments: DoubleExperiments, retrieval: JsonObject
) -> AsyncIterator[Host]:
    """A host of retrieval with one running experiment, whose other arm has the settings of the test."""
    arms: list[Json] = [{"name": "control", "weight": 1}]
    arms.append({"name": "other", "weight": 1, "treatment": {"retrieval": retrieval}})
    routed = {"key": KEY, "org": caller.org, "desk": caller.desk, "name": "swap", "alias": "fast", "unit": "user"}
    routed |= {"seed": SEED, "traffic_percent": 100, "arms": arms}
    experiments.routing.experiments.append(from_json(routed, RoutedExperiment))
    services = ["vector_store", "embedding", "serving", "experiments", "retrieval"]
    async with hosted(profile, services, how) as running:
        with acting_for(caller):
            await fill(running.client(VectorStoreClient))
            async with asyncio.timeout(60):
                while not (await ask(running, user_of("other")))[1].experiment:
                    await asyncio.sleep(0.02)
            yield running


def user_of(arm: str) -> str:
    allocation = Allocation.of_weights(SEED, (1, 1), 100)
    index = ("control", "other").index(arm)
    return next(user for user in map(str, range(100)) if allocation.arm(user) == index)


async def ask(host: Host, user: str = "", **more: Json) -> tuple[Sequence[str], Answer]:
    """Ask as a user; return the documents of the passages, and the answer."""
    fields: JsonObject = {"collection": "filings", "question": QUESTION, "model": "fast", "user": user, **more}
    events: list[AskEvent] = [event async for event in host.client(RetrievalClient).ask(from_json(fields, AskRequest))]
    return [passage.document for passage in events[0].sources.passages], events[-1].answer


def exposures(profile: Profile) -> list[Any]:
    with psycopg.connect(profile.postgres) as connection:
        query = "select body from audit.outbox where topic = 'experiments' order by id"
        return [row[0] for row in connection.execute(query)]


def records(profile: Profile, action: str) -> list[Any]:
    with psycopg.connect(profile.postgres) as connection:
        rows = [orjson.loads(row[0]) for row in connection.execute("select record from audit.inbox order by id")]
    return [record for record in rows if record["action"] == action]


@pytest.mark.parametrize("retrieval", [{"limit": 1, "filter": INTEL}])
async def test_arms_search_differently_and_the_call_carries_the_arm(
    host: Host, serving: DoubleServing, profile: Profile
) -> None:
    serving.texts = ["It moved [1]."]
    control, first = await ask(host, user_of("control"))
    other, second = await ask(host, user_of("other"))
    assert (len(control), set(control)) == (4, {"file-a", "file-i"})
    assert other == ["file-i"] == [citation.passage.document for citation in second.citations]
    assert (first.experiment, second.experiment) == ("swap/control", "swap/other")
    assert first.id != second.id and first.id.startswith("ask_")
    sent = serving.requests[-1]
    assert (sent.response_id, sent.user, sent.assignment.experiment) == (second.id, user_of("other"), KEY)
    assert (sent.assignment.arm, sent.assignment.arm_name) == (1, "other")
    assert sent.assignment.unit == unit_hash(KEY, user_of("other"))
    assert sent.assignment.treatment.retrieval.limit == 1
    for action in ("collection.ask", "collection.answer"):
        assert records(profile, action)[-1]["details"]["experiment"] == "swap/other"
    assert exposures(profile) == []  # serving writes them with its call


@pytest.mark.parametrize("retrieval", [{"limit": 2, "filter": INTEL}])
async def test_an_arm_never_finds_what_the_request_excludes(host: Host) -> None:
    other = user_of("other")
    assert len((await ask(host, other, limit=1))[0]) == 1
    assert len((await ask(host, other, limit=20))[0]) == 2
    assert (await ask(host, other, filter=APPLE))[0] == []
    deep: JsonObject = APPLE | {"type": "ne"}
    for _ in range(7):  # as deep as a filter can be: the arm's filter must not make it too deep
        deep = {"type": "and", "filters": [deep]}
    assert set((await ask(host, other, filter=deep))[0]) == {"file-i"}


@pytest.mark.parametrize("retrieval", [{"score_threshold": 0.5}])
async def test_the_higher_of_two_thresholds_applies(host: Host) -> None:
    """Also to a request without an arm."""
    question = "Which total net sales and gross margin rose in millions?"
    search = SearchRequest(collection="filings", question=question)
    scores = [passage.score for passage in (await host.client(RetrievalClient).search(search)).passages]
    for user, requested, applied in (
        ("control", 0, 0),
        ("control", 0.9, 0.9),
        ("other", 0.1, 0.5),
        ("other", 0.9, 0.9),
    ):
        passages, _ = await ask(host, user_of(user), question=question, score_threshold=requested)
        assert len(passages) == sum(score >= applied for score in scores), (user, requested)
    assert len(scores) == 4 and len({sum(score >= least for score in scores) for least in (0.1, 0.5, 0.9)}) == 3


@pytest.mark.parametrize("retrieval", [{"auto_filters": False}])
async def test_an_arm_turns_automatic_filters_off_only_where_the_request_does_not_decide(host: Host) -> None:
    question = "What was the gross margin of Apple?"
    assert set((await ask(host, user_of("control"), question=question))[0]) == {"file-a"}
    assert set((await ask(host, user_of("other"), question=question))[0]) == {"file-a", "file-i"}
    assert set((await ask(host, user_of("other"), question=question, auto_filters=True))[0]) == {"file-a"}


@pytest.mark.parametrize("retrieval", [{"filter": {"type": "eq", "key": "ticker", "value": "NONE"}}])
async def test_a_question_without_passages_is_an_exposure_too(
    host: Host, serving: DoubleServing, profile: Profile
) -> None:
    before = len(exposures(profile))
    assert before >= 1  # of the fixture: a question that no model answers
    serving.requests.clear()
    passages, answer = await ask(host, user_of("other"))
    assert (passages, answer.experiment) == ([], "swap/other")
    assert serving.requests == []
    event = exposures(profile)[-1]
    assert len(exposures(profile)) == before + 1
    assert (event["experiment"], event["arm"], event["response"]) == (KEY, 1, answer.id)
    assert event["unit"] == unit_hash(KEY, user_of("other")).hex()
    assert len(event["settings"]) == 64 and "outcomes" not in event


@pytest.mark.parametrize("retrieval", [{"limit": 1}])
async def test_an_unanswered_question_is_an_exposure_too(host: Host, serving: DoubleServing, profile: Profile) -> None:
    serving.error = "the model is gone"
    _, answer = await ask(host, user_of("other"))
    assert answer.incomplete and exposures(profile)[-1]["response"] == answer.id


@pytest.mark.parametrize("retrieval", [{"limit": 1}])
async def test_a_failed_search_is_an_error_of_the_arm_and_a_mistake_of_the_caller_is_not(
    host: Host, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound):
        await ask(host, user_of("other"), collection="missing")
    with pytest.raises(InvalidRequest, match="filter"):
        await ask(host, user_of("other"), filter={"type": "near"})
    assert exposures(profile) == []

    async def fail(*_: Any) -> None:
        raise Unavailable("the index does not answer")

    monkeypatch.setattr("drw.rag.vector_store.service.search", fail)
    with pytest.raises(Unavailable):
        await ask(host, user_of("other"))
    (event,) = exposures(profile)
    assert (event["arm"], event["outcomes"]["ERROR"]) == (1, 1)


@pytest.mark.parametrize("retrieval", [{"limit": 1}])
async def test_other_tenants_and_other_models_get_no_arm(
    host: Host, serving: DoubleServing, caller: Principal, profile: Profile
) -> None:
    strangers = (
        Principal(caller.org, "equities", "key_2", caller.scopes),
        Principal("beta", caller.desk, "key_3", caller.scopes),
    )
    for stranger in strangers:
        with acting_for(stranger):
            with pytest.raises(NotFound):  # the documents of the desk with the experiment
                await ask(host, user_of("other"))
            store = host.client(VectorStoreClient)
            await store.create_collection(CreateCollectionRequest(name="filings"))
            await store.put_document(put("filings", "theirs", ["Gross margin rose.", "Gross margin fell."]))
            passages, answer = await ask(host, user_of("other"))
            assert (passages, answer.experiment) == (["theirs", "theirs"], "")
    for more in ({"model": "double"}, {"model": ""}):
        passages, answer = await ask(host, user_of("other"), **more)
        assert len(passages) == 4 and not answer.experiment
        assert not serving.requests[-1].HasField("assignment")
    assert exposures(profile) == []


@pytest.mark.parametrize("retrieval", [{"limit": 1}])
async def test_a_question_without_its_unit_gets_the_control_arm_and_says_so(host: Host, serving: DoubleServing) -> None:
    passages, answer = await ask(host)
    assert len(passages) == 4 and not answer.experiment
    sent = serving.requests[-1].assignment
    assert (sent.experiment, sent.unit) == (KEY, b"")  # serving counts it as not assigned


@pytest.mark.parametrize("retrieval", [{"limit": 1}])
@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
async def test_a_threshold_outside_of_its_bounds_is_refused(host: Host, threshold: float) -> None:
    client = host.client(RetrievalClient)
    with pytest.raises(InvalidRequest, match="score_threshold"):
        await client.search(SearchRequest(collection="filings", question="x", score_threshold=threshold))
