"""Slot pool with several tenants: the prefix cache is reused only for the same tenant."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from drw.kernel.rpc.context import Principal
from drw.models.serving.engines.cache_salt import cache_salt
from drw.models.serving.engines.slots import SlotPool

prompts = st.lists(st.integers(0, 2), max_size=6)
requests = st.lists(
    st.tuples(st.sampled_from("abc"), prompts, st.integers(0, 4), st.booleans()), min_size=1, max_size=40
)


@settings(derandomize=True)
@given(requests=requests, number=st.integers(1, 4))
def test_a_slot_cache_is_reused_only_by_its_last_tenant(
    requests: list[tuple[str, list[int], int, bool]], number: int
) -> None:
    last: dict[int, str] = {}
    busy: set[int] = set()

    async def ask(slots: SlotPool, tenant: str, tokens: list[int], steps: int, is_read: bool) -> None:
        async with slots.acquire(tenant, tokens) as lease:
            slot = lease.slot_id
            assert slot not in busy and 0 <= slot < number
            assert lease.reuse == (last.get(slot) == tenant)
            busy.add(slot)
            if is_read:
                lease.prompt_read()
                last[slot] = tenant
            elif not lease.reuse:  # what was there before may be there yet
                last.pop(slot, None)
            for _ in range(steps):
                await asyncio.sleep(0)
            busy.remove(slot)

    async def all_at_once() -> None:
        slots = SlotPool(number)
        await asyncio.gather(*(ask(slots, *request) for request in requests))

    asyncio.run(all_at_once())


async def test_a_conversation_gets_the_slot_with_the_longest_shared_prefix() -> None:
    slots = SlotPool(3)
    for tokens in ([1, 2, 3], [7, 8, 9], [1, 2, 3, 4, 5]):
        async with slots.acquire("a", tokens) as lease:
            lease.prompt_read()
            last_slot = lease.slot_id
    async with slots.acquire("a", [7, 8, 9, 10]) as lease:
        assert (lease.reuse, lease.slot_id != last_slot) == (True, True)
    async with slots.acquire("b", [7, 8, 9, 10]) as lease:
        assert not lease.reuse


async def test_a_cancelled_wait_takes_no_slot() -> None:
    slots = SlotPool(1)
    async with slots.acquire("a", []) as lease:
        lease.prompt_read()
        waiting = asyncio.create_task(slots.acquire("b", []).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with slots.acquire("a", []) as lease:
        assert lease.reuse


def test_cache_salts_depend_on_org_desk_walls_and_secret_only() -> None:
    principals = [
        Principal("o", "d", "k"),
        Principal("o", "", "d"),
        Principal("od", "", "k"),
        Principal("o", "d", "k", walls=frozenset("w")),
        Principal("o", "d", "k", walls=frozenset({"w", "v"})),
        Principal("o", "d", "k", walls=frozenset({"wv"})),
        None,
    ]
    assert (
        len({cache_salt(each) for each in principals})
        == len({cache_salt(each, "secret") for each in principals})
        == len(principals)
    )
    assert cache_salt(Principal("o", "d", "other", frozenset({"models:invoke"}))) == cache_salt(principals[0])
    assert cache_salt(principals[0], "secret") != cache_salt(principals[0], "other") != cache_salt(principals[0])
