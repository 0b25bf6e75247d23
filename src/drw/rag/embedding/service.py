"""Embedding service: turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.api.rag.v1 import embedding_rpc as contract
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse, Vector
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.observability import gen_ai, telemetry
from drw.kernel.rpc.context import caller_or_none
from drw.kernel.runtime.host import ServiceContext
from drw.killswitch.watch import KillList
from drw.rag.embedding.encoder_queue import EncoderQueue
from drw.rag.embedding.lengths import LengthPolicy
from drw.rag.embedding.ports import EncodingBatch, Floats, Text, TextEncoder
from drw.rag.embedding.settings import Settings


class Embedding(contract.Embedding):
    """Serves `drw.api.rag.v1.Embedding`."""

    def __init__(self, encoder: TextEncoder, queue: EncoderQueue, kills: KillList) -> None:
        self._encoder = encoder
        self._queue = queue
        self._kills = kills

    async def embed(self, request: EmbedRequest, /) -> EmbedResponse:
        if request.model not in {"", self._encoder.model}:
            raise NotFound(f"there is no embedding model {request.model!r}; there is {self._encoder.model!r}")
        texts = _texts(request)
        # The data plane checks kills only for requests to /v1/embeddings, not for documents and questions.
        with self._kills.guard_block(caller_or_none(), lambda: (self._encoder.model,)):
            lengths = LengthPolicy(request.long_text == EmbedRequest.AVERAGE, request.truncate_prompt_tokens)
            return await self._embed(texts, lengths)

    async def describe(self) -> str:
        """Return the detail line of the status."""
        return f"{self._encoder.model}, {self._encoder.dimensions} dimensions"

    async def _embed(self, texts: Sequence[Text], lengths: LengthPolicy) -> EmbedResponse:
        span_attributes = {
            gen_ai.OPERATION: gen_ai.EMBEDDINGS,
            gen_ai.PROVIDER: "drw",
            gen_ai.REQUEST_MODEL: self._encoder.model,
        }
        with telemetry.span(f"{gen_ai.EMBEDDINGS} {self._encoder.model}", attributes=span_attributes) as span:
            batches = await self._queue.tokenize(texts, lengths)
            vectors = pool_windows(batches, await self._queue.encode(batches), len(texts))
            tokens = sum(batch.tokens for batch in batches)
            span.set_attribute(gen_ai.INPUT_TOKENS, tokens)
        response_vectors = [Vector(values=vector) for vector in vectors]
        return EmbedResponse(vectors=response_vectors, model=self._encoder.model, tokens=tokens)


async def build(scope: ServiceContext) -> Embedding:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    encoder = scope.adapter(TextEncoder)  # type: ignore[type-abstract]
    queue = EncoderQueue(encoder, settings.max_waiting_texts)
    scope.background(queue.work)
    scope.on_stop(queue.stop)
    kills = KillList(scope.client(RequestRouterClient), scope.folder / "kills")
    scope.background(kills.follow)
    service = Embedding(encoder, queue, kills)
    scope.describe(service.describe)
    return service


def pool_windows(batches: Sequence[EncodingBatch], encoded: Sequence[Floats], texts: int) -> Floats:
    """Return one vector of length 1 for each text: the mean of its windows, weighted by tokens."""
    windows: list[list[tuple[int, Floats]]] = [[] for _ in range(texts)]
    for batch, vectors in zip(batches, encoded, strict=True):
        for position, ids, vector in zip(batch.positions, batch.ids, vectors, strict=True):
            windows[position].append((len(ids), vector))
    return np.stack(
        [windows_of_text[0][1] if len(windows_of_text) == 1 else _mean(windows_of_text) for windows_of_text in windows]
    )


def _mean(windows: Sequence[tuple[int, Floats]]) -> Floats:
    total = np.sum([tokens * vector for tokens, vector in windows], axis=0)
    mean: Floats = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    return mean


def _texts(request: EmbedRequest) -> Sequence[Text]:
    """Return the texts of a request, or their tokens."""
    if bool(request.texts) == bool(request.tokens):
        raise InvalidRequest("the request must have either texts or tokens", param="texts")
    return list(request.texts) or [tuple(tokens.ids) for tokens in request.tokens]
