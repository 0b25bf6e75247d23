"""Slots of an engine under many tenants at once: what one was read is never another's to use."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from drw.kernel.rpc.context import Principal
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.slots import Slots

prompts = st.lists(st.integers(0, 2), max_size=6)
requests = st.lists(
    st.tuples(st.sampled_from("abc"), prompts, st.integers(0, 4), st.booleans()), min_size=1, max_size=40
)


@settings(deadline=None, derandomize=True)
@given(requests=requests, number=st.integers(1, 4))
def test_a_slot_is_reused_only_by_whoever_used_it_last(requests: Any, number: Any) -> None:
    last: dict[int, str] = {}
    busy: set[int] = set()

    async def ask(slots: Slots, tenant: str, tokens: list[int], steps: int, is_read: bool) -> None:
        async with slots.turn(tenant, tokens) as turn:
            slot = turn.slot
            assert slot not in busy and 0 <= slot < number
            assert turn.reuse == (last.get(slot) == tenant)
            busy.add(slot)
            if is_read:
                turn.read()
                last[slot] = tenant
            elif not turn.reuse:  # what was there before may be there yet
                last.pop(slot, None)
            for _ in range(steps):
                await asyncio.sleep(0)
            busy.remove(slot)

    async def all_at_once() -> None:
        slots = Slots(number)
        await asyncio.gather(*(ask(slots, *request) for request in requests))

    asyncio.run(all_at_once())


async def test_a_conversation_gets_the_slot_that_holds_most_of_it() -> None:
    slots = Slots(3)
    for tokens in ([1, 2, 3], [7, 8, 9], [1, 2, 3, 4, 5]):
        async with slots.turn("a", tokens) as turn:
            turn.read()
            found = turn.slot
    async with slots.turn("a", [7, 8, 9, 10]) as turn:
        assert (turn.reuse, turn.slot != found) == (True, True)
    async with slots.turn("b", [7, 8, 9, 10]) as turn:
        assert not turn.reuse


async def test_a_caller_who_leaves_the_line_takes_no_slot() -> None:
    slots = Slots(1)
    async with slots.turn("a", []) as turn:
        turn.read()
        waiting = asyncio.create_task(slots.turn("b", []).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with slots.turn("a", []) as turn:
        assert turn.reuse


def test_salts_differ_by_org_desk_walls_and_secret_and_by_nothing_else() -> None:
    who = [
        Principal("o", "d", "k"),
        Principal("o", "", "d"),
        Principal("od", "", "k"),
        Principal("o", "d", "k", walls=frozenset("w")),
        Principal("o", "d", "k", walls=frozenset({"w", "v"})),
        Principal("o", "d", "k", walls=frozenset({"wv"})),
        None,
    ]
    assert len({cache_salt(each) for each in who}) == len({cache_salt(each, "secret") for each in who}) == len(who)
    assert cache_salt(Principal("o", "d", "other", frozenset({"models:invoke"}))) == cache_salt(who[0])
    assert cache_salt(who[0], "secret") != cache_salt(who[0], "other") != cache_salt(who[0])
