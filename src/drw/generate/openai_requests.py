"""Request schemas of OpenAI's endpoints: from the services' models, or written by hand."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding
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
NOISE = {"title", "discriminator"}

MODELS: dict[str, type[BaseModel]] = {
    "chat/create": ChatCompletion,
    "completions/create": Completion,
    "embeddings/create": Embedding,
    "vector-stores/create": CreateVectorStore,
    "vector-stores/modify": UpdateVectorStore,
    "vector-stores/search": SearchBody,
    "vector-stores-files/createFile": CreateVectorStoreFile,
    "vector-stores-files/updateAttributes": UpdateVectorStoreFile,
    "vector-stores-file-batches/createBatch": CreateFileBatch,
}
"""Which endpoint, by its page in OpenAI's reference, reads its body with which model."""


WRITTEN: dict[str, tuple[str, Schema]] = {
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

LISTS: dict[str, tuple[int, str]] = {
    "files/list": (10_000, "purpose"),
    "vector-stores/list": (100, ""),
    "vector-stores-files/listFiles": (100, "filter"),
    "vector-stores-file-batches/listBatchFiles": (100, "filter"),
}
"""List endpoints with their maximum page size and filters."""

NARROWED: dict[str, Schema] = {"purpose": TEXT, "filter": {"enum": list(STATES)}}


def query(page: str) -> list[Schema]:
    """Return the query parameters of an endpoint."""
    if page not in LISTS:
        return []
    maximum, narrowed = LISTS[page]
    parameters = {"limit": {"type": "integer", "minimum": 1, "maximum": maximum}, "order": {"enum": ["asc", "desc"]}}
    parameters |= {"after": TEXT} | ({narrowed: NARROWED[narrowed]} if narrowed else {})
    return [{"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()]


def body(page: str) -> Schema | None:
    """Return the request body of an endpoint; None where it takes none."""
    if page in MODELS:
        return _content(JSON, {"$ref": _reference(MODELS[page].__name__)})
    return _content(*WRITTEN[page]) if page in WRITTEN else None


def schemas() -> dict[str, Schema]:
    """Return the schemas that the bodies refer to, by their names."""
    models = [(model, "validation") for model in MODELS.values()]
    _, definitions_of = models_json_schema(models, ref_template=_reference("{model}"))  # type: ignore[arg-type]
    refused = {model.__name__: getattr(model, "INSTEAD", {}) for model in MODELS.values()}
    visible = {name: _shown(schema, refused.get(name, ())) for name, schema in definitions_of["$defs"].items()}
    return {PREFIX + name: schema for name, schema in sorted(visible.items())}


def _content(media_type: str, schema: Schema) -> Schema:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def _reference(name: str) -> str:
    return f"#/components/schemas/{PREFIX}{name}"


def _shown(value: Any, refused: Container[str] = ()) -> Any:
    """Return a schema without pydantic's internals and without rejected fields."""
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if not isinstance(value, dict):
        return value
    members = {k: _shown(v) for k, v in value.items() if k not in NOISE and not (k == "default" and v is None)}
    if "properties" in value:
        members["properties"] = {n: _shown(field) for n, field in value["properties"].items() if n not in refused}
    return members
