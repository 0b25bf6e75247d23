"""Rerankers that serving runs from their files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.context import caller_or_none
from drw.models.serving.errors import ResponseTruncated
from drw.models.serving.ports import ModelSpec, Reranker
from drw.models.serving.runtime.pool import ModelPool
from drw.tensors.datatypes import BYTES, Tensor, encoded

MAX_DOCUMENTS = 10_000
QUERY, DOCUMENTS = "query", "documents"


class PooledReranker(Reranker):
    """A cross-encoder in a process of the runtime."""

    def __init__(self, pool: ModelPool, spec: ModelSpec) -> None:
        self._pool = pool
        self._spec = spec

    async def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return the relevance of each document, from 0 to 1; see `Reranker.score`."""
        if len(documents) > MAX_DOCUMENTS:
            raise InvalidRequest(f"there are {len(documents)} documents; at most {MAX_DOCUMENTS}", param="documents")
        if not documents:
            return []
        inputs = (_texts(QUERY, [query]), _texts(DOCUMENTS, documents))
        caller = caller_or_none()
        outputs = await self._pool.infer(self._spec, caller.org if caller else "", inputs)
        scores = np.frombuffer(outputs[0].data, np.float32)
        if not np.isfinite(scores).all():
            raise ResponseTruncated(f"{self._spec.id!r} returned a score that is not a number")
        values: list[float] = scores.tolist()
        return values


def _texts(name: str, texts: Sequence[str]) -> Tensor:
    return Tensor(name, BYTES, (len(texts),), encoded(text.encode(errors="replace") for text in texts))
