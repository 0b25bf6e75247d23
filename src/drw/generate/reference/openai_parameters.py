"""Supported parameters of OpenAI's and Anthropic's endpoints: types of their clients, compared with our models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic.types
from openai import types
from openai.types import chat, vector_stores

from drw.generate.reference.openai_requests import HANDWRITTEN, MODELS
from drw.models.serving.anthropic import requests as messages
from drw.models.serving.openai.requests import HINTS, NOT_FORWARDED
from drw.models.serving.responses_api import requests as responses

OPENAI: dict[str, Any] = {
    "chat/create": chat.completion_create_params.CompletionCreateParamsStreaming,
    "completions/create": types.completion_create_params.CompletionCreateParamsStreaming,
    "embeddings/create": types.EmbeddingCreateParams,
    "responses/create": types.responses.response_create_params.ResponseCreateParamsStreaming,
    "messages/create": anthropic.types.message_create_params.MessageCreateParamsStreaming,
    "messages/count_tokens": anthropic.types.MessageCountTokensParams,
    "batch/create": types.BatchCreateParams,
    "moderations/create": types.ModerationCreateParams,
    "files/create": types.FileCreateParams,
    "vector-stores/create": types.VectorStoreCreateParams,
    "vector-stores/modify": types.VectorStoreUpdateParams,
    "vector-stores/search": types.VectorStoreSearchParams,
    "vector-stores-files/createFile": vector_stores.FileCreateParams,
    "vector-stores-files/updateAttributes": vector_stores.FileUpdateParams,
    "vector-stores-file-batches/createBatch": vector_stores.FileBatchCreateParams,
}
"""The parameters of each endpoint in the official client for Python, by the endpoint's page in the reference."""

SAMPLING = {"temperature", "top_p", "top_k"}
"""Parameters of Anthropic's API that its present client does not declare."""
NOTES = {
    "chat/create": NOT_FORWARDED | HINTS,
    "responses/create": responses.NOTES,
    "messages/create": messages.HINTS,
    "messages/count_tokens": messages.HINTS,
}

IN_PATH = "vector_store_id"


def parameters(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield each parameter of an endpoint, whether it is supported, and a note."""
    names = set(OPENAI[page].__annotations__) - {IN_PATH} | (SAMPLING if page == "messages/create" else set())
    supported, rejected = _parameter_support(page)
    for name in sorted(names | supported.keys()):
        if name in rejected:
            yield name, "no", rejected[name]
        elif name not in supported:
            yield name, "no", "not a parameter here"
        else:
            yield name, "yes", supported[name] if name in names else "not OpenAI's"


def _parameter_support(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the supported parameters of an endpoint with notes, and the rejected ones with alternatives."""
    if page not in MODELS:
        return dict.fromkeys(HANDWRITTEN[page][1]["properties"], ""), {}
    model = MODELS[page]
    notes = NOTES.get(page, {})
    return {name: notes.get(name, "") for name in model.model_fields}, dict(getattr(model, "ALTERNATIVES", {}))
