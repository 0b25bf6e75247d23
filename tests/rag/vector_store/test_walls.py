"""Nothing leaks through a wall: random worlds, callers and questions against a model of what each may see.

The checker is written apart from the store. To show that it would see a leak, it is run against stores whose one
filter was changed as somebody might: to an overlap, to the first wall alone, and to everything.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from drw.api.rag.v1.vector_store_pb2 import (
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteDocumentRequest,
    GetCollectionRequest,
    ListCollectionsRequest,
    ListDocumentsRequest,
    UpdateCollectionRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import Conflict, Forbidden, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from support.hosting import hosted
from support.passages import put, vector

WALLS = ("m-and-a", "research", "credit", "prime")
WORDS = ("copper", "zinc", "lead", "silver", "gold", "tin", "nickel", "iron")
WORLDS, CALLERS, QUESTIONS = {"exact": 20, "graph": 5}, 16, 25
"""10,000 questions, each by a caller with walls of its own in a world of its own."""
DOCUMENTS = 14
MUTATIONS = {
    "overlap": "select cardinality(object_walls) = 0 or object_walls && caller_walls",
    "first": "select cardinality(object_walls) = 0 or object_walls[1] = any(caller_walls)",
    "everything": "select true",
}


class Leaked(AssertionError):
    """A caller has learnt of what stands inside a wall that it is outside of."""


@dataclass(frozen=True)
class Put:
    """A document as the model knows it: whose it is, its walls with those of its collection, its words."""

    org: str
    desk: str
    collection: str
    id: str
    walls: frozenset[str]
    text: str
    year: int

    def is_seen_by(self, who: Principal) -> bool:
        return (self.org, self.desk) == (who.org, who.desk) and all(wall in who.walls for wall in self.walls)


@dataclass
class World:
    """Some desks' collections and documents in a real store, and the model of them."""

    store: VectorStoreClient
    name: str
    collections: dict[str, tuple[Principal, frozenset[str]]]
    documents: list[Put]


def someone(chance: random.Random, world: str) -> Principal:
    org, desk = chance.choice(("acme", "other")), chance.choice(("rates", "equities"))
    walls = frozenset(chance.sample(WALLS, chance.randint(0, len(WALLS))))
    return Principal(f"{org}-{world}", desk, "key", frozenset({"documents:read"}), walls)


async def made(store: VectorStoreClient, chance: random.Random, called: str) -> World:
    world = World(store, called, {}, [])
    names: set[tuple[str, str, frozenset[str]]] = set()
    for _ in range(4):
        who = replace(someone(chance, called), desk="rates")
        given = chance.sample(sorted(who.walls), chance.randint(0, len(who.walls)))
        walls, name = frozenset(given or who.walls), chance.choice("ab")
        taken = (who.org, name, walls) in names
        with acting_for(who):
            try:
                found = await store.create_collection(CreateCollectionRequest(name=name, walls=given))
            except Conflict:
                same(taken, True, "is told that a name is taken")
                continue
        same(taken, False, "is given the name")
        names.add((who.org, name, walls))
        world.collections[found.id] = (who, walls)
    for number in range(DOCUMENTS):
        collection, (maker, walls) = chance.choice(sorted(world.collections.items(), key=lambda c: c[0]))
        who = replace(maker, walls=walls | frozenset(chance.sample(WALLS, chance.randint(0, 2))))
        text, year = " ".join(chance.sample(WORDS, 3)), 2020 + number % 3
        with acting_for(who):
            await store.put_document(put(collection, f"d{number}", [text, f"{text} again"], year=year))
        world.documents.append(Put(who.org, who.desk, collection, f"d{number}", walls | who.walls, text, year))
    return world


async def ask(world: World, chance: random.Random, who: Principal) -> None:
    """Put one question as a caller, and compare all that comes back with what the model says it may see."""
    collection, (maker, walls) = chance.choice(sorted(world.collections.items(), key=lambda c: c[0]))
    is_there = (maker.org, maker.desk) == (who.org, who.desk) and all(wall in who.walls for wall in walls)
    seen = {d.id: d for d in world.documents if d.collection == collection and d.is_seen_by(who)}
    with acting_for(who):
        try:
            await chance.choice((ask_to_search, ask_to_list, ask_to_count))(world, chance, collection, seen)
        except NotFound:
            same(is_there, False, "is refused")
        else:
            same(is_there, True, "is let in")
        if chance.random() < 0.8:
            return
        listed = {c.id for c in (await world.store.list_collections(ListCollectionsRequest())).collections}
    may = {i for i, (by, w) in world.collections.items() if (by.org, by.desk) == (who.org, who.desk) and w <= who.walls}
    same(listed, may, "lists collections")


async def ask_to_list(world: World, chance: random.Random, collection: str, seen: dict[str, Put]) -> None:
    found: list[str] = []
    token, size = "", chance.randint(1, 5)
    while token or not found:
        request = ListDocumentsRequest(collection=collection, page_size=size, page_token=token)
        page = await world.store.list_documents(request)
        found += [d.id for d in page.documents]
        if not (token := page.next_page_token):
            break
    same(found, list(seen), "lists documents")


async def ask_to_count(world: World, chance: random.Random, collection: str, seen: dict[str, Put]) -> None:
    found = await world.store.get_collection(GetCollectionRequest(collection=collection))
    size = sum(2 * len(d.text) + len(" again") for d in seen.values())
    same((found.documents, found.chunks, found.bytes), (len(seen), 2 * len(seen), size), "counts")


async def ask_to_search(world: World, chance: random.Random, collection: str, seen: dict[str, Put]) -> None:
    words, legs = chance.sample(WORDS, 3), chance.choice(("words", "vector", "both"))
    request = VectorSearchRequest(collection=collection, limit=50)
    if legs != "vector":
        request.text = " ".join(words)
    if legs != "words":
        request.vector.CopyFrom(vector(" ".join(words)))
    right = set(seen)
    if legs == "words":
        right = {id_ for id_ in right if set(seen[id_].text.split()).intersection(words)}
    if chance.random() < 0.3:
        request.filter.update({"type": "ne", "key": "year", "value": 2021})
        right = {id_ for id_ in right if seen[id_].year != 2021}
    same({passage.document for passage in (await world.store.search(request)).passages}, right, "finds")


def same(found: object, right: object, what: str) -> None:
    if found != right:
        raise Leaked(f"{what} {found}, not {right}")


async def check(store: VectorStoreClient, seed: int, worlds: int) -> int:
    """Ask in random worlds, and return how many questions that were."""
    chance = random.Random(seed)
    asked = 0
    for number in range(worlds):
        world = await made(store, chance, f"{seed}-{number}")
        for _ in range(CALLERS):
            org_and_desk, who = chance.choice(list(world.collections.values()))[0], someone(chance, world.name)
            if chance.random() < 0.9:
                who = replace(who, org=org_and_desk.org, desk=org_and_desk.desk)
            for _ in range(QUESTIONS):
                await ask(world, chance, who)
                asked += 1
    return asked


@pytest.mark.parametrize("how", WORLDS)
async def test_ten_thousand_random_walls_callers_and_questions_find_no_leak(profile: Profile, how: Any) -> None:
    adapter = {"exact_up_to": 0} if how == "graph" else {}
    services = {"vector_store": {"index": "pgvector", "pgvector": adapter}}
    async with hosted(profile.model_copy(update={"services": services}), ["vector_store"]) as host:
        asked = await check(host.client(VectorStoreClient), 8, WORLDS[how])
    assert asked == WORLDS[how] * CALLERS * QUESTIONS


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_changed_filter_is_seen_by_the_same_checker(profile: Profile, mutation: Any) -> None:
    async with hosted(profile, ["vector_store"]) as host:
        with psycopg.connect(profile.postgres) as connection:
            connection.execute(
                "create or replace function vector_store.inside(object_walls text[], caller_walls text[])"
                f" returns boolean language sql immutable parallel safe as $$ {MUTATIONS[mutation]} $$"
            )
        with pytest.raises(Leaked):
            await check(host.client(VectorStoreClient), 8, 3)


@pytest.fixture
async def store(profile: Profile) -> AsyncIterator[VectorStoreClient]:
    async with hosted(profile, ["vector_store"], "strict") as host:
        yield host.client(VectorStoreClient)


SCOPES = frozenset({"documents:read", "documents:write"})
OUTSIDE = Principal("acme", "rates", "key_outside", SCOPES)
INSIDE = replace(OUTSIDE, key="key_inside", walls=frozenset({"m-and-a"}))
BOTH = replace(OUTSIDE, key="key_both", walls=frozenset({"m-and-a", "credit"}))


async def search(store, collection, text="falcon target"):
    request = VectorSearchRequest(collection=collection, text=text, vector=vector(text))
    return (await store.search(request)).passages


async def test_what_is_inside_a_wall_is_as_what_has_never_been(store: VectorStoreClient) -> None:
    with acting_for(INSIDE):
        made = await store.create_collection(CreateCollectionRequest(name="deals"))
        await store.put_document(put("deals", "a", ["falcon target"]))
    for who in (OUTSIDE, replace(OUTSIDE, walls=frozenset({"credit"}))):
        with acting_for(who):
            for named in (made.id, "deals"):
                for call in (
                    store.get_collection(GetCollectionRequest(collection=named)),
                    store.update_collection(UpdateCollectionRequest(collection=named, name="mine")),
                    store.delete_collection(DeleteCollectionRequest(collection=named)),
                    store.put_document(put(named, "b", ["x"])),
                    store.list_documents(ListDocumentsRequest(collection=named)),
                    store.delete_document(DeleteDocumentRequest(collection=named, document="a")),
                    store.update_document_attributes(
                        UpdateDocumentAttributesRequest(collection=named, document={"id": "a", "attributes_version": 9})
                    ),
                    search(store, named),
                ):
                    with pytest.raises(NotFound) as refused:
                        await call
                    assert refused.value.message == f"there is no collection {named!r} in the desk 'rates'"
            assert not (await store.list_collections(ListCollectionsRequest())).collections
    with acting_for(INSIDE):
        assert [p.document for p in await search(store, "deals")] == ["a"]


async def test_a_name_that_is_taken_inside_a_wall_is_free_outside(store: VectorStoreClient) -> None:
    with acting_for(INSIDE):
        inside = await store.create_collection(CreateCollectionRequest(name="deals"))
        with pytest.raises(Conflict, match="named 'deals' already"):
            await store.create_collection(CreateCollectionRequest(name="deals"))
    with acting_for(OUTSIDE):
        outside = await store.create_collection(CreateCollectionRequest(name="deals"))
        assert (await store.get_collection(GetCollectionRequest(collection="deals"))).id == outside.id
    with acting_for(INSIDE):
        assert (await store.get_collection(GetCollectionRequest(collection="deals"))).id == inside.id


async def test_walls_are_given_from_among_those_held_and_never_left(store: VectorStoreClient) -> None:
    with acting_for(BOTH):
        chosen = await store.create_collection(CreateCollectionRequest(name="one", walls=["m-and-a"]))
        default = await store.create_collection(CreateCollectionRequest(name="all"))
        assert (list(chosen.walls), list(default.walls)) == (["m-and-a"], ["credit", "m-and-a"])
        written = await store.put_document(put("all", "a", ["x"], walls=["credit"]))
        assert list(written.walls) == ["credit", "m-and-a"]  # those of its collection stay
    for who in (INSIDE, OUTSIDE):
        with acting_for(who), pytest.raises(Forbidden, match="is outside the wall 'credit'"):
            await store.create_collection(CreateCollectionRequest(name="x", walls=["credit"]))


async def test_what_is_inside_does_not_move_the_ranking_outside(store: VectorStoreClient) -> None:
    """The statistics of words are those of what the caller sees, or the scores would tell what is inside."""
    with acting_for(OUTSIDE):
        await store.create_collection(CreateCollectionRequest(name="c"))
        await store.put_document(put("c", "a", ["falcon flies", "copper sinks"]))
        await store.put_document(put("c", "b", ["the copper target", "falcon copper"]))
        before = [p.SerializeToString(deterministic=True) for p in await search(store, "c")]
    with acting_for(INSIDE):
        for number in range(20):
            await store.put_document(put("c", f"deal-{number}", ["falcon target", "falcon"], title="falcon 2030"))
        assert len(await search(store, "c")) == 10
    with acting_for(OUTSIDE):
        assert [p.SerializeToString(deterministic=True) for p in await search(store, "c")] == before


async def test_a_collection_is_deleted_for_those_who_see_all_of_it(store: VectorStoreClient) -> None:
    with acting_for(OUTSIDE):
        made = await store.create_collection(CreateCollectionRequest(name="shared"))
        await store.put_document(put("shared", "open", ["falcon"]))
    with acting_for(INSIDE):
        await store.put_document(put("shared", "closed", ["falcon"]))
    with acting_for(OUTSIDE):
        assert (await store.delete_collection(DeleteCollectionRequest(collection="shared"))).documents == 1
        with pytest.raises(NotFound):
            await store.get_collection(GetCollectionRequest(collection=made.id))
        again = await store.create_collection(CreateCollectionRequest(name="shared"))
        assert again.id != made.id
    with acting_for(INSIDE):
        assert [p.document for p in await search(store, made.id)] == ["closed"]
        await store.delete_document(DeleteDocumentRequest(collection=made.id, document="closed"))
        with pytest.raises(NotFound):
            await store.get_collection(GetCollectionRequest(collection=made.id))


async def test_the_same_document_inside_and_outside_are_two_and_each_caller_sees_one(store: VectorStoreClient) -> None:
    with acting_for(OUTSIDE):
        await store.create_collection(CreateCollectionRequest(name="c"))
        await store.put_document(put("c", "a", ["falcon"], note="open"))
    with acting_for(INSIDE):
        await store.put_document(put("c", "a", ["falcon"], note="closed"))
    for who, note in ((INSIDE, "closed"), (OUTSIDE, "open")):
        with acting_for(who):
            (found,) = await search(store, "c")
            (listed,) = (await store.list_documents(ListDocumentsRequest(collection="c"))).documents
            assert dict(found.attributes) == dict(listed.attributes) == to_values({"note": note})
    with acting_for(OUTSIDE):
        await store.delete_document(DeleteDocumentRequest(collection="c", document="a"))
    with acting_for(INSIDE):
        assert len(await search(store, "c")) == 1
