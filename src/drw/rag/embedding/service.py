"""Turns text into vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drw.api.rag.v1 import embedding_rpc as contract
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, EmbedResponse, Vector
from drw.kernel import gen_ai, settings, telemetry
from drw.kernel.errors import InvalidRequest, NotFound, TooLarge
from drw.kernel.host import Scope
from drw.rag.embedding.ports import TextEncoder
from drw.rag.embedding.turns import Turns

MAX_TEXTS = 256
MAX_CHARACTERS = 32_768


class Settings(settings.Settings):
    """Settings of the service; `encoder` names the adapter."""

    most_waiting_texts: int = 4096
    """More are turned away until some are done."""


class Embedding(contract.Embedding):
    """Serves `drw.api.rag.v1.Embedding`."""

    def __init__(self, encoder: TextEncoder, turns: Turns) -> None:
        self._encoder = encoder
        self._turns = turns

    async def embed(self, request: EmbedRequest, /) -> EmbedResponse:
        if request.model not in {"", self._encoder.model}:
            raise NotFound(f"there is no embedding model {request.model!r}; there is {self._encoder.model!r}")
        _check(request.texts)
        told = {gen_ai.OPERATION: gen_ai.EMBEDDINGS, gen_ai.PROVIDER: "drw", gen_ai.REQUEST_MODEL: self._encoder.model}
        with telemetry.span(f"{gen_ai.EMBEDDINGS} {self._encoder.model}", attributes=told) as span:
            portions = await self._turns.read(request.texts)
            vectors = np.empty((len(request.texts), self._encoder.dimensions), np.float32)
            for portion, encoded in zip(portions, await self._turns.encode(portions), strict=True):
                vectors[list(portion.places)] = encoded
            tokens = sum(portion.tokens for portion in portions)
            span.set_attribute(gen_ai.INPUT_TOKENS, tokens)
        found = [Vector(values=vector) for vector in vectors]
        return EmbedResponse(vectors=found, model=self._encoder.model, tokens=tokens)

    async def describe(self) -> str:
        """Return what the status shows."""
        return f"{self._encoder.model}, {self._encoder.dimensions} dimensions"


async def build(scope: Scope) -> Embedding:
    """Make the service with what the configuration names."""
    own = scope.settings(Settings)
    encoder = scope.adapter(TextEncoder)  # type: ignore[type-abstract]
    turns = Turns(encoder, own.most_waiting_texts)
    scope.background(turns.work)
    scope.on_stop(turns.stop)
    service = Embedding(encoder, turns)
    scope.describe(service.describe)
    return service


def _check(texts: Sequence[str]) -> None:
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidRequest(f"{len(texts)} texts; it must be 1 to {MAX_TEXTS}", param="input")
    for number, text in enumerate(texts):
        if not text.strip():
            raise InvalidRequest(f"text {number} is empty", param="input")
        if len(text) > MAX_CHARACTERS:
            raise TooLarge(f"text {number} has {len(text)} characters; at most {MAX_CHARACTERS}", param="input")
