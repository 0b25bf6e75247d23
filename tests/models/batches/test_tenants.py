"""Batches of other tenants, and the permissions of the creator while the batch runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from drw.api.gateway.v1.authentication_pb2 import RevokeKeyRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.rag.v1.documents_pb2 import FinishUploadRequest, ReadContentRequest, WriteUploadRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.errors import Conflict, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from models.batches.batch_cluster import BatchCluster, batch_cluster, chat, client_of


@pytest.fixture
async def running(start: Callable[..., Any]) -> AsyncIterator[BatchCluster]:
    async with batch_cluster(start) as cluster:
        yield cluster


async def test_other_tenants_cannot_name_a_batch_or_its_files(running: BatchCluster) -> None:
    desk = await running.desk(walls=["rates"])
    batch = await desk.ended(await desk.create([chat("a")]))
    strangers = (
        await running.desk(org="thief", name="den", walls=["rates"]),
        await running.desk(name="side", walls=["rates"]),
        await running.desk(walls=["m-and-a"]),
        await running.desk(),
    )
    for stranger in strangers:
        with pytest.raises(openai.NotFoundError):
            await stranger.openai.batches.retrieve(batch.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.openai.batches.cancel(batch.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.openai.batches.list(after=batch.id)
        assert (await stranger.openai.batches.list()).data == []
        for file in (batch.input_file_id, batch.output_file_id):
            assert file
            with pytest.raises(openai.NotFoundError):
                await stranger.openai.files.content(file)
        with pytest.raises(openai.NotFoundError):
            await stranger.openai.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
    colleague = await running.desk(walls=["rates", "m-and-a"])
    assert (await colleague.openai.batches.retrieve(batch.id)).id == batch.id


async def test_the_results_have_the_walls_of_the_batch(running: BatchCluster) -> None:
    desk = await running.desk(walls=["m-and-a", "rates"])
    batch = await desk.ended(await desk.create([chat("a")]))
    assert batch.output_file_id
    file: Any = await desk.openai.files.retrieve(batch.output_file_id)
    assert file.walls == ["m-and-a", "rates"] and file.purpose == "batch_output"
    assert file.filename == f"{batch.id}_output.jsonl"


async def test_scopes_are_required(running: BatchCluster) -> None:
    desk = await running.desk()
    file = await desk.upload([chat("a")])
    request: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for missing in ("models:invoke", "documents:read"):
        scopes = frozenset(SCOPES) - {missing}
        client = client_of(running.cluster, replace(desk.principal, scopes=scopes))
        with pytest.raises(openai.PermissionDeniedError, match=missing):
            await client.batches.create(**request)
    unknown = client_of(running.cluster, Principal("acme", "research", "key_unknown", frozenset(SCOPES)))
    with pytest.raises(openai.PermissionDeniedError, match="not on record"):
        await unknown.batches.create(**request)


async def test_requests_after_a_revocation_fail_and_are_not_answered(
    running: BatchCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drw.models.serving.batches.permissions.CACHE_SECONDS", 0)
    desk = await running.desk()
    batch = await desk.create([chat(f"w-{n}", "wait") for n in range(20)])
    await running.cluster.until(lambda: running.cluster.double.under_way > 0, "requests that run")
    admin = replace(desk.principal, scopes=frozenset(SCOPES))
    with acting_for(admin):
        await running.cluster.host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=desk.principal.key))
    await desk.change("update serving.batch set not_before = now() + interval '1 hour'")
    running.cluster.double.go.set()
    await desk.until_row("select 1 from serving.batch where completed > 0", "the answers before the revocation")
    await running.cluster.until(lambda: running.cluster.double.under_way == 0, "the end of the running requests")
    await desk.change("update serving.batch set not_before = now()")
    batch = await desk.ended(batch)
    results = await desk.results(batch)
    refused = [line for line in results.values() if line["response"]["status_code"] == 403]
    answered = [line for line in results.values() if line["response"]["status_code"] == 200]
    assert batch.status == "completed" and refused and answered and len(refused) + len(answered) == 20
    assert refused[0]["response"]["body"]["error"]["code"] == "credential_ended"
    assert len(running.cluster.double.bodies) == len(answered)


async def test_files_of_batches_are_not_indexed(running: BatchCluster) -> None:
    desk = await running.desk()
    file = await desk.upload([chat("a")])
    store = await desk.openai.vector_stores.create(name="s")
    with pytest.raises(openai.BadRequestError, match="cannot be indexed"):
        await desk.openai.vector_stores.files.create(vector_store_id=store.id, file_id=file.id)


async def test_uploads_in_parts_belong_to_their_desk(running: BatchCluster) -> None:
    desk, stranger = await running.desk(), await running.desk(name="side")
    documents = running.cluster.host.client(DocumentsClient)
    sha = "ef537f25c895bfa782526529a9b63d97aa631564d5d789c2b765448c8635fb6c"  # "The ..." below
    text = b"The quick brown fox jumps over the lazy dog."
    finish = FinishUploadRequest(upload="u", name="x.jsonl", purpose="batch_output", content_hash=sha)
    with acting_for(desk.principal):
        await documents.write_upload(WriteUploadRequest(upload="u", offset=0, content=text[:10]))
        await documents.write_upload(WriteUploadRequest(upload="u", offset=10, content=b"wrong" * 20))
        await documents.write_upload(WriteUploadRequest(upload="u", offset=10, content=text[10:]))
        with pytest.raises(Conflict, match="write it again"):
            await documents.write_upload(WriteUploadRequest(upload="u", offset=1000, content=b"x"))
    with acting_for(stranger.principal), pytest.raises(Conflict, match="write it again"):
        await documents.finish_upload(finish)
    with acting_for(desk.principal):
        file = await documents.finish_upload(finish)
        assert (await documents.finish_upload(finish)).id == file.id
        read = ReadContentRequest(file=file.id, offset=4, length=5)
        assert (await documents.read_content(read)).content == b"quick"
        with pytest.raises(InvalidRequest, match="purpose"):
            await documents.finish_upload(
                FinishUploadRequest(upload="u", name="x", purpose="assistants", content_hash=sha)
            )
    with acting_for(stranger.principal), pytest.raises(NotFound):
        await documents.read_content(read)
