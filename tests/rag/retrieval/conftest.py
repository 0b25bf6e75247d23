"""A desk with two filings, and doubles for the two models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host, ServiceContext
from drw.kernel.runtime.settings import Profile
from rag.retrieval.filings import DoubleEmbedding, DoubleServing, fill
from support.hosting import hosted


@pytest.fixture
def serving() -> DoubleServing:
    return DoubleServing()


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch, serving: DoubleServing) -> None:
    """Replaces the services of the models by doubles."""

    async def build_serving(scope: ServiceContext) -> DoubleServing:
        return serving

    async def build_embedding(scope: ServiceContext) -> DoubleEmbedding:
        return DoubleEmbedding()

    monkeypatch.setattr("drw.models.serving.service.build", build_serving)
    monkeypatch.setattr("drw.rag.embedding.service.build", build_embedding)


@pytest.fixture(params=["together", "strict", "apart"])
def how(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def host(profile: Profile, caller: Principal, doubles: None, how: str) -> AsyncIterator[Host]:
    """A host of retrieval and the services that it calls, acting for a desk with two filings."""
    async with hosted(profile, ["vector_store", "embedding", "serving", "retrieval"], how) as running:
        with acting_for(caller):
            await fill(running.client(VectorStoreClient))
            yield running
