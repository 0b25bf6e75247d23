"""OpenAI's official client against files and vector stores, and the errors of invalid requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import openai
import pytest

from drw.demo import DOCUMENTS
from drw.demo.pdf import pdf
from drw.kernel.runtime.settings import Profile
from rag.documents.desks import Platform, error_body, routes_of
from support.json_types import Json


async def test_a_batch_is_uploaded_indexed_listed_and_deleted(platform: Platform) -> None:
    client = platform.desk().openai
    store = await client.vector_stores.create(name="demo", metadata={"owner": "risk"})
    assert (store.object, store.status, store.file_counts.total, store.metadata) == (
        *("vector_store", "completed", 0),
        {"owner": "risk"},
    )
    files = [(file.name, file.read_bytes()) for file in sorted(DOCUMENTS.iterdir())]
    batch = await client.vector_stores.file_batches.upload_and_poll(store.id, files=files, poll_interval_ms=50)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 7, 7)

    listed = await client.vector_stores.files.list(store.id, limit=3, order="asc")
    assert listed.has_more
    everything = [file async for file in client.vector_stores.files.list(store.id, limit=3, order="asc")]
    assert len({file.id for file in everything}) == 7
    assert all(f.status == "completed" and f.usage_bytes > 0 and f.last_error is None for f in everything)
    in_batch = [f.id async for f in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)]
    assert set(in_batch) == {file.id for file in everything}

    store = await client.vector_stores.retrieve(store.id)
    assert (store.file_counts.completed, store.usage_bytes) == (7, sum(file.usage_bytes for file in everything))
    store = await client.vector_stores.update(store.id, name="renamed")
    assert (store.name, store.metadata) == ("renamed", {"owner": "risk"})

    deleted = await client.vector_stores.files.delete(everything[0].id, vector_store_id=store.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (everything[0].id, True, "vector_store.file.deleted")
    assert (await client.files.retrieve(everything[0].id)).status == "processed"  # detached, not deleted
    await client.files.delete(everything[1].id)
    assert (await client.vector_stores.retrieve(store.id)).file_counts.total == 5
    for missing in (everything[0].id, everything[1].id):
        with pytest.raises(openai.NotFoundError):
            await client.vector_stores.files.retrieve(missing, vector_store_id=store.id)
    assert (await client.vector_stores.delete(store.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.retrieve(store.id)
    assert len((await client.files.list()).data) == 6


async def test_files_are_listed_downloaded_deduplicated_and_deleted(platform: Platform) -> None:
    desk = platform.desk()
    created = [await desk.upload(f"note {n}.md", f"# Note {n}".encode()) for n in range(3)]
    assert (created[0].object, created[0].bytes, created[0].filename, created[0].purpose, created[0].status) == (
        *("file", 8, "note 0.md"),
        *("assistants", "processed"),
    )
    assert [f.id async for f in desk.openai.files.list(limit=2)] == [f.id for f in reversed(created)]
    assert [f.id async for f in desk.openai.files.list(limit=1, order="asc")] == [f.id for f in created]
    assert (await desk.openai.files.list(purpose="batch")).data == []
    content = await desk.openai.files.content(created[1].id)
    assert content.content == b"# Note 1"
    assert content.response.headers["content-disposition"] == "attachment; filename*=utf-8''note%201.md"
    assert content.response.headers["content-type"] == "application/octet-stream"
    again = await desk.upload("note 1.md", b"# Note 1")
    assert again == created[1]
    assert (await desk.openai.files.delete(created[1].id)).deleted
    for method in (desk.openai.files.retrieve, desk.openai.files.content, desk.openai.files.delete):
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            await method(created[1].id)


async def test_other_purposes_accept_any_file_type(platform: Platform) -> None:
    created = await platform.desk().upload("model.bin", b"\0\1", purpose="user_data")
    assert created.purpose == "user_data"
    with pytest.raises(openai.BadRequestError, match="password is for files of the purpose 'assistants'"):
        await platform.desk().openai.files.create(
            file=("a.pdf", b"x"), purpose="user_data", extra_body={"password": "secret"}
        )


INVALID_UPLOADS = [
    ("../a.txt", b"text", "must be one name, without a folder"),
    ("..", b"text", "must be one name, without a folder"),
    ("a\\b.txt", b"text", "must be one name, without a folder"),
    ("a\x07.txt", b"text", "characters that cannot be displayed"),
    ("a\u202etxt.pdf", b"text", "characters that cannot be displayed"),
    ("a" * 256 + ".txt", b"text", "the name has 260 bytes; at most 255"),
    ("a.txt", b"", "the file is empty"),
    ("a.pdf", b"hello", "a.pdf: this is not a PDF"),
    ("a.xyz", b"hello", "'.xyz' files cannot be parsed; supported are: csv, docm"),
    ("a", b"hello", "files without an ending cannot be parsed"),
    ("a.docx", b"hello", "a.docx: this is not a DOCX file"),
]


async def test_an_invalid_upload_is_a_clear_400_and_stores_nothing(platform: Platform, rag: Profile) -> None:
    desk = platform.desk()
    for name, content, reason in INVALID_UPLOADS:
        with pytest.raises(openai.BadRequestError) as rejected:
            await desk.upload(name, content)
        assert reason in error_body(rejected.value)["message"]
        assert error_body(rejected.value)["type"] == "invalid_request_error"
    assert (await desk.openai.files.list()).data == []
    assert [path for path in (rag.data / "documents").rglob("*") if path.is_file()] == []


BOUNDARIES = (b"b" * 71, b"b" * 257, b"b" * 50_000, b"\xe2\x82\xac", b'"ends in a space "', b'"a;b"', b'"a\tb"')


def form(boundary: bytes) -> dict[bytes, bytes]:
    return {b"content-type": b"multipart/form-data; boundary=" + boundary}


async def test_any_boundary_of_the_standard_is_accepted(platform: Platform) -> None:
    http = platform.desk().http
    for boundary in (b"b", b"b" * 70, b"-'()+_,./:=? 0aZ"):
        parts = (b'purpose"\r\n\r\nassistants', b'file"; filename="a.txt"\r\n\r\ntext')
        head = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="'
        body = b"".join(head + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
        response = await http.post("/files", headers=form(b'"' + boundary + b'"'), content=body)
        assert response.status_code == 200, response.text


async def test_a_character_of_a_field_can_be_split_over_two_blocks(platform: Platform) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        field = '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n€'.encode()
        yield field[:-1]
        yield field[-1:] + b"\r\n--x--\r\n"

    response = await platform.desk().http.post("/files", headers=form(b"x"), content=blocks())
    assert "the form has no file" in response.text


async def test_a_malformed_form_is_a_400(platform: Platform) -> None:
    http = platform.desk().http
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext\r\n'
    purpose = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    malformed: list[tuple[Json, bytes, str]] = [
        ({"content-type": "application/json"}, b"{}", "uploaded as multipart/form-data"),
        ({"content-type": "multipart/form-data"}, b"", "uploaded as multipart/form-data"),
        (multipart, b"nonsense", "the form cannot be read"),
        (multipart, part, "the form ends too soon"),
        (multipart, purpose + b"--x--\r\n", "the form has no file"),
        (multipart, part + part + b"--x--\r\n", "must have one file"),
        (multipart, part.replace(b'"file"', b'"fil"') + b"--x--\r\n", "must have one file"),
        (multipart, part + purpose.replace(b"purpose", b"speed") + b"--x--\r\n", "'speed' is not a field"),
        (multipart, part + purpose.replace(b"assistants", b"fun") + b"--x--\r\n", "purpose is 'fun'; it can be"),
        (multipart, purpose.replace(b"assistants", b"a" * 5000) + b"--x--\r\n", "more than 4096 bytes"),
        (multipart, purpose.replace(b"assistants", b"\xff") + b"--x--\r\n", "not UTF-8"),
        (
            multipart,
            part.replace(b"text", b"").replace(b"Content-D", b"A" * 9000 + b": b\r\nContent-D"),
            "cannot be read",
        ),
        (multipart, b"--x\r\nA" * 3000, "cannot be read"),
        *((form(boundary), b"--" + boundary + part[3:], "the boundary of the form must") for boundary in BOUNDARIES),
    ]
    for headers, body, reason in malformed:
        response = await http.post("/files", headers=headers, content=body)
        assert (response.status_code, reason in response.json()["error"]["message"]) == (400, True), (
            reason,
            response.text,
        )
    response = await http.post("/files", headers=multipart | {"content-length": str(1 << 40)}, content=b"")
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_invalid_bodies_and_queries_are_rejected_with_a_reason(platform: Platform) -> None:
    desk = platform.desk()
    store = await desk.openai.vector_stores.create()
    assert store.name.startswith("vector-store-")
    base = f"/vector_stores/{store.id}"
    for method, path, body, reason in [
        ("POST", "/vector_stores", {"nam": "x"}, "'nam' is not a field; there are: chunking_strategy, file_ids"),
        ("POST", "/vector_stores", {"metadata": {"a": 1}}, "metadata has 'a'"),
        ("POST", "/vector_stores", {"name": 3}, "name must be a string"),
        ("POST", "/vector_stores", {"chunking_strategy": {"type": "static"}}, "chunking_strategy can only be auto"),
        ("POST", f"{base}/files", {"file_id": ["x"]}, "file_id must be a string"),
        ("POST", f"{base}/file_batches", {}, "at least one file"),
        ("POST", f"{base}/file_batches", {"files": [3]}, "files[0] must be an object"),
        (
            "POST",
            f"{base}/file_batches",
            {"files": [{"file_id": "f"}], "attributes": {}},
            "each of them has its own",
        ),
        ("POST", f"{base}/file_batches", {"files": [{"file_id": "f", "x": 1}]}, "'files[0].x' is not a field"),
        (
            "POST",
            f"{base}/file_batches",
            {"files": [{"file_id": "f", "chunking_strategy": {"type": "static"}}]},
            "files[0].chunking_strategy can only be auto",
        ),
        ("GET", f"{base}/files?limit=0", None, "limit is '0'; it can be 1 to 100"),
        ("GET", f"{base}/files?order=up", None, "order is 'up'"),
        ("GET", f"{base}/files?filter=done", None, "filter is 'done'; it can be: in_progress"),
        ("GET", "/files?before=x", None, "use after with the other order"),
    ]:
        response = await desk.http.request(method, path, json=body)
        assert response.status_code == 400, response.text
        assert reason in response.json()["error"]["message"]
    response = await desk.http.post("/vector_stores", content=b"{")
    assert (response.status_code, "not JSON" in response.json()["error"]["message"]) == (400, True)
    for method, path, body in [
        ("POST", f"{base}/files", {"file_id": "file-none"}),
        ("POST", f"{base}/file_batches", {"file_ids": ["file-none"]}),
        ("GET", f"{base}/file_batches/vsfb_none", None),
        ("GET", "/vector_stores?after=vs_none", None),
        ("GET", "/files?after=file-none", None),
    ]:
        assert (await desk.http.request(method, path, json=body)).status_code == 404


async def test_vector_stores_are_listed_in_pages(platform: Platform) -> None:
    client = platform.desk().openai
    created = [(await client.vector_stores.create(name=f"store {n}")).id for n in range(5)]
    assert [s.id async for s in client.vector_stores.list(limit=2)] == created[::-1]
    assert [s.id async for s in client.vector_stores.list(limit=2, order="asc")] == created
    with pytest.raises(openai.ConflictError):
        await client.vector_stores.create(name="store 1")


async def test_a_failed_file_has_a_reason_and_is_retried(platform: Platform) -> None:
    desk = platform.desk()
    scanned = await desk.upload("scan.pdf", pdf([[], []]))
    unknown = await desk.upload("model.bin", b"\0", purpose="user_data")
    store = await desk.openai.vector_stores.create(name="s", file_ids=[scanned.id])
    files = desk.openai.vector_stores.files
    for file, code, reason in [
        (scanned, "unsupported_file", "this file has no text"),
        (unknown, "unsupported_file", "'.bin' files cannot be parsed"),
    ]:
        for _ in range(2):  # the second request retries it
            failed = await files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
            assert failed.last_error
            assert (failed.status, failed.last_error.code) == ("failed", code)
            assert reason in failed.last_error.message
    assert [f.id async for f in files.list(store.id, filter="failed", order="asc")] == [scanned.id, unknown.id]
    assert [f.id async for f in files.list(store.id, filter="completed")] == []


async def test_attributes_keep_their_types_and_can_be_updated(platform: Platform, report: bytes) -> None:
    desk = platform.desk()
    file = await desk.upload("report.pdf", report)
    store = await desk.openai.vector_stores.create(name="s")
    files = desk.openai.vector_stores.files
    typed: dict[str, str | float | bool] = {"year": 2025, "audited": True, "desk": "rates", "share": 0.5}
    attached = await files.create(store.id, file_id=file.id, attributes=typed)
    assert attached.attributes == typed
    await files.poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
    changed = await files.update(file.id, vector_store_id=store.id, attributes={"year": 2026, "share": 0.5})
    assert (changed.status, changed.attributes) == ("completed", {"year": 2026, "share": 0.5})
    response = await desk.http.get(f"/../api/v1/collections/{store.id}/documents")
    (stored,) = (d["attributes"] for d in response.json()["documents"])
    assert (stored, type(stored["year"])) == ({"year": 2026, "share": 0.5}, int)
    content = await files.content(file.id, vector_store_id=store.id)
    assert [page.text for page in content.data][1] == "Rates 17.8 16.1"


async def test_a_batch_can_have_attributes_and_be_cancelled(
    idle: AbstractAsyncContextManager[Platform], report: bytes
) -> None:
    async with idle as platform:
        desk = platform.desk()
        file = await desk.upload("report.pdf", report)
        store = await desk.openai.vector_stores.create(name="s")
        batches = desk.openai.vector_stores.file_batches
        files: Json = [{"file_id": file.id, "attributes": {"a": 1}}]
        batch = await batches.create(store.id, files=files)
        assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 1)
        assert (await desk.openai.vector_stores.retrieve(store.id)).status == "in_progress"
        batch = await batches.cancel(batch.id, vector_store_id=store.id)
        assert (batch.status, batch.file_counts.cancelled) == ("cancelled", 1)


async def test_concurrent_uploads_of_the_same_file_are_one_file(platform: Platform, rag: Profile) -> None:
    desk = platform.desk()
    created = await asyncio.gather(*(desk.upload("a.md", b"# The same") for _ in range(8)))
    assert len({file.id for file in created}) == 1
    assert len([p for p in (rag.data / "documents" / "content").rglob("*") if p.is_file()]) == 1


async def test_an_upload_concurrent_with_the_deletion_of_the_same_bytes_keeps_them(platform: Platform) -> None:
    desks = [platform.desk("a"), platform.desk("b")]
    for _ in range(6):
        first = await desks[0].upload("a.md", b"# Shared")
        second, _ = await asyncio.gather(desks[1].upload("b.md", b"# Shared"), desks[0].openai.files.delete(first.id))
        assert (await desks[1].openai.files.content(second.id)).content == b"# Shared"
        await desks[1].openai.files.delete(second.id)


async def test_a_desk_cannot_see_files_of_another_desk(platform: Platform, report: bytes) -> None:
    research, rates = platform.desk("research"), platform.desk("rates")
    file = await research.upload("report.pdf", report)
    store = await research.openai.vector_stores.create(name="secret")
    batch = await research.openai.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[file.id], poll_interval_ms=50
    )
    other_store = await rates.openai.vector_stores.create(name="theirs")
    base = f"/vector_stores/{store.id}"
    routes = [
        ("GET", f"/files/{file.id}"),
        ("GET", f"/files/{file.id}/content"),
        ("DELETE", f"/files/{file.id}"),
        ("GET", base),
        ("POST", base),
        ("DELETE", base),
        ("GET", f"{base}/files"),
        ("POST", f"{base}/files"),
        ("GET", f"{base}/files/{file.id}"),
        ("POST", f"{base}/files/{file.id}"),
        ("DELETE", f"{base}/files/{file.id}"),
        ("GET", f"{base}/files/{file.id}/content"),
        ("POST", f"{base}/file_batches"),
        ("GET", f"{base}/file_batches/{batch.id}"),
        ("GET", f"{base}/file_batches/{batch.id}/files"),
        ("POST", f"{base}/file_batches/{batch.id}/cancel"),
        ("GET", f"/../api/v1/collections/{store.id}/indexing"),
        ("GET", "/../api/v1/collections/secret/indexing"),
    ]
    for method, path in routes:
        response = await rates.http.request(method, path)
        assert response.status_code == 404, (method, path, response.text)
    response = await rates.http.post(f"/vector_stores/{other_store.id}/files", json={"file_id": file.id})
    assert response.status_code == 404
    assert (await rates.openai.files.list()).data == []
    assert [s.id for s in (await rates.openai.vector_stores.list()).data] == [other_store.id]
    assert (await research.openai.vector_stores.retrieve(store.id)).file_counts.completed == 1


async def test_every_route_requires_its_scope(platform: Platform) -> None:
    reader, writer = platform.desk(scopes="documents:read"), platform.desk(scopes="documents:write")
    for route in routes_of(platform.host):
        path = route.path.removeprefix("/v1").format(file="f", store="s", batch="b")
        for method in (route.methods or set()) - {"HEAD"}:
            without_scope = writer if method == "GET" else reader
            response = await without_scope.http.request(method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied"), (
                method,
                path,
            )


async def test_a_body_is_not_read_beyond_its_maximum_size(platform: Platform) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 65_536

    response = await platform.desk().http.post("/vector_stores", content=body())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert read == 17
