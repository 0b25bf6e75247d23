"""Attribute filters: matching documents, invalid filters, and exact results when few documents match."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from operator import eq, ge, gt, le, lt, ne

import psycopg
import pytest

from drw.api.rag.v1.vector_store_pb2 import CreateCollectionRequest, VectorSearchRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attribute_filters import MAX_COMPARISONS, MAX_DEPTH, parse
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.vector_store.adapters.pgvector.snapshot import PostgresSnapshot
from rag.passages import put, vector
from support.hosting import hosted
from support.json_types import Json, JsonObject

DOCUMENTS: dict[str, JsonObject] = {
    "three": {"n": 3, "s": "b", "ok": True},
    "float": {"n": 3.5, "s": "c", "ok": False},
    "minus": {"n": -7, "s": "B"},
    "text": {"n": "3", "s": "ü"},
    "true": {"n": True, "s": 'a"] || true || "'},
    "none": {},
}
NAN = float("nan")


@pytest.fixture
async def store(profile: Profile, caller: Principal) -> AsyncIterator[VectorStoreClient]:
    async with hosted(profile, ["vector_store"], "strict") as host:
        with acting_for(caller):
            store = host.client(VectorStoreClient)
            await store.create_collection(CreateCollectionRequest(name="c"))
            for name, attributes in DOCUMENTS.items():
                await store.put_document(put("c", name, ["net sales"], **attributes))
            yield store


async def found(store: VectorStoreClient, value: JsonObject, **more: Json) -> set[str]:
    request = VectorSearchRequest(collection="c", text="net sales", vector=vector("net sales"), limit=50, **more)
    request.filter.update(value)
    return {passage.document for passage in (await store.search(request)).passages}


def compare(type_: str, key: Json, value: Json) -> JsonObject:
    return {"type": type_, "key": key, "value": value}


EVERY = set(DOCUMENTS)
CASES = [
    (compare("eq", "n", 3), {"three"}),
    (compare("eq", "n", 3.0), {"three"}),
    (compare("eq", "n", "3"), {"text"}),
    (compare("eq", "n", True), {"true"}),
    (compare("eq", "n", 1), set()),
    (compare("ne", "n", 3), EVERY - {"three"}),
    (compare("ne", "ok", True), EVERY - {"three"}),
    (compare("gt", "n", 3), {"float"}),
    (compare("gte", "n", 3), {"three", "float"}),
    (compare("lt", "n", 3.0), {"minus"}),
    (compare("lte", "n", -7.0), {"minus"}),
    (compare("gte", "s", "b"), {"three", "float", "text"}),
    (compare("lt", "s", "b"), {"minus", "true"}),
    (compare("in", "n", [3, "3", True]), {"three", "text", "true"}),
    (compare("nin", "n", [3, "3", True]), {"float", "minus", "none"}),
    (compare("eq", "s", 'a"] || true || "'), {"true"}),
    (compare("eq", "missing", 3), set()),
    (compare("nin", "missing", [3]), EVERY),
    ({"type": "or", "filters": [compare("eq", "n", 3), compare("eq", "s", "c")]}, {"three", "float"}),
    ({"type": "and", "filters": [compare("gte", "n", 3), compare("ne", "ok", False)]}, {"three"}),
    (
        {
            "type": "or",
            "filters": [
                {"type": "and", "filters": [compare("gt", "n", -10), compare("lt", "n", 0)]},
                {"type": "and", "filters": [compare("in", "s", ["b", "c"]), compare("eq", "ok", False)]},
            ],
        },
        {"minus", "float"},
    ),
]


async def test_each_filter_matches_its_documents(store: VectorStoreClient) -> None:
    for value, right in CASES:
        assert await found(store, value) == right, value


async def test_a_filter_and_equal_attributes_both_apply(store: VectorStoreClient) -> None:
    assert await found(store, compare("ne", "s", "b"), attributes={"n": {"number_value": 3}}) == set()
    assert await found(store, compare("ne", "s", "x"), attributes={"n": {"number_value": 3}}) == {"three"}


def deep(levels: int) -> JsonObject:
    value = compare("eq", "n", 1)
    for _ in range(levels):
        value = {"type": "and", "filters": [value]}
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "f must be an object, not of the type list"),
        ({}, "f.type is None; it can be: eq, ne, gt"),
        (compare("like", "a", 1), "f.type is 'like'"),
        ({"type": "eq", "key": "a"}, "f.value is missing"),
        (compare("eq", "a", 1) | {"more": 1}, "f.more is not a field of this filter"),
        (compare("eq", 3, 1), "f.key is 3; it must be a string"),
        (compare("eq", "", 1), "f.key is ''"),
        (compare("eq", "a", None), "f.value is None; it must be a string, a number or a boolean"),
        (compare("eq", "a", [1]), "f.value is of the type list"),
        (compare("gt", "a", True), "f.value is True; gt takes a number, or a string"),
        (compare("in", "a", 1), "f.value must be a list"),
        (compare("in", "a", []), "f.value must be a list of at least one"),
        (compare("in", "a", [1, {}]), r"f.value\[1\] is of the type dict"),
        (compare("in", "a", [0] * 513), r"f.value\[512\] is one value too many"),
        (compare("eq", "a", 2**60), "f.value is 1152921504606846976; a number is from"),
        (compare("eq", "a", NAN), "f.value is nan; a number is from"),
        (compare("eq", "a", "x\0"), "f.value must have at most 512 characters, none of them NUL"),
        (compare("eq", "a", "\ud83d"), "or half of a pair"),
        (compare("eq", "a", "x" * 513), "f.value must have at most 512"),
        (
            {"type": "and", "filters": [compare("eq", "a", 1), {"type": "or", "filters": [3]}]},
            "f.filters.1..filters.0.",
        ),
        ({"type": "or", "filters": [compare("eq", "a", 1)] * (MAX_COMPARISONS + 1)}, "129 filters; at most 128"),
        ({"type": "or", "filters": [{"type": "or", "filters": [compare("eq", "a", 1)] * 100}] * 2}, "too many"),
        (deep(MAX_DEPTH), "nested more than 8 deep"),
        (deep(90), "nested more than 8 deep"),
    ],
)
def test_an_invalid_filter_is_rejected_with_its_path(value: Json, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        parse(value, "f")
    assert refused.value.metadata["param"].startswith("f")


async def test_random_filters_match_the_same_documents_as_a_reference_implementation(store: VectorStoreClient) -> None:
    """Against the same filters in Python, with the same rules: types differ, and what is not there is not equal."""
    chance = random.Random(15)
    for _ in range(300):
        value = some_filter(chance, 3)
        right = {name for name, attributes in DOCUMENTS.items() if matches(value, attributes)}
        assert await found(store, value) == right, value


def some_filter(chance: random.Random, levels: int) -> JsonObject:
    if levels and chance.random() < 0.5:
        parts = [some_filter(chance, levels - 1) for _ in range(chance.randint(1, 3))]
        return {"type": chance.choice(("and", "or")), "filters": parts}
    kind, key = chance.choice(("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")), chance.choice(("n", "s", "ok"))
    values = [3, 3.5, -7, "3", "b", "B", "ü"] + ([] if kind in ("gt", "gte", "lt", "lte") else [True, False])
    value = chance.sample(values, 3) if kind in ("in", "nin") else chance.choice(values)
    return compare(kind, key, value)


def matches(value: JsonObject, attributes: JsonObject) -> bool:
    kind = value["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(matches(part, attributes) for part in value["filters"])
    has, wanted = attributes.get(value["key"]), value["value"]
    if kind in ("in", "nin"):
        return any(matches(compare("eq", value["key"], one), attributes) for one in wanted) is (kind == "in")
    if has is None or kind_of(has) is not kind_of(wanted):
        return kind == "ne"
    return {"eq": eq, "ne": ne, "gt": gt, "gte": ge, "lt": lt, "lte": le}[kind](has, wanted)


def kind_of(value: object) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


async def test_a_filter_that_leaves_few_vectors_is_searched_exactly(
    profile: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is of everybody's vectors: it would look at what is nearest, most of which the filter leaves out."""
    asked = []
    prepare = PostgresSnapshot._configure_graph_search

    async def prepared(self: PostgresSnapshot) -> None:
        asked.append(self)
        await prepare(self)

    monkeypatch.setattr(PostgresSnapshot, "_configure_graph_search", prepared)
    services = {"vector_store": {"index": "pgvector", "pgvector": {"exact_up_to": 2}}}
    async with hosted(profile.model_copy(update={"services": services}), ["vector_store"]) as host:
        with acting_for(caller):
            store = host.client(VectorStoreClient)
            await store.create_collection(CreateCollectionRequest(name="c"))
            texts = ["far away", *(f"net sales of {number}" for number in range(99))]
            for number in range(3):
                await store.put_document(put("c", f"common{number}", texts))
            await store.put_document(put("c", "rare", ["far away", "farther", "farthest"], rare=True))
            with psycopg.connect(profile.postgres) as connection:
                connection.execute("analyze vector_store.chunk_vector")
            assert await found(store, compare("eq", "rare", True)) == {"rare"}
            assert not asked
            await found(store, compare("ne", "rare", True))
            assert asked
