"""The event of an indexed document."""

from __future__ import annotations

from drw.kernel.runtime.settings import Profile
from rag.documents.desks import Platform
from support.database.published import published
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
