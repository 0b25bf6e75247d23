"""Request schemas of OpenAI's and Anthropic's endpoints: from the services' models, or written by hand."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from drw.models.serving.anthropic.requests import CountTokens, CreateMessage
from drw.models.serving.batches.api import CreateBatch
from drw.models.serving.moderation.moderations import Moderation
from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding
from drw.models.serving.reranking.request import Rerank
from drw.models.serving.responses_api.requests import CreateResponse
from drw.models.serving.tokenizing.tokenization import Detokenize, Tokenize
from drw.rag.documents.api.request_bodies import (
    CreateFileBatch,
    CreateVectorStore,
    CreateVectorStoreFile,
    UpdateVectorStore,
    UpdateVectorStoreFile,
)
from drw.rag.documents.file_contents import PURPOSES
from drw.rag.documents.storage.vector_store_files import STATES
from drw.rag.retrieval.openai import SearchBody

Schema = dict[str, Any]

JSON, FORM = "application/json", "multipart/form-data"
TEXT: Schema = {"type": "string"}
PREFIX = "openai."
OMITTED_KEYS = {"title", "discriminator"}

MODELS: dict[str, type[BaseModel]] = {
    "chat/create": ChatCompletion,
    "completions/create": Completion,
    "embeddings/create": Embedding,
    "responses/create": CreateResponse,
    "messages/create": CreateMessage,
    "messages/count_tokens": CountTokens,
    "batch/create": CreateBatch,
    "moderations/create": Moderation,
    "rerank/create": Rerank,
    "tokenize/create": Tokenize,
    "detokenize/create": Detokenize,
    "vector-stores/create": CreateVectorStore,
    "vector-stores/modify": UpdateVectorStore,
    "vector-stores/search": SearchBody,
    "vector-stores-files/createFile": CreateVectorStoreFile,
    "vector-stores-files/updateAttributes": UpdateVectorStoreFile,
    "vector-stores-file-batches/createBatch": CreateFileBatch,
}
"""The pydantic model of each endpoint's body, by the endpoint's page in the reference."""


HANDWRITTEN: dict[str, tuple[str, Schema]] = {
    "files/create": (
        FORM,
        {
            "type": "object",
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "purpose": {"enum": list(PURPOSES)},
                "password": TEXT,
                "walls": TEXT,
            },
            "additionalProperties": False,
            "required": ["file", "purpose"],
        },
    ),
}

LIST_ENDPOINTS: dict[str, tuple[int, str]] = {
    "batch/list": (100, ""),
    "files/list": (10_000, "purpose"),
    "responses/input-items": (100, ""),
    "vector-stores/list": (100, ""),
    "vector-stores-files/listFiles": (100, "filter"),
    "vector-stores-file-batches/listBatchFiles": (100, "filter"),
}
"""List endpoints with their maximum page size and filters."""

WITHOUT_ORDER = {"batch/list"}
"""List endpoints that always return the newest objects first."""

FILTER_SCHEMAS: dict[str, Schema] = {"purpose": TEXT, "filter": {"enum": list(STATES)}}


def query(page: str) -> list[Schema]:
    """Return the query parameters of an endpoint."""
    if page not in LIST_ENDPOINTS:
        return []
    maximum, filter_name = LIST_ENDPOINTS[page]
    parameters: dict[str, Schema] = {"limit": {"type": "integer", "minimum": 1, "maximum": maximum}}
    if page not in WITHOUT_ORDER:
        parameters["order"] = {"enum": ["asc", "desc"]}
    parameters |= {"after": TEXT} | ({filter_name: FILTER_SCHEMAS[filter_name]} if filter_name else {})
    return [{"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()]


def body(page: str) -> Schema | None:
    """Return the request body of an endpoint, or None if it has none."""
    if page in MODELS:
        return _content(JSON, {"$ref": _reference(MODELS[page].__name__)})
    return _content(*HANDWRITTEN[page]) if page in HANDWRITTEN else None


def schemas() -> dict[str, Schema]:
    """Return the schemas that the bodies refer to, by their names."""
    models = [(model, "validation") for model in MODELS.values()]
    _, definitions_of = models_json_schema(models, ref_template=_reference("{model}"))  # type: ignore[arg-type]
    rejected = {model.__name__: getattr(model, "ALTERNATIVES", {}) for model in MODELS.values()}
    visible = {
        name: _without_internals(schema, rejected.get(name, ())) for name, schema in definitions_of["$defs"].items()
    }
    return {PREFIX + name: schema for name, schema in sorted(visible.items())}


def _content(media_type: str, schema: Schema) -> Schema:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def _reference(name: str) -> str:
    return f"#/components/schemas/{PREFIX}{name}"


def _without_internals(value: Any, rejected: Container[str] = ()) -> Any:
    """Return a schema without pydantic's internals and without rejected fields."""
    if isinstance(value, list):
        return [_without_internals(item) for item in value]
    if not isinstance(value, dict):
        return value
    members = {
        k: _without_internals(v)
        for k, v in value.items()
        if k not in OMITTED_KEYS and not (k == "default" and v is None)
    }
    if "properties" in value:
        members["properties"] = {
            n: _without_internals(field) for n, field in value["properties"].items() if n not in rejected
        }
    return members
