"""Reranking with an embedding model: the score is the cosine of the vectors of query and document."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.kernel.errors import InvalidRequest
from drw.models.serving.ports import EngineTarget, Ranking, RerankEngine

BATCH = 256
"""Texts in one call of the embedding service."""
TEXT = re.compile(r"texts\[(\d+)\]")
"""The path of a text in a request to the embedding service."""


class BiEncoder(RerankEngine):
    """Reads query and documents separately, so it is faster and less exact than a cross-encoder."""

    def __init__(self, embedding: EmbeddingClient) -> None:
        self._embedding = embedding

    async def rank(self, target: EngineTarget, query: str, documents: Sequence[str]) -> Ranking:
        """Return the cosines, from -1 to 1."""
        texts = [query, *documents]
        vectors: list[Sequence[float]] = []
        tokens = 0
        for start in range(0, len(texts), BATCH):
            request = EmbedRequest(model=target.model, texts=texts[start : start + BATCH])
            try:
                embedded = await self._embedding.embed(request)
            except InvalidRequest as error:
                raise _named(error, start) from error
            vectors += [list(vector.values) for vector in embedded.vectors]
            tokens += embedded.tokens
        first, *others = vectors
        return Ranking([_cosine(first, other) for other in others], tokens)

    async def close(self) -> None:
        """Do nothing: the client belongs to the service."""


def _named(error: InvalidRequest, start: int) -> InvalidRequest:
    """Return an error about one text with the name of the text in the request."""
    field = TEXT.fullmatch(error.metadata.get("param", ""))
    index = field[1] if field else error.metadata.get("index")
    if index is None:
        return error
    number = start + int(index)
    name = f"documents[{number - 1}]" if number else "query"
    if field:
        return InvalidRequest(f"{name}{error.message.removeprefix(field[0])}", param=name)
    if "tokens" in error.metadata:
        message = f"{name} has {error.metadata['tokens']} tokens; this model takes at most {error.metadata['limit']}"
        return InvalidRequest(f"{message}: shorten it", param=name, code="context_length_exceeded")
    return InvalidRequest(error.message.replace(f"text {index} ", f"{name} ", 1), param=name)


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0
