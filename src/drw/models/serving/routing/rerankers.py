"""Rerankers that serving runs from their files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.ports import Reranker
from drw.models.serving.routing.runtime_directory import RuntimeDirectory, RuntimeModel
from drw.tensors.datatypes import BYTES, Tensor, encoded

MAX_DOCUMENTS = 10_000
QUERY, DOCUMENTS = "query", "documents"


class PooledReranker(Reranker):
    """A cross-encoder in a process of the runtime."""

    def __init__(self, directory: RuntimeDirectory, model: RuntimeModel) -> None:
        self._directory = directory
        self._model = model

    async def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return the relevance of each document, from 0 to 1; see `Reranker.score`."""
        if len(documents) > MAX_DOCUMENTS:
            raise InvalidRequest(f"there are {len(documents)} documents; at most {MAX_DOCUMENTS}", param="documents")
        if not documents:
            return []
        inputs = (_texts(QUERY, [query]), _texts(DOCUMENTS, documents))
        caller = caller_or_none()
        outputs = await self._directory.pool.infer(self._model.spec, caller.org if caller else "", inputs)
        scores: list[float] = np.frombuffer(outputs[0].data, np.float32).tolist()
        return scores


async def reranker(directory: RuntimeDirectory, name: str) -> PooledReranker:
    """Return the reranker with the name of a model or an alias; raises as `RuntimeDirectory.plan`."""
    plan = await directory.plan(name, kind="reranker")
    return PooledReranker(directory, plan.models[0])


def _texts(name: str, texts: Sequence[str]) -> Tensor:
    return Tensor(name, BYTES, (len(texts),), encoded(text.encode(errors="replace") for text in texts))
