"""Supported parameters of OpenAI's endpoints: types of OpenAI's client compared with the services' models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openai import types
from openai.types import chat, vector_stores

from drw.generate.openai_requests import MODELS, WRITTEN
from drw.models.serving.openai.requests import HINTS, NOT_FORWARDED

OPENAI: dict[str, Any] = {
    "chat/create": chat.completion_create_params.CompletionCreateParamsStreaming,
    "completions/create": types.completion_create_params.CompletionCreateParamsStreaming,
    "embeddings/create": types.EmbeddingCreateParams,
    "files/create": types.FileCreateParams,
    "vector-stores/create": types.VectorStoreCreateParams,
    "vector-stores/modify": types.VectorStoreUpdateParams,
    "vector-stores/search": types.VectorStoreSearchParams,
    "vector-stores-files/createFile": vector_stores.FileCreateParams,
    "vector-stores-files/updateAttributes": vector_stores.FileUpdateParams,
    "vector-stores-file-batches/createBatch": vector_stores.FileBatchCreateParams,
}
"""The parameters of each endpoint in OpenAI's client for Python, by the endpoint's page in OpenAI's reference."""

IN_PATH = "vector_store_id"


def parameters(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield each parameter of an endpoint, whether it is supported, and a note."""
    theirs = set(OPENAI[page].__annotations__) - {IN_PATH}
    ours, instead = _read(page)
    for name in sorted(theirs | ours.keys()):
        if name in instead:
            yield name, "no", instead[name]
        elif name not in ours:
            yield name, "no", "not a parameter here"
        else:
            yield name, "yes", ours[name] if name in theirs else "not OpenAI's"


def _read(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the supported parameters of an endpoint with notes, and the rejected ones with alternatives."""
    if page not in MODELS:
        return dict.fromkeys(WRITTEN[page][1]["properties"], ""), {}
    model = MODELS[page]
    notes = NOT_FORWARDED | HINTS if page == "chat/create" else {}
    return {name: notes.get(name, "") for name in model.model_fields}, dict(getattr(model, "ALTERNATIVES", {}))
