"""The event of an indexed document."""

from __future__ import annotations

import pytest

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, PutFileRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.kernel.rpc import context
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from rag.documents.desks import SERVICES, Platform
from support.database.published import published
from support.hosting import hosted
from support.parts import until


async def test_an_indexed_document_is_an_event(platform: Platform, rag: Profile, report: bytes) -> None:
    desk = platform.desk()
    file = await desk.upload("report.pdf", report)
    store = await desk.openai.vector_stores.create(name="c", file_ids=[file.id])

    async def is_indexed() -> bool:
        return (await desk.openai.vector_stores.retrieve(store.id)).file_counts.completed == 1

    await until(is_indexed, "the document")
    (event,) = published(rag.postgres, "document.indexed")
    assert (event["org"], event["desk"], event["actor"]) == ("acme", "research", "key_research")
    assert (event["data"]["file"], event["data"]["collection"]) == (file.id, store.id)
    assert event["data"]["pages"] == 2 and not event["data"]["unchanged"]


@pytest.mark.parametrize("how", ["together", "apart"])
async def test_a_document_that_a_triggered_run_indexes_carries_its_depth(
    rag: Profile, caller: Principal, report: bytes, how: str
) -> None:
    async with hosted(rag, SERVICES, how) as host:
        documents = host.client(DocumentsClient)
        with context.acting_for(caller):
            file = await documents.put_file(PutFileRequest(name="report.pdf", content=report))
            with context.at_event_depth(2):
                await documents.index_file(IndexFileRequest(file=file.id, collection="c"))
    (event,) = published(rag.postgres, "document.indexed")
    assert event["eventdepth"] == 2
