"""Information barriers: no route of files and vector stores shows objects inside a wall to a key outside of it."""

from __future__ import annotations

import asyncio
import random

import openai
import psycopg
import pytest
from psycopg.types.json import Jsonb

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, PutFileRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.storage.files import Page
from rag.documents.desks import SERVICES, Desk, Platform, routes_of
from support.hosting import hosted
from support.json_types import JsonObject

MUTATIONS = {
    "overlap": "select cardinality(object_walls) = 0 or object_walls && caller_walls",
    "everything": "select true",
}


@pytest.fixture
def keys(platform: Platform) -> dict[str, Desk]:
    """Keys outside of all walls, inside one wall, inside two walls, and inside another wall."""
    walls_of_keys = {"outside": "", "inside": "m-and-a", "both": "m-and-a credit", "elsewhere": "credit"}
    desks = {}
    for name, walls in walls_of_keys.items():
        desks[name] = platform.desk()
        desks[name].http.headers["x-drw-walls"] = walls
    return desks


async def index_file(desk: Desk, name: str, content: bytes, store: str | None = None) -> tuple[str, str]:
    """Upload a file and add it to a vector store, by default to a new one; return both ids."""
    file = await desk.upload(name, content)
    if store is None:
        store = (await desk.openai.vector_stores.create(name=f"store of {name}")).id
    files = desk.openai.vector_stores.files
    done = await files.create_and_poll(file.id, vector_store_id=store, poll_interval_ms=20)
    assert done.status == "completed", done.last_error
    return file.id, store


async def test_every_route_responds_to_a_hidden_id_as_to_an_unknown_id(
    platform: Platform, keys: dict[str, Desk]
) -> None:
    file, store = await index_file(keys["both"], "deal.txt", b"Project Falcon: the target is Gamma plc.")
    batches = keys["both"].openai.vector_stores.file_batches
    batch = (await batches.create_and_poll(store, file_ids=[file], poll_interval_ms=20)).id
    existing = {"file": file, "store": store, "batch": batch}
    unknown = {"file": "file-" + "0" * 24, "store": "vs_" + "0" * 24, "batch": "vsfb_" + "0" * 24}
    for key in ("outside", "inside", "elsewhere"):
        for route in routes_of(platform.host):
            if "{" not in route.path:
                continue
            for method in (route.methods or set()) - {"HEAD"}:
                responses = []
                for ids in (existing, unknown):
                    path = route.path.removeprefix("/v1").format(**ids)
                    response = await keys[key].http.request(method, path)
                    text = response.text
                    for name, id_ in ids.items():
                        text = text.replace(id_, name)
                    responses.append((response.status_code, text))
                assert responses[0] == responses[1], (key, method, route.path)
                assert responses[0][0] == 404, (key, method, route.path, responses)
        other_store = (await keys[key].openai.vector_stores.create(name="theirs")).id
        for path, body in [
            (f"/vector_stores/{other_store}/files", {"file_id": file}),
            (f"/vector_stores/{other_store}/file_batches", {"file_ids": [file]}),
            ("/vector_stores", {"file_ids": [file]}),
        ]:
            response = await keys[key].http.post(path, json=body)
            assert (response.status_code, response.json()["error"]["message"]) == (404, f"there is no file {file!r}")
        assert (await keys[key].http.get("/files", params={"after": file})).status_code == 404
        assert (await keys[key].http.get("/vector_stores", params={"after": store})).status_code == 404
        assert (await keys[key].openai.files.list()).data == []
        assert store not in {s.id for s in (await keys[key].openai.vector_stores.list()).data}
    assert (await keys["both"].openai.vector_stores.retrieve(store)).file_counts.completed == 1
    assert (await keys["both"].openai.files.content(file)).content.startswith(b"Project")


async def test_a_shared_vector_store_lists_only_files_inside_the_walls_of_the_caller(
    platform: Platform, keys: dict[str, Desk]
) -> None:
    outside, inside = keys["outside"], keys["inside"]
    open_file, store = await index_file(outside, "open.txt", b"The copper price rose.")
    before = (await outside.http.get(f"/vector_stores/{store}")).json()
    closed, _ = await index_file(inside, "deal.txt", b"Project Falcon buys a copper mine.", store)
    assert (await outside.http.get(f"/vector_stores/{store}")).json() == before
    assert (await inside.openai.vector_stores.retrieve(store)).file_counts.completed == 2
    for desk, expected in ((outside, {open_file}), (inside, {open_file, closed})):
        assert {f.id async for f in desk.openai.vector_stores.files.list(store, limit=1)} == expected
        documents = (await desk.http.get(f"/../api/v1/collections/{store}/documents")).json()["documents"]
        assert {d["id"] for d in documents} == expected
        watched = await desk.http.get(f"/../api/v1/collections/{store}/indexing")
        assert f'"completed":{len(expected)},' in watched.text
    with pytest.raises(openai.NotFoundError):
        await outside.openai.vector_stores.files.delete(closed, vector_store_id=store)
    with pytest.raises(openai.NotFoundError):
        await outside.openai.vector_stores.files.update(closed, vector_store_id=store, attributes={"a": 1})


async def test_a_file_from_outside_gets_the_walls_of_the_vector_store(
    platform: Platform, keys: dict[str, Desk]
) -> None:
    outside, inside = keys["outside"], keys["inside"]
    file = await outside.upload("note.txt", b"Copper rose.")
    store = await inside.openai.vector_stores.create(name="deals")
    created = await inside.openai.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, poll_interval_ms=20
    )
    assert created.to_dict()["walls"] == ["m-and-a"]
    assert (await outside.openai.files.retrieve(file.id)).to_dict()["walls"] == []
    await outside.openai.files.delete(file.id)  # deleting the source also removes it from the vector store
    assert (await inside.openai.vector_stores.retrieve(store.id)).file_counts.total == 0
    documents = (await inside.http.get(f"/../api/v1/collections/{store.id}/documents")).json()["documents"]
    assert documents == []


async def test_the_same_bytes_are_one_file_for_each_set_of_walls(platform: Platform, keys: dict[str, Desk]) -> None:
    created = {name: [await desk.upload("a.md", b"# The same") for _ in range(2)] for name, desk in keys.items()}
    assert all(first.id == again.id for first, again in created.values())
    assert len({first.id for first, _ in created.values()}) == len(keys)
    for name, (file, _) in created.items():
        if name != "outside":
            await keys[name].openai.files.delete(file.id)
    assert (await keys["outside"].openai.files.content(created["outside"][0].id)).content == b"# The same"


async def test_the_same_content_is_not_reused_across_walls(
    platform: Platform, keys: dict[str, Desk], rag: Profile
) -> None:
    _, store = await index_file(keys["inside"], "deal.txt", b"Project Falcon buys a mine.")
    with psycopg.connect(rag.postgres) as connection:
        connection.execute("update vector_store.collection set walls = '{}'")
    file, _ = await index_file(keys["outside"], "deal.txt", b"Project Falcon buys a mine.", store)
    with psycopg.connect(rag.postgres) as connection:
        rows = connection.execute("select walls, unchanged from documents.vector_store_file order by walls").fetchall()
    assert rows == [([], False), (["m-and-a"], False)]
    await keys["inside"].openai.vector_stores.files.delete(file, vector_store_id=store)
    assert (await keys["inside"].openai.vector_stores.retrieve(store)).file_counts.total == 1


async def test_a_file_added_from_inside_and_outside_a_wall_has_one_entry_for_each(
    platform: Platform, keys: dict[str, Desk]
) -> None:
    outside, inside = keys["outside"], keys["inside"]
    file = await outside.upload("note.txt", b"Copper rose.")
    store = (await outside.openai.vector_stores.create(name="shared")).id
    for desk, note in ((inside, "closed"), (outside, "open")):
        files = desk.openai.vector_stores.files
        created = await files.create(store, file_id=file.id, attributes={"note": note})
        assert created.attributes == {"note": note}
        await files.poll(file.id, vector_store_id=store, poll_interval_ms=20)
    for desk, note in ((inside, "closed"), (outside, "open")):
        listed = [f.attributes async for f in desk.openai.vector_stores.files.list(store, limit=1)]
        assert listed == [{"note": note}]
        documents = (await desk.http.get(f"/../api/v1/collections/{store}/documents")).json()["documents"]
        assert [d["attributes"] for d in documents] == [{"note": note}]


async def test_a_caller_can_request_only_its_own_walls(platform: Platform, keys: dict[str, Desk]) -> None:
    both = keys["both"]
    form: JsonObject = {"file": ("a.txt", b"x"), "purpose": (None, "assistants")}
    for field in ({"walls": (None, "credit")}, {"walls[]": (None, "credit")}):
        created = (await both.http.post("/files", files=form | field)).json()
        assert created["walls"] == ["credit"]
    file = await both.openai.files.create(file=("b.txt", b"y"), purpose="assistants", extra_body={"walls": ["credit"]})
    assert file.to_dict()["walls"] == ["credit"]
    with_two_walls = await both.openai.files.create(
        file=("c.txt", b"z"), purpose="assistants", extra_body={"walls": ["credit", "m-and-a"]}
    )
    assert with_two_walls.to_dict()["walls"] == ["credit", "m-and-a"]
    too_many = {"walls[]": [f"wall-{n}" for n in range(1000)], "purpose": "assistants"}
    response = await both.http.post("/files", data=too_many, files={"file": ("d.txt", b"z")})
    assert (response.status_code, "more than 4096 bytes" in response.text) == (400, True)
    store = (await both.http.post("/vector_stores", json={"walls": ["m-and-a"]})).json()
    attached = await both.http.post(
        f"/vector_stores/{store['id']}/files", json={"file_id": file.id, "walls": ["credit"]}
    )
    assert (store["walls"], attached.json()["walls"]) == (["m-and-a"], ["credit", "m-and-a"])
    batch = {"file_ids": [file.id], "walls": ["m-and-a"]}
    assert (await both.http.post(f"/vector_stores/{store['id']}/file_batches", json=batch)).status_code == 200
    base = f"/vector_stores/{store['id']}"
    rejected = [
        await both.http.post("/files", files=form | {"walls": (None, "prime")}),
        await both.http.post("/vector_stores", json={"walls": ["prime"]}),
        await both.http.post(f"{base}/files", json={"file_id": file.id, "walls": ["prime"]}),
        await both.http.post(f"{base}/file_batches", json={"file_ids": [file.id], "walls": ["prime"]}),
        await keys["outside"].http.post("/files", files=form | {"walls": (None, "credit")}),
    ]
    assert {response.status_code for response in rejected} == {403}
    assert "is outside the wall 'prime'" in rejected[0].json()["error"]["message"]


async def test_services_add_files_inside_the_walls_of_their_caller(rag: Profile, keys: dict[str, Desk]) -> None:
    inside = Principal(
        "acme", "research", "key", frozenset({"documents:read", "documents:write"}), frozenset({"m-and-a"})
    )
    async with hosted(rag, SERVICES) as host:
        documents = host.client(DocumentsClient)
        with acting_for(inside):
            file = await documents.put_file(PutFileRequest(name="a.txt", content=b"Falcon", walls=["m-and-a"]))
            assert list(file.walls) == ["m-and-a"]
            await documents.index_file(IndexFileRequest(file=file.id, collection="made", walls=["m-and-a"]))
            with pytest.raises(Forbidden):
                await documents.put_file(PutFileRequest(name="a.txt", content=b"Falcon", walls=["prime"]))
    with psycopg.connect(rag.postgres) as connection:
        walls = connection.execute(
            "select walls from vector_store.document union all select walls from vector_store.collection"
        )
        assert walls.fetchall() == [(["m-and-a"],)] * 2


class Leak(AssertionError):
    """A caller saw rows inside a wall that it is outside of, or missed rows that it may see."""


async def check_random_rows(platform: Platform, seed: int) -> None:
    """Insert rows with random walls, and compare the visible rows of random callers with the expected rows."""
    generator = random.Random(seed)
    documents = platform.service("documents")
    names, rows = ("a", "b", "c"), []
    async with documents._files._database.transaction() as connection:
        for number in range(40):
            walls = sorted(generator.sample(names, generator.randint(0, 3)))
            file = f"file-{seed}-{number}"
            await connection.execute(
                "insert into file (id, org, desk, name, purpose, bytes, content_hash, walls)"
                " values (%s, 'acme', 'fuzz', %s, 'assistants', 1, %s, %s)",
                (file, file, "0" * 64, walls),
            )
            document_walls = sorted({*walls, *generator.sample(names, generator.randint(0, 1))})
            await connection.execute(
                "insert into vector_store_file (org, desk, key, collection, file, content_hash, attributes, walls,"
                " state) values ('acme', 'fuzz', 'k', 'vs', %s, %s, %s, %s, 'completed')",
                (file, "0" * 64, Jsonb({}), document_walls),
            )
            rows.append((file, set(walls), set(document_walls)))
    for _ in range(40):
        caller_walls = frozenset(generator.sample(names, generator.randint(0, 3)))
        with acting_for(Principal("acme", "fuzz", "k", frozenset({"documents:read"}), caller_walls)):
            files = {f.id for f in await documents._files.list(Page(1000))}
            attached = {a.file for a in await documents._vector_store_files.list("vs", Page(1000))}
            total = (await documents._vector_store_files.progress("vs")).files
        expected = {file for file, walls, _ in rows if all(w in caller_walls for w in walls)}
        expected_attached = {file for file, _, walls in rows if all(w in caller_walls for w in walls)}
        if (files, attached, total) != (expected, expected_attached, len(expected_attached)):
            raise Leak(f"{sorted(caller_walls)} sees {len(files)}, {len(attached)}, {total}")


async def test_random_callers_see_exactly_the_rows_inside_their_walls(platform: Platform) -> None:
    await check_random_rows(platform, 2)


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_the_checker_detects_a_wrong_filter(platform: Platform, rag: Profile, mutation: str) -> None:
    def mutate() -> None:
        with psycopg.connect(rag.postgres) as connection:
            connection.execute(
                "create or replace function documents.inside(object_walls text[], caller_walls text[])"
                f" returns boolean language sql immutable parallel safe as $$ {MUTATIONS[mutation]} $$"
            )

    await asyncio.to_thread(mutate)
    with pytest.raises(Leak):
        await check_random_rows(platform, 2)
