"""Sixteen ways in which an upstream fails while one fallback is well, and the best that a caller can get of each.

After the catalogue of FailoverBench. A truncated answer passed off as whole, and a hang, are the two that must
never be. `python -m bench.failover` shows the sixteen as a table.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.failover.double_upstream import TEXT
from models.failover.world import PREFILL, Reply, World, fallbacks

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
NONE = {"prefill": "none"}


def case(number: int, name: str, best: str) -> pytest.MarkDecorator:
    return pytest.mark.case(number, name, best)


def is_complete(reply: Reply, model: str = "fallback", within: float = 1.0) -> None:
    """Assert that the answer is complete, from this model, and in time."""
    assert (reply.verdict, reply.error) == ("whole", {}), reply
    assert reply.model == model
    assert reply.seconds < within, f"took {reply.seconds} s"


def is_error(reply: Reply, code: str) -> None:
    assert reply.verdict == "error", reply
    assert reply.error["code"] == code
    assert reply.status == 200 or reply.text == ""


@case(1, "429 with Retry-After", "whole, by the fallback at once; the primary again when its time is over")
@BOTH
def test_a_429_is_answered_by_the_fallback_until_its_delay_ends(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["limited_long", "healthy"]
        is_complete(await world.ask(stream=stream))
        is_complete(await world.ask(stream=stream))
        assert world["primary"].request_count == 1
        await world.wait(40)
        is_complete(await world.ask(stream=stream), "primary")

    in_world(run)


@case(1, "429 with Retry-After", "without a fallback: whole, by the primary after its pause")
@BOTH
def test_a_429_without_a_fallback_is_retried_after_its_delay(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["limited", "healthy"]
        reply = await world.ask(stream=stream)
        is_complete(reply, "primary", within=5)
        assert reply.seconds > 3
        world["primary"].script = ["limited_long"]
        reply = await world.ask(stream=stream)
        is_error(reply, "rate_limit_exceeded")
        assert (reply.status, reply.headers["retry-after"]) == (429, "40")
        assert reply.seconds < 1

    in_world(run, primary={"fallbacks": []})


@case(2, "lasting 429", "whole, by the fallback; the primary asked once in its Retry-After")
@BOTH
def test_a_lasting_429_is_answered_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["limited_long"]
        for _ in range(12):
            is_complete(await world.ask(stream=stream))
            await world.wait(5)
        assert world["primary"].request_count == 2
        assert world.circuit("primary") == 0  # a limit is no fault

    in_world(run)


@case(3, "one 500", "whole, by the fallback at once; the next by the primary")
@BOTH
def test_one_500_is_answered_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_500", "healthy"]
        is_complete(await world.ask(stream=stream))
        is_complete(await world.ask(stream=stream), "primary")

    in_world(run)


@case(3, "one 500", "without a fallback: whole, by the primary's second attempt")
@BOTH
def test_one_500_without_a_fallback_is_retried(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_500", "healthy"]
        is_complete(await world.ask(stream=stream), "primary")
        world["primary"].script = ["status_400"]
        is_error(await world.ask(stream=stream), "invalid_value")
        assert world["primary"].request_count == 3  # what the caller did wrong is not tried again

    in_world(run, primary={"fallbacks": []})


@case(4, "lasting 503", "whole, by the fallback; the circuit opens, and the primary is left alone")
@BOTH
def test_a_lasting_503_opens_the_circuit(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_503"]
        for _ in range(20):
            is_complete(await world.ask(stream=stream))
        assert world["primary"].request_count == 5
        assert world.circuit("primary") == 2
        assert "circuit of primary at" in await world.status()

    in_world(run, circuits={"open_seconds": 20})


@case(5, "TCP reset", "whole, by the fallback at once")
@BOTH
def test_a_tcp_reset_is_answered_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["reset"]
        is_complete(await world.ask(stream=stream))
        assert world["primary"].request_count == 1  # not twice in a row where there is another

    in_world(run)


@case(6, "no answer for 120 s", "whole, by the fallback when the first token is overdue")
@BOTH
def test_a_missing_answer_is_replaced_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["silent"]
        is_complete(await world.ask(stream=stream), within=8)
        await world.wait(0.1)
        assert world["primary"].under_way == 0  # the work nobody waits for is stopped

    in_world(run)


@case(7, "first token after 20 s", "whole, by the fallback when the first token is overdue")
@BOTH
def test_a_late_first_token_is_replaced_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["slow_start"]
        reply = await world.ask(stream=stream)
        is_complete(reply, within=8)
        assert reply.headers["x-drw-model"] == "fallback"

    in_world(run)


@case(8, "stream cut after 40 of 60 tokens", "whole: the fallback goes on where the primary broke off")
@BOTH
def test_a_truncated_stream_is_continued_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["cut"]
        reply = await world.ask(stream=stream)
        is_complete(reply)
        assert reply.models == (["primary", "fallback"] if stream else [])
        assert len(world["fallback"].bodies[0]["messages"]) == (2 if stream else 1)

    in_world(run)


@case(9, "30 s stall in mid-stream", "whole: the fallback goes on when the next token is overdue")
@BOTH
def test_a_stalled_stream_is_continued_by_the_fallback(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["stall"]
        is_complete(await world.ask(stream=stream), within=8)

    in_world(run)


@case(10, "malformed SSE event", "whole: the fallback goes on before it; no word is left out")
@pytest.mark.parametrize("how", ["malformed", "no_field"])
@BOTH
def test_a_stream_is_continued_from_before_a_malformed_event(
    in_world: Callable[..., None], stream: bool, how: str
) -> None:
    async def run(world: World) -> None:
        world["primary"].script = [how]
        is_complete(await world.ask(stream=stream))

    in_world(run)


@case(11, "missing [DONE]", "whole: the fallback says whether there is more")
@pytest.mark.parametrize("how", ["no_done", "no_finish"])
@BOTH
def test_a_stream_without_an_end_is_continued_by_the_fallback(
    in_world: Callable[..., None], stream: bool, how: str
) -> None:
    async def run(world: World) -> None:
        world["primary"].script = [how]
        is_complete(await world.ask(stream=stream))
        assert fallbacks("primary", "fallback", "cut") > 0

    in_world(run)


@case(12, "context_length_exceeded", "whole, by a model with more room")
@BOTH
def test_a_prompt_that_is_too_long_goes_to_a_model_with_a_longer_context(
    in_world: Callable[..., None], stream: bool
) -> None:
    async def with_room(world: World) -> None:
        world["primary"].script = ["too_long"]
        is_complete(await world.ask(stream=stream), "third")
        assert (world["fallback"].request_count, world["third"].request_count) == (0, 1)
        assert world.circuit("primary") == 0

    in_world(with_room, third={"context_length": 32768})


@case(12, "context_length_exceeded", "an error at once where no model has more room")
@BOTH
def test_a_prompt_that_is_too_long_for_every_model_is_an_error(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["too_long"]
        reply = await world.ask(stream=stream)
        is_error(reply, "context_length_exceeded")
        assert (reply.status, world["primary"].request_count, world["fallback"].request_count) == (400, 1, 0)

    in_world(run)


@case(13, "content filter", "the filter's own answer; nobody else is asked")
@pytest.mark.parametrize(
    "how", ["filtered", "filtered_in_parts", "filtered_end", "filtered_event", "filtered_cut", "filtered_stall"]
)
@BOTH
def test_a_filtered_answer_is_not_sent_to_another_model(in_world: Callable[..., None], stream: bool, how: str) -> None:
    async def run(world: World) -> None:
        world["primary"].script = [how]
        reply = await world.ask(stream=stream)
        if how == "filtered_end":
            assert (reply.finish_reason, reply.done, reply.model) == ("content_filter", True, "primary")
        else:
            is_error(reply, "content_filter")
        assert not reply.text or TEXT.startswith(reply.text)
        assert (world["primary"].request_count, world["fallback"].request_count) == (1, 0)
        assert world.circuit("primary") == 0

    in_world(run)


@case(14, "fallback refuses a prefill", "an error inside the stream; whole where nothing was sent yet")
@pytest.mark.parametrize("prefill", ["none", PREFILL], ids=["known", "unknown"])
@BOTH
def test_a_fallback_without_prefill_ends_a_started_stream_with_an_error(
    in_world: Callable[..., None], stream: bool, prefill: str
) -> None:
    async def run(world: World) -> None:
        world["primary"].script, world["fallback"].script = ["cut"], ["no_prefill"]
        reply = await world.ask(stream=stream)
        if stream:
            is_error(reply, "service_unavailable")
            assert not reply.done
            assert world["fallback"].request_count == (0 if prefill == "none" else 1)
        else:
            is_complete(reply)

    in_world(run, primary=NONE, fallback={"prefill": prefill})


@case(14, "fallback refuses a prefill", "whole where a further fallback takes one")
def test_a_fallback_without_prefill_is_skipped_for_one_with_prefill(in_world: Callable[..., None]) -> None:
    async def run(world: World) -> None:
        world["primary"].script, world["fallback"].script = ["cut"], ["no_prefill"]
        is_complete(await world.ask(stream=True), "third")

    in_world(run, third={})


@case(15, "60 s flap", "whole throughout; the circuit opens, probes, and closes within 30 s")
@BOTH
def test_every_answer_is_complete_while_an_upstream_flaps(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        world["primary"].script = ["status_503"]
        began, states = world.now(), []
        while world.now() - began < 60:
            is_complete(await world.ask(stream=stream))
            states.append(world.circuit("primary"))
            await world.wait(1)
        assert states == [0] * 4 + [2] * (len(states) - 4)
        assert 5 + 3 <= world["primary"].request_count <= 5 + 6  # five opened it; then came probes, ever later
        world["primary"].script, well = ["healthy"], world.now()
        while (reply := await world.ask(stream=stream)).model != "primary":
            is_complete(reply)
            await world.wait(1)
        is_complete(reply, "primary")
        assert world.now() - well < 30
        assert world.circuit("primary") == 0

    in_world(run)


@case(16, "accounting", "the caller sees who answered and the usage; record and metrics name each attempt")
@BOTH
def test_the_usage_of_every_attempt_is_recorded(in_world: Callable[..., None], stream: bool) -> None:
    async def run(world: World) -> None:
        before = fallbacks("primary", "fallback", "cut")
        world["primary"].script = ["cut"]
        reply = await world.ask(stream=stream)
        is_complete(reply)
        assert reply.usage
        assert reply.usage["total_tokens"] == 67 == reply.usage["prompt_tokens"] + reply.usage["completion_tokens"]
        assert abs(reply.usage["completion_tokens"] - 60) <= 1  # the white space at the seam is counted twice
        assert fallbacks("primary", "fallback", "cut") == before + 1
        (record,) = world.records()
        assert (record["resource"], record["outcome"]) == ("model/fallback", "ok")
        first, last = record["details"]["attempts"]
        assert (first["model"], first["outcome"], first["completion_tokens"]) == ("primary", "cut", 40)
        assert (last["model"], last["outcome"]) == ("fallback", "ok")
        assert last["prompt_tokens"] + last["completion_tokens"] == 67
        assert last["replica"] in world["fallback"].base_url
        assert record["details"]["completion_tokens"] == reply.usage["completion_tokens"]

    in_world(run)
