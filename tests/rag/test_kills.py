"""Kills of the embedding model: every request is rejected, and failed documents contain the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drw.api.gateway.v1.request_router_pb2 import Kill
from drw.api.rag.v1.documents_pb2 import IndexFileRequest, Indexing, PutFileRequest
from drw.api.rag.v1.documents_rpc import DocumentsClient
from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.retrieval_pb2 import AskRequest, SearchRequest
from drw.api.rag.v1.retrieval_rpc import RetrievalClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from drw.killswitch.watch import Killed
from drw.rag.embedding.encoder_queue import EncoderQueue
from drw.rag.embedding.service import Embedding
from support.gateway.kills import DoubleKills, double_kills, kill
from support.hosting import hosted

SERVICES = ["embedding", "vector_store", "documents", "retrieval"]
HASHING = kill("MODEL", "hashing")


@asynccontextmanager
async def killing(profile: Profile, folder: Path, how: str = "together") -> AsyncIterator[tuple[Host, DoubleKills]]:
    """Run the cluster with a stand-in for the request router; gives both."""
    async with double_kills(f"unix:{folder}/rag.k") as kills:
        none = ServiceAddress(services=("serving",), grpc="unix:/nothing", http="")
        places = {"gateway": kills.address, "models": none}
        async with hosted(profile.model_copy(update={"processes": places}), SERVICES, how) as host:
            yield host, kills


async def until_embedding_is(host: Host, rejected: bool) -> Killed | None:
    """Wait until the embedding service has received the last change; return its error."""
    async with asyncio.timeout(30):
        while True:
            try:
                await host.client(EmbeddingClient).embed(EmbedRequest(texts=["x"]))
                error = None
            except Killed as killed:
                error = killed
            if bool(error) == rejected:
                return error
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["together", "apart"])
async def test_a_killed_embedding_model_rejects_requests_and_loses_no_document(
    hashing: Profile, folder: Path, caller: Principal, how: str
) -> None:
    async with killing(hashing, folder, how) as (host, kills):
        documents, retrieval = host.client(DocumentsClient), host.client(RetrievalClient)
        with acting_for(caller):
            file = await documents.put_file(PutFileRequest(name="a.txt", content=b"The desk hedges gamma."))
            await kills.kill(HASHING)
            error = await until_embedding_is(host, rejected=True)
            assert error and error.metadata == {"code": "killed", "killed": "model"}
            order = IndexFileRequest(file=file.id, collection="c")
            found = await documents.index_file(order)
            assert found.state == Indexing.FAILED
            assert found.error.startswith("the model 'hashing' is stopped by a kill switch")
            with pytest.raises(Killed, match="the model 'hashing' is stopped"):
                await retrieval.search(SearchRequest(collection="c", question="What is hedged?"))
            with pytest.raises(Killed, match="the model 'hashing' is stopped"):
                await anext(retrieval.ask(AskRequest(collection="c", question="What is hedged?")))
            await kills.kill()
            await until_embedding_is(host, rejected=False)
            assert (await documents.index_file(order)).state == Indexing.COMPLETED
            answer = await retrieval.search(SearchRequest(collection="c", question="What is hedged?"))
            assert [passage.document for passage in answer.passages] == [file.id]


@pytest.mark.parametrize(
    "what",
    [HASHING, kill("MODEL", "hashing", "acme"), kill("DESK", "research", "acme"), kill("KEY", "key_test", "acme")],
)
async def test_queued_texts_are_cancelled_by_a_kill(
    hashing: Profile, folder: Path, caller: Principal, what: Kill
) -> None:
    async with killing(hashing, folder) as (host, kills):
        service = host._servicers["embedding"]
        assert isinstance(service, Embedding)
        service._queue = EncoderQueue(service._encoder, 1000)  # at which nobody works
        with acting_for(caller):
            waiting = asyncio.create_task(host.client(EmbeddingClient).embed(EmbedRequest(texts=["x"])))
            await kills.kill(what)
            with pytest.raises(Killed):
                await asyncio.wait_for(waiting, 30)
        assert service._queue._queued.total() == 0
