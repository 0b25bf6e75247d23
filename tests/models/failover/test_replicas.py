"""Replicas, aliases and deadlines through the serving service."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

import orjson
import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.api.models.v1.discovery_pb2 import Alias, DeleteAliasRequest, WeightedTarget
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.api.models.v1.serving_pb2 import ChatChunk, ChatMessage, ChatRequest
from drw.api.models.v1.serving_rpc import ServingClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.killswitch.watch import KillList
from drw.models.serving import composition
from drw.models.serving.routing.admission_queue import AdmissionQueue
from models.failover.double_upstream import TEXT, THOUGHTS
from models.failover.time_loop import passing
from models.failover.world import Reply, World, fallbacks
from support.json_types import JsonObject

BEHAVIOURS = [
    *["healthy"] * 6,
    *(
        "limited",
        "status_500",
        "status_503",
        "status_400",
        "reset",
        "silent",
        "slow_start",
        "cut",
        "stall",
        "malformed",
    ),
    *("no_field", "no_done", "no_finish", "too_long", "filtered", "filtered_end", "no_prefill", "echo", "redirect"),
    *("aborted", "heartbeats"),
]
ADMIN = Principal("acme", "research", "key_admin", frozenset({"platform:admin", "models:invoke"}))
SESSION = {"x-session-id": "s1"}


@pytest.fixture
def in_replicas(in_world: Callable[..., None]) -> Callable[..., None]:
    """Run a case with three replicas of `primary`: `primary`, `b` and `c`."""
    return lambda case, **primary: in_world(case, replicas=("b", "c"), primary=primary)


async def answering_upstreams(world: World, *requests: JsonObject) -> list[str]:
    """Send requests one after the other; return the upstream that answered each."""
    records = []
    for more in requests:
        before = {name: each.request_count for name, each in world.upstreams.items()}
        reply = await world.ask(stream=False, **more)
        assert reply.verdict == "whole", reply
        records.append(next(name for name, each in world.upstreams.items() if each.request_count > before[name]))
    return records


def test_requests_spread_over_replicas_and_a_session_stays(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        busy = [asyncio.ensure_future(world.ask(stream=False)) for _ in range(9)]
        await asyncio.gather(*busy)
        assert {world[name].request_count for name in ("primary", "b", "c")} <= {2, 3, 4}
        for more in ({"headers": SESSION}, {"prompt_cache_key": "k"}, {"user": "u"}):
            assert len(set(await answering_upstreams(world, *[more] * 6))) == 1
        replicas_used = await answering_upstreams(world, *({"headers": {"x-session-id": f"s{i}"}} for i in range(20)))
        assert len(set(replicas_used)) == 3

    in_replicas(run)


def test_a_broken_replica_is_skipped_and_its_sessions_move(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        (replica_used,) = set(await answering_upstreams(world, {"headers": SESSION}))
        world[replica_used].script = ["status_503"]
        for _ in range(12):
            reply = await world.ask(stream=True, headers=SESSION)
            assert (reply.verdict, reply.model) == ("whole", "primary")  # another replica of the same model
        assert world[replica_used].request_count == 1 + 5  # then its circuit was open
        assert world["fallback"].request_count == 0
        world[replica_used].script = ["healthy"]
        await world.wait(3)
        assert await answering_upstreams(world, {"headers": SESSION}) == [
            replica_used
        ]  # the probe; the session is back at its replica

    in_replicas(run)


def test_prompts_with_the_same_prefix_go_to_one_replica(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        prefix = [{"role": "system", "content": "All that the desk must know. " * 60}]
        same = [{"messages": [*prefix, {"role": "user", "content": f"question {i}"}]} for i in range(6)]
        assert len(set(await answering_upstreams(world, *same))) == 1
        other = [{"messages": [{"role": "user", "content": f"{i} is how it begins"}]} for i in range(20)]
        assert len(set(await answering_upstreams(world, *other))) == 3

    in_replicas(run, affinity="prefix")


def test_a_conversation_stays_at_the_replica_of_its_first_question(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        replicas_used = []
        for first in range(12):
            said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {first}"}]
            turns = []
            for turn in range(3):
                turns.append({"messages": list(said)})
                said += [{"role": "assistant", "content": f"answer {turn}"}, {"role": "user", "content": "and then?"}]
            (replica_used,) = set(await answering_upstreams(world, *turns))
            replicas_used.append(replica_used)
        assert len(set(replicas_used)) > 1

    in_replicas(run, affinity="prefix")


def test_the_fallback_answers_when_all_replicas_are_broken(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        for name in ("primary", "b", "c"):
            world[name].script = ["reset"]
        reply = await world.ask(stream=True)
        assert (reply.verdict, reply.model) == ("whole", "fallback")
        assert [world[name].request_count for name in ("primary", "b", "c", "fallback")] == [1, 1, 1, 1]

    in_replicas(run)


def test_a_stream_continues_at_another_replica_of_the_model(in_replicas: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        (replica_used,) = set(await answering_upstreams(world, {"headers": SESSION}))
        world[replica_used].script = ["cut"]
        reply = await world.ask(stream=True, headers=SESSION)
        assert (reply.verdict, reply.models) == ("whole", ["primary"])

    in_replicas(run)


def test_a_new_alias_applies_to_the_next_request_and_is_listed(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        discovery = world.host.client(DiscoveryClient)

        async def set_targets(**weights: int) -> None:
            targets = [WeightedTarget(model=model, weight=weight) for model, weight in weights.items()]
            with acting_for(ADMIN):
                await discovery.set_alias(Alias(name="fast", targets=targets))

        async def shares() -> Counter[str]:
            replies = [await world.ask(stream=False, model="fast", user=f"u{i}") for i in range(40)]
            return Counter(reply.model for reply in replies)

        async def wait_until_effective(users: range, is_new: Callable[[Reply], bool]) -> None:
            """Wait until serving has received the change, as an answer for one of the users shows."""
            async with asyncio.timeout(30):
                while not any([is_new(await world.ask(stream=False, model="fast", user=f"u{i}")) for i in users]):
                    await asyncio.sleep(0)

        await set_targets(primary=1)
        assert await shares() == {"primary": 40}
        await set_targets(fallback=1)
        await wait_until_effective(range(1), lambda reply: reply.model == "fallback")
        assert await shares() == {"fallback": 40}
        await set_targets(primary=50, fallback=50)
        await wait_until_effective(range(40), lambda reply: reply.model == "primary")
        first = await shares()
        assert 8 < first["primary"] < 32
        assert await shares() == first  # sticky
        listed = (await world.http.get("/v1/models")).json()["data"]
        assert "fast" in {model["id"] for model in listed}
        assert (await world.http.get("/v1/models/fast")).json()["owned_by"] == "openai"
        with acting_for(ADMIN):
            await discovery.delete_alias(DeleteAliasRequest(name="fast"))
        await wait_until_effective(range(1), lambda reply: reply.status == 404)
        reply = await world.ask(stream=False, model="fast")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")

    in_world(run, remember_models_seconds=300)


def test_other_targets_of_an_alias_are_tried_before_its_fallbacks(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_500"]
        reply = await world.ask(stream=False, model="canary")
        assert (reply.verdict, reply.model) == ("whole", "fallback")
        world["fallback"].script = ["status_500"]
        reply = await world.ask(stream=False, model="canary")
        assert (reply.verdict, reply.model) == ("whole", "third")

    aliases = {"canary": {"targets": {"primary": 99, "fallback": 0}, "fallbacks": ["third"]}}
    in_world(run, third={}, aliases=aliases)


def test_rpc_calls_have_the_same_failover(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["cut", "silent"]
        client = world.host.client(ServingClient)

        async def chat() -> list[ChatChunk]:
            request = ChatRequest(model="primary", messages=[ChatMessage(role="user", content="Count.")])
            return [piece async for piece in client.chat(request)]

        for _ in range(2):
            with acting_for(ADMIN):
                *pieces, last = await passing(chat())
            assert "".join(piece.text for piece in pieces) == TEXT
            assert (last.model, last.finish_reason) == ("fallback", "stop")

    in_world(run)


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_covers_all_attempts(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        for name in ("primary", "fallback"):
            world[name].script = ["silent"]
        reply = await world.ask(stream=stream)
        assert (reply.verdict, reply.status) == ("error", 504)
        assert reply.seconds < 10  # 4 for the first half, 4 for the rest
        assert [a["outcome"] for a in world.records()[0]["details"]["attempts"]] == ["stalled", "out_of_time"]
        world["primary"].script = ["status_503"]
        assert (await world.ask(stream=stream)).seconds < 10

    deadlines = {"first_token_seconds": 100, "total_seconds": 8}
    in_world(run, primary={"deadlines": deadlines}, fallback={"deadlines": deadlines})


def test_a_hanging_probe_delays_the_request_only_briefly(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_503"] * 5 + ["silent"]
        for _ in range(5):
            await world.ask(stream=False)
        await world.wait(3)
        reply = await world.ask(stream=False)
        assert (reply.verdict, reply.model) == ("whole", "fallback")
        assert 1 < reply.seconds < 5
        assert world.circuit("primary") == 2
        assert (await world.ask(stream=False)).seconds < 1

    deadlines = {"first_token_seconds": 100, "total_seconds": 300}
    in_world(run, primary={"deadlines": deadlines}, circuits={"probe_seconds": 2})


def test_a_fallback_killed_during_the_request_is_skipped(
    in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(world: World) -> None:
        def find_model(kills: KillList, principal: Principal, model: str) -> Kill | None:
            return Kill(name=model) if world["primary"].request_count and model == "fallback" else None

        monkeypatch.setattr(KillList, "find_model", find_model)
        world["primary"].script = ["status_500"]
        reply = await world.ask(stream=False)
        assert (reply.verdict, reply.model, world["fallback"].request_count) == ("whole", "third", 0)

    in_world(run, third={})


def test_requests_during_a_probe_receive_503_with_retry_after(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_503"] * 5 + ["held", "healthy"]
        for _ in range(2):
            await world.ask(stream=False)
        await world.wait(21)
        probing = asyncio.ensure_future(world.http.post("/v1/chat/completions", json=BODY))
        await until(lambda: world["primary"].under_way == 1)
        assert world.circuit("primary") == 1
        assert "half-open: probing" in await world.status()
        reply = await world.ask(stream=False)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "another request probes it" in reply.error["message"]
        world["primary"].go.set()
        assert (await probing).status_code == 200
        assert world.circuit("primary") == 0
        assert (await world.ask(stream=False)).verdict == "whole"

    in_world(run, primary={"fallbacks": []}, circuits={"open_seconds": 20})


def test_a_stream_abandoned_before_the_circuit_opened_does_not_end_the_probe(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["held_stream"] + ["status_503"] * 5 + ["held"]
        live = BODY | {"stream": True}
        async with world.http.stream("POST", "/v1/chat/completions", json=live) as old:
            lines = old.aiter_lines()
            await anext(lines)
            for _ in range(2):
                await world.ask(stream=False)
            await world.wait(21)
            probing = asyncio.ensure_future(world.http.post("/v1/chat/completions", json=BODY))
            await until(lambda: world["primary"].under_way == 2)
        await until(lambda: world["primary"].under_way == 1)
        await until(lambda: any(r["outcome"] == "client_gone" for r in world.records()))
        assert world.circuit("primary") == 1
        assert (await world.ask(stream=False)).status == 503
        world["primary"].go.set()
        assert (await probing).status_code == 200
        assert world["primary"].request_count == 1 + 5 + 1

    patient = {"first_token_seconds": 100, "between_tokens_seconds": 100, "total_seconds": 300}
    in_world(run, primary={"fallbacks": [], "deadlines": patient}, circuits={"open_seconds": 20})


def test_a_queued_request_moves_on_when_the_circuit_opens(
    in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CountingQueue(AdmissionQueue):
        waiting = 0

        async def _wait(self, seconds: float, *, background: bool) -> None:
            CountingQueue.waiting += 1
            await super()._wait(seconds, background=background)

    async def run(world: World) -> None:
        world["primary"].script = ["held_500"]
        requests = [asyncio.ensure_future(world.http.post("/v1/chat/completions", json=BODY)) for _ in range(2)]
        await until(lambda: CountingQueue.waiting == 1 and world["primary"].under_way == 1)
        world["primary"].go.set()
        assert [(await each).json()["model"] for each in requests] == ["fallback"] * 2
        assert world["primary"].request_count == 1
        outcomes = [[a["outcome"] for a in r["details"]["attempts"]] for r in world.records()]
        assert sorted(outcomes) == [["circuit_open", "ok"], ["unavailable", "ok"]]

    monkeypatch.setattr(composition, "AdmissionQueue", CountingQueue)
    in_world(run, primary={"max_concurrent": 1}, circuits={"consecutive_failures": 1})


def test_without_candidates_the_error_has_a_retry_after(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_503"]
        for _ in range(3):
            reply = await world.ask(stream=False)
        assert (reply.status, reply.error["code"]) == (503, "service_unavailable")
        asked = world["primary"].request_count
        reply = await world.ask(stream=False)
        assert (reply.status, "receives no requests for" in reply.error["message"]) == (503, True)
        assert 1 <= int(reply.headers["retry-after"]) <= 20
        assert world["primary"].request_count == asked
        await world.wait(20)
        world["primary"].script = ["healthy"]
        assert (await world.ask(stream=False)).verdict == "whole"

    in_world(run, primary={"fallbacks": []}, circuits={"open_seconds": 20})


def test_a_fallback_that_repeats_the_text_causes_no_duplicate_text(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script, world["fallback"].script = ["cut"], ["echo"]
        assert (await world.ask(stream=True)).verdict == "whole"

    in_world(run)


def test_the_retry_after_of_a_failing_upstream_reaches_the_caller(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["maintenance"]
        for said in ("in maintenance", "accepts no requests for 40 s"):
            reply = await world.ask(stream=False)
            assert (reply.status, reply.headers["retry-after"]) == (503, "40")
            assert said in reply.error["message"]
        assert world["primary"].request_count == 1

    in_world(run, primary={"fallbacks": []})


def test_redirects_of_an_upstream_are_not_followed(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["redirect"]
        reply = await world.ask(stream=False)
        assert (reply.verdict, reply.model) == ("whole", "fallback")

    in_world(run)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
    ],
    ids=["n", "logprobs", "tools", "json"],
)
def test_a_stream_that_cannot_be_continued_ends_with_an_error_event(
    in_world: Callable[..., None], more: JsonObject
) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["cut"]
        reply = await world.ask(stream=True, **more)
        assert (reply.status, reply.verdict, reply.done) == (200, "error", False)
        assert world["fallback"].request_count == 0

    in_world(run)


def test_a_stream_at_max_tokens_is_not_continued(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["cut"]
        assert (await world.ask(stream=True, max_tokens=40)).verdict == "error"
        reply = await world.ask(stream=True, max_tokens=60)
        assert reply.verdict == "whole"
        assert world["fallback"].bodies[-1]["max_tokens"] == 20

    in_world(run)


@pytest.mark.parametrize("stream", [False, True])
def test_an_aborted_answer_is_not_complete(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["aborted"]
        reply = await world.ask(stream=stream)
        assert (reply.verdict, reply.model) == ("whole", "fallback")
        assert [a["outcome"] for a in world.records()[0]["details"]["attempts"]] == ["cut", "ok"]

    in_world(run)


@pytest.mark.parametrize("stream", [False, True])
def test_keep_alive_events_do_not_extend_the_deadline(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["heartbeats"]
        reply = await world.ask(stream=stream)
        assert (reply.verdict, reply.model) == ("whole", "fallback")
        assert reply.seconds < 8

    in_world(run)


def test_reasoning_keeps_the_field_name_of_the_engine(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["thinking"]
        reply = await world.ask(stream=True)
        assert (reply.verdict, reply.model) == ("whole", "primary")  # 40 s of thoughts, 5 s for the first token
        answer = await passing(world.http.post("/v1/chat/completions", json=BODY))
        message = answer.json()["choices"][0]["message"]
        assert (message["reasoning"], message["content"]) == ("".join(THOUGHTS), TEXT)
        answer = await passing(world.http.post("/v1/chat/completions", json=BODY | {"stream": True}))
        events = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        assert [delta["reasoning"] for delta in deltas if "reasoning" in delta] == THOUGHTS
        assert world["fallback"].request_count == 0
        assert world.circuit("primary") == 0

    in_world(run)


def test_a_stream_with_reasoning_is_not_continued(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["cut_thinking"]
        reply = await world.ask(stream=True)
        assert (reply.verdict, reply.done) == ("error", False)
        assert world["fallback"].request_count == 0

    in_world(run)


@pytest.mark.parametrize("seed", range(3))
def test_with_random_failures_an_answer_is_complete_or_an_error_in_time(
    in_world: Callable[..., None], seed: int
) -> None:
    async def run(world: World) -> None:
        chance = Random(seed)
        verdicts: Counter[str] = Counter()
        for _ in range(60):
            for name in ("primary", "fallback", "third"):
                world[name].script = [chance.choice(BEHAVIOURS)]
            reply = await world.ask(stream=chance.random() < 0.7)
            said = [world[name].script for name in ("primary", "fallback", "third")]
            if reply.finish_reason == "content_filter":
                continue
            assert reply.verdict in ("whole", "error"), (said, reply)
            assert reply.seconds < 60 + 5, said
            verdicts[reply.verdict] += 1
            await world.wait(4)
        assert min(verdicts["whole"], verdicts["error"]) > 5

    never_open = {"consecutive_failures": 1000, "window": 1000}
    in_world(run, third={"context_length": 32768}, circuits=never_open)


def test_retries_stop_when_the_budget_is_exhausted(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_500"]
        for _ in range(20):
            assert (await world.ask(stream=False)).verdict == "error"
        assert 20 <= world["primary"].request_count <= 20 + 4  # 20 % of them

    retries = {"budget_floor": 0, "budget_ratio": 0.2}
    in_world(run, primary={"fallbacks": []}, retries=retries, circuits={"consecutive_failures": 1000, "window": 1000})


def test_a_long_answer_goes_to_a_model_with_a_sufficient_context(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        before = fallbacks("primary", "third", "context_length")
        reply = await world.ask(stream=False, max_tokens=9000)
        assert (reply.verdict, reply.model) == ("whole", "third")
        assert fallbacks("primary", "third", "context_length") == before + 1
        reply = await world.ask(stream=False, max_tokens=90000)
        assert (reply.status, reply.error["code"]) == (400, "invalid_value")
        assert "'third' have 32768 tokens" in reply.error["message"]

    in_world(run, third={"context_length": 32768})


def test_a_pooled_connection_closed_while_idle_is_not_a_failure(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        assert (await world.ask(stream=False)).verdict == "whole"
        world["primary"].script = ["reset", "healthy"]  # the first over the kept connection
        reply = await world.ask(stream=False)
        assert (reply.verdict, reply.model) == ("whole", "primary")
        assert len(world.records()[-1]["details"]["attempts"]) == 1

    in_world(run)


def test_a_disconnected_caller_is_not_counted_as_a_failure(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["silent"]
        asking = asyncio.ensure_future(world.http.post("/v1/chat/completions", json=BODY))
        await until(lambda: world["primary"].under_way == 1)
        asking.cancel()
        await until(lambda: world["primary"].under_way == 0)
        records: list[JsonObject] = []

        def arrived() -> bool:
            records.extend(world.records())
            return bool(records)

        await until(arrived)
        assert [a["outcome"] for a in records[0]["details"]["attempts"]] == ["client_gone"]
        assert world["fallback"].request_count == 0
        assert world.circuit("primary") == 0

    in_world(run)


BODY = {"model": "primary", "messages": [{"role": "user", "content": "Count."}]}


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not ready():
            await asyncio.sleep(0.005)
