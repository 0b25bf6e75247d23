"""`POST /v1/embeddings`: validates, meters and forwards texts to the embedding service."""

from __future__ import annotations

import array
import base64
import re
import sys
from typing import Any

import orjson

from drw.api.models.v1.discovery_pb2 import Model
from drw.api.rag.v1.embedding_pb2 import EmbedRequest, Vector
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.billing.usage import UsageUpdate
from drw.kernel.errors import InvalidRequest
from drw.kernel.observability.overhead import waiting
from drw.models.serving.errors import CONTEXT_LENGTH, ContextLengthExceeded, NotSupported
from drw.models.serving.metering.budget_gate import BudgetGate
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import Embedding
from drw.models.serving.routing.candidates import BYTES_PER_TOKEN
from drw.models.serving.routing.model_directory import ModelDirectory

Input = str | list[int]
"""A text, or token ids."""

BATCH = 256
"""Texts in one call of the embedding service."""
TEXT = re.compile(r"(?:texts|tokens)\[(\d+)\](?:\.ids)?")
"""The path of a text, or of its tokens, in a request to the embedding service."""
SHORTEN = "shorten it, or set truncate_prompt_tokens to -1 to read only its first tokens"


class Embeddings:
    """Serves `POST /v1/embeddings`."""

    def __init__(self, models: ModelDirectory, client: EmbeddingClient, metering: BudgetGate) -> None:
        self._models = models
        self._metering = metering
        self._client = client

    async def respond(self, request: Embedding, record: CallRecord) -> bytes:
        """Return the body of the response; the record is closed."""
        inputs, truncate = request.inputs(), request.truncate_prompt_tokens or 0
        model = await self._models.embedding(request.model)
        _check_dimensions(request, model)
        inputs = _truncate_inputs(inputs, model, truncate=bool(truncate))
        record.set_model(model.id, model.engine, model.id)
        async with self._metering.embedding(model.id, inputs, record) as call:
            vectors, tokens = await self._embed(inputs, model.id, truncate)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            await call.progress(UsageUpdate(input_tokens=tokens, output_tokens=0, final=True))
            data = [_embedding_object(i, vector, request.encoding_format) for i, vector in enumerate(vectors)]
            body = orjson.dumps({"object": "list", "data": data, "model": request.model, "usage": usage})
            record.set_answer(body, usage)
            record.response_body = body
        return body

    async def _embed(self, inputs: list[Input], model: str, truncate: int) -> tuple[list[Vector], int]:
        vectors: list[Vector] = []
        tokens = 0
        for start in range(0, len(inputs), BATCH):
            batch = EmbedRequest(model=model, truncate_prompt_tokens=truncate)
            for item in inputs[start : start + BATCH]:
                if isinstance(item, str):
                    batch.texts.append(item)
                else:
                    batch.tokens.add(ids=item)
            with waiting("upstream"):
                try:
                    embedded = await self._client.embed(batch)
                except InvalidRequest as error:
                    raise _reindex_error(error, start) from error
            vectors += embedded.vectors
            tokens += embedded.tokens
        return vectors, tokens


def _check_dimensions(request: Embedding, model: Model) -> None:
    if request.dimensions not in (None, model.dimensions):
        instead = f"leave it out: vectors of {model.id!r} have {model.dimensions} dimensions and cannot be shortened"
        raise NotSupported("dimensions", instead)


def _truncate_inputs(inputs: list[Input], model: Model, *, truncate: bool) -> list[Input]:
    """Return the inputs with overlong texts truncated by bytes, before they are tokenized.

    Raises:
        ContextLengthExceeded: a text is too long and `truncate` is off.
    """
    max_bytes = BYTES_PER_TOKEN * model.context_length
    truncated: list[Input] = []
    for number, text in enumerate(inputs):
        if not isinstance(text, str):
            truncated.append(text)
            continue
        encoded = text.encode(errors="replace")
        is_long = 0 < max_bytes < len(encoded)
        if is_long and not truncate:
            message = f"input {number} has {len(encoded)} bytes; {model.id!r} takes {model.context_length} tokens, "
            raise ContextLengthExceeded(f"{message}at most {max_bytes} bytes: {SHORTEN}", "input")
        truncated.append(encoded[:max_bytes].decode(errors="ignore") if is_long else text)
    return truncated


def _reindex_error(error: InvalidRequest, start: int) -> InvalidRequest:
    """Return an error about a text of a batch with the index of the text in the request."""
    if field := TEXT.fullmatch(error.metadata.get("param", "")):
        return InvalidRequest(f"input {start + int(field[1])}{error.message.removeprefix(field[0])}", param="input")
    if "index" not in error.metadata:
        return error
    index = int(error.metadata["index"])
    if error.metadata.get("code") != CONTEXT_LENGTH:
        return InvalidRequest(error.message.replace(f"text {index} ", f"input {start + index} ", 1), param="input")
    tokens, limit = error.metadata["tokens"], error.metadata["limit"]
    return ContextLengthExceeded(
        f"input {start + index} has {tokens} tokens; this model takes at most {limit}: {SHORTEN}", "input"
    )


def _embedding_object(index: int, vector: Vector, encoding: str | None) -> dict[str, Any]:
    values: Any = list(vector.values)
    if encoding == "base64":
        packed = array.array("f", values)
        if sys.byteorder == "big":
            packed.byteswap()
        values = base64.b64encode(packed.tobytes()).decode()
    return {"object": "embedding", "index": index, "embedding": values}
