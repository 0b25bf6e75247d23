"""Nothing leaks through a wall: random worlds, callers and questions against a model of what each may see.

The checker is written apart from the store. To show that it would see a leak, it is run against stores whose one
filter was changed as somebody might: to an overlap, to the first wall alone, and to everything.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import psycopg
import pytest

from drw.api.rag.v1.vector_store_pb2 import (
    CreateCollectionRequest,
    DeleteCollectionRequest,
    DeleteDocumentRequest,
    GetCollectionRequest,
    ListCollectionsRequest,
    ListDocumentsRequest,
    Passage,
    UpdateCollectionRequest,
    UpdateDocumentAttributesRequest,
    VectorSearchRequest,
)
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import to_values
from drw.kernel.errors import Conflict, Forbidden, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from rag.passages import put, vector
from support.hosting import hosted

WALLS = ("m-and-a", "research", "credit", "prime")
WORDS = ("copper", "zinc", "lead", "silver", "gold", "tin", "nickel", "iron")
WORLDS, CALLERS, QUESTIONS = {"exact": 20, "graph": 5}, 16, 25
"""10,000 questions by random callers in random worlds."""
DOCUMENTS = 14
MUTATIONS = {
    "overlap": "select cardinality(object_walls) = 0 or object_walls && caller_walls",
    "first": "select cardinality(object_walls) = 0 or object_walls[1] = any(caller_walls)",
    "everything": "select true",
}


class Leak(AssertionError):
    """A response reveals an object inside a wall that the caller is outside of."""


@dataclass(frozen=True)
class StoredDocument:
    """A document in the reference model: owner, walls including those of the collection, words."""

    org: str
    desk: str
    collection: str
    id: str
    walls: frozenset[str]
    text: str
    year: int

    def is_seen_by(self, caller: Principal) -> bool:
        return (self.org, self.desk) == (caller.org, caller.desk) and all(wall in caller.walls for wall in self.walls)


@dataclass
class World:
    """Collections and documents of several desks in a real store, with a reference model."""

    store: VectorStoreClient
    name: str
    collections: dict[str, tuple[Principal, frozenset[str]]]
    documents: list[StoredDocument]


def random_caller(chance: random.Random, world: str) -> Principal:
    org, desk = chance.choice(("acme", "other")), chance.choice(("rates", "equities"))
    walls = frozenset(chance.sample(WALLS, chance.randint(0, len(WALLS))))
    return Principal(f"{org}-{world}", desk, "key", frozenset({"documents:read"}), walls)


async def create_world(store: VectorStoreClient, chance: random.Random, called: str) -> World:
    world = World(store, called, {}, [])
    names: set[tuple[str, str, frozenset[str]]] = set()
    for _ in range(4):
        caller = replace(random_caller(chance, called), desk="rates")
        given = chance.sample(sorted(caller.walls), chance.randint(0, len(caller.walls)))
        walls, name = frozenset(given or caller.walls), chance.choice("ab")
        taken = (caller.org, name, walls) in names
        with acting_for(caller):
            try:
                found = await store.create_collection(CreateCollectionRequest(name=name, walls=given))
            except Conflict:
                assert_equal(taken, True, "is told that a name is taken")
                continue
        assert_equal(taken, False, "is given the name")
        names.add((caller.org, name, walls))
        world.collections[found.id] = (caller, walls)
    for number in range(DOCUMENTS):
        collection, (maker, walls) = chance.choice(sorted(world.collections.items(), key=lambda c: c[0]))
        caller = replace(maker, walls=walls | frozenset(chance.sample(WALLS, chance.randint(0, 2))))
        text, year = " ".join(chance.sample(WORDS, 3)), 2020 + number % 3
        with acting_for(caller):
            await store.put_document(put(collection, f"d{number}", [text, f"{text} again"], year=year))
        world.documents.append(
            StoredDocument(caller.org, caller.desk, collection, f"d{number}", walls | caller.walls, text, year)
        )
    return world


async def check_random_question(world: World, chance: random.Random, caller: Principal) -> None:
    """Ask one random question and compare the response with the reference model."""
    collection, (maker, walls) = chance.choice(sorted(world.collections.items(), key=lambda c: c[0]))
    is_there = (maker.org, maker.desk) == (caller.org, caller.desk) and all(wall in caller.walls for wall in walls)
    seen = {d.id: d for d in world.documents if d.collection == collection and d.is_seen_by(caller)}
    with acting_for(caller):
        try:
            await chance.choice((check_search, check_list, check_counts))(world, chance, collection, seen)
        except NotFound:
            assert_equal(is_there, False, "is refused")
        else:
            assert_equal(is_there, True, "is let in")
        if chance.random() < 0.8:
            return
        listed = {c.id for c in (await world.store.list_collections(ListCollectionsRequest())).collections}
    may = {
        i
        for i, (by, w) in world.collections.items()
        if (by.org, by.desk) == (caller.org, caller.desk) and w <= caller.walls
    }
    assert_equal(listed, may, "lists collections")


async def check_list(world: World, chance: random.Random, collection: str, seen: dict[str, StoredDocument]) -> None:
    found: list[str] = []
    token, size = "", chance.randint(1, 5)
    while token or not found:
        request = ListDocumentsRequest(collection=collection, page_size=size, page_token=token)
        page = await world.store.list_documents(request)
        found += [d.id for d in page.documents]
        if not (token := page.next_page_token):
            break
    assert_equal(found, list(seen), "lists documents")


async def check_counts(world: World, chance: random.Random, collection: str, seen: dict[str, StoredDocument]) -> None:
    found = await world.store.get_collection(GetCollectionRequest(collection=collection))
    size = sum(2 * len(d.text) + len(" again") for d in seen.values())
    assert_equal((found.documents, found.chunks, found.bytes), (len(seen), 2 * len(seen), size), "counts")


async def check_search(world: World, chance: random.Random, collection: str, seen: dict[str, StoredDocument]) -> None:
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
    assert_equal({passage.document for passage in (await world.store.search(request)).passages}, right, "finds")


def assert_equal(found: object, right: object, what: str) -> None:
    if found != right:
        raise Leak(f"{what} {found}, not {right}")


async def check(store: VectorStoreClient, seed: int, worlds: int) -> int:
    """Ask random questions in random worlds; return their number."""
    chance = random.Random(seed)
    asked = 0
    for number in range(worlds):
        world = await create_world(store, chance, f"{seed}-{number}")
        for _ in range(CALLERS):
            org_and_desk, caller = chance.choice(list(world.collections.values()))[0], random_caller(chance, world.name)
            if chance.random() < 0.9:
                caller = replace(caller, org=org_and_desk.org, desk=org_and_desk.desk)
            for _ in range(QUESTIONS):
                await check_random_question(world, chance, caller)
                asked += 1
    return asked


@pytest.mark.parametrize("how", WORLDS)
async def test_ten_thousand_random_questions_reveal_nothing_behind_walls(profile: Profile, how: str) -> None:
    adapter = {"exact_up_to": 0} if how == "graph" else {}
    services = {"vector_store": {"index": "pgvector", "pgvector": adapter}}
    async with hosted(profile.model_copy(update={"services": services}), ["vector_store"]) as host:
        asked = await check(host.client(VectorStoreClient), 8, WORLDS[how])
    assert asked == WORLDS[how] * CALLERS * QUESTIONS


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_the_checker_detects_a_mutated_filter(profile: Profile, mutation: str) -> None:
    async with hosted(profile, ["vector_store"]) as host:
        with psycopg.connect(profile.postgres) as connection:
            connection.execute(
                "create or replace function vector_store.inside(object_walls text[], caller_walls text[])"
                f" returns boolean language sql immutable parallel safe as $$ {MUTATIONS[mutation]} $$"
            )
        with pytest.raises(Leak):
            await check(host.client(VectorStoreClient), 8, 3)


@pytest.fixture
async def store(profile: Profile) -> AsyncIterator[VectorStoreClient]:
    async with hosted(profile, ["vector_store"], "strict") as host:
        yield host.client(VectorStoreClient)


SCOPES = frozenset({"documents:read", "documents:write"})
OUTSIDE = Principal("acme", "rates", "key_outside", SCOPES)
INSIDE = replace(OUTSIDE, key="key_inside", walls=frozenset({"m-and-a"}))
BOTH = replace(OUTSIDE, key="key_both", walls=frozenset({"m-and-a", "credit"}))


async def search(store: VectorStoreClient, collection: str, text: str = "falcon target") -> Sequence[Passage]:
    request = VectorSearchRequest(collection=collection, text=text, vector=vector(text))
    return (await store.search(request)).passages


async def test_objects_inside_a_wall_are_invisible_outside(store: VectorStoreClient) -> None:
    with acting_for(INSIDE):
        created = await store.create_collection(CreateCollectionRequest(name="deals"))
        await store.put_document(put("deals", "a", ["falcon target"]))
    for caller in (OUTSIDE, replace(OUTSIDE, walls=frozenset({"credit"}))):
        with acting_for(caller):
            for named in (created.id, "deals"):
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


async def test_a_name_used_inside_a_wall_is_available_outside(store: VectorStoreClient) -> None:
    with acting_for(INSIDE):
        inside = await store.create_collection(CreateCollectionRequest(name="deals"))
        with pytest.raises(Conflict, match="named 'deals' already"):
            await store.create_collection(CreateCollectionRequest(name="deals"))
    with acting_for(OUTSIDE):
        outside = await store.create_collection(CreateCollectionRequest(name="deals"))
        assert (await store.get_collection(GetCollectionRequest(collection="deals"))).id == outside.id
    with acting_for(INSIDE):
        assert (await store.get_collection(GetCollectionRequest(collection="deals"))).id == inside.id


async def test_new_objects_get_walls_of_the_caller_only(store: VectorStoreClient) -> None:
    with acting_for(BOTH):
        chosen = await store.create_collection(CreateCollectionRequest(name="one", walls=["m-and-a"]))
        default = await store.create_collection(CreateCollectionRequest(name="all"))
        assert (list(chosen.walls), list(default.walls)) == (["m-and-a"], ["credit", "m-and-a"])
        written = await store.put_document(put("all", "a", ["x"], walls=["credit"]))
        assert list(written.walls) == ["credit", "m-and-a"]  # those of its collection stay
    for caller in (INSIDE, OUTSIDE):
        with acting_for(caller), pytest.raises(Forbidden, match="is outside the wall 'credit'"):
            await store.create_collection(CreateCollectionRequest(name="x", walls=["credit"]))


async def test_documents_inside_a_wall_do_not_affect_ranking_outside(store: VectorStoreClient) -> None:
    """Term statistics cover visible documents only; otherwise scores would reveal the others."""
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


async def test_deleting_a_collection_keeps_documents_that_the_caller_cannot_see(store: VectorStoreClient) -> None:
    with acting_for(OUTSIDE):
        created = await store.create_collection(CreateCollectionRequest(name="shared"))
        await store.put_document(put("shared", "open", ["falcon"]))
    with acting_for(INSIDE):
        await store.put_document(put("shared", "closed", ["falcon"]))
    with acting_for(OUTSIDE):
        assert (await store.delete_collection(DeleteCollectionRequest(collection="shared"))).documents == 1
        with pytest.raises(NotFound):
            await store.get_collection(GetCollectionRequest(collection=created.id))
        again = await store.create_collection(CreateCollectionRequest(name="shared"))
        assert again.id != created.id
    with acting_for(INSIDE):
        assert [p.document for p in await search(store, created.id)] == ["closed"]
        await store.delete_document(DeleteDocumentRequest(collection=created.id, document="closed"))
        with pytest.raises(NotFound):
            await store.get_collection(GetCollectionRequest(collection=created.id))


async def test_the_same_document_inside_and_outside_a_wall_is_stored_twice(store: VectorStoreClient) -> None:
    with acting_for(OUTSIDE):
        await store.create_collection(CreateCollectionRequest(name="c"))
        await store.put_document(put("c", "a", ["falcon"], note="open"))
    with acting_for(INSIDE):
        await store.put_document(put("c", "a", ["falcon"], note="closed"))
    for caller, note in ((INSIDE, "closed"), (OUTSIDE, "open")):
        with acting_for(caller):
            (found,) = await search(store, "c")
            (listed,) = (await store.list_documents(ListDocumentsRequest(collection="c"))).documents
            assert dict(found.attributes) == dict(listed.attributes) == to_values({"note": note})
    with acting_for(OUTSIDE):
        await store.delete_document(DeleteDocumentRequest(collection="c", document="a"))
    with acting_for(INSIDE):
        assert len(await search(store, "c")) == 1
