"""Request bodies of OpenAI's vector store API as pydantic models (API reference, "Vector stores").

In addition to OpenAI's fields, `walls` sets the information barriers of a new object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from drw.kernel.attributes import MAX_NUMBER
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.http.request_models import StrictModel
from drw.kernel.walls import MAX_WALLS

MAX_BODY_BYTES = 1 << 20
MAX_BATCH = 2000
MAX_KEYS = 16
MAX_KEY_LENGTH = 64
MAX_VALUE_LENGTH = 512


def _without_duplicates(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _require_auto_chunking(value: Any) -> Any:
    if value is not None and (not isinstance(value, dict) or value.get("type") != "auto"):
        raise ValueError("can only be auto: files are cut at lines and headings")
    return value


def _check_pairs(pairs: dict[str, Any], types: tuple[type, ...]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"must be an object of at most {MAX_KEYS} keys")
    for key, value in pairs.items():
        if not 1 <= len(key) <= MAX_KEY_LENGTH or not isinstance(value, types) or len(str(value)) > MAX_VALUE_LENGTH:
            value_types = "a string" if types == (str,) else "a string, a number or a boolean"
            raise ValueError(
                f"has {key[:MAX_KEY_LENGTH]!r}: a key has 1 to {MAX_KEY_LENGTH} characters,"
                f" a value is {value_types} of at most {MAX_VALUE_LENGTH} characters"
            )
        if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
            raise ValueError(f"has {key!r} with {value!r}; a number is from -2^53 to 2^53")
        if "\0" in f"{key}{value}":
            raise ValueError("has a NUL character")
    return pairs


def _pairs_schema(*types: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": list(types), "maxLength": MAX_VALUE_LENGTH},
            "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_LENGTH},
            "maxProperties": MAX_KEYS,
        }
    )


FileIds = Annotated[list[str], Field(max_length=MAX_BATCH), AfterValidator(_without_duplicates)]
Walls = Annotated[list[str], Field(max_length=MAX_WALLS), AfterValidator(_without_duplicates)]
Attributes = Annotated[
    dict[str, Any],
    AfterValidator(lambda pairs: _check_pairs(pairs, (str, int, float, bool))),
    _pairs_schema("string", "number", "boolean"),
]
Metadata = Annotated[dict[str, Any], AfterValidator(lambda pairs: _check_pairs(pairs, (str,))), _pairs_schema("string")]
AutoChunking = Annotated[
    Any,
    AfterValidator(_require_auto_chunking),
    WithJsonSchema({"type": "object", "properties": {"type": {"const": "auto"}}, "required": ["type"]}),
]


class VectorStoreBody(StrictModel):
    """The common fields of all bodies. The value `null` is the same as a missing field."""

    chunking_strategy: AutoChunking = None


class CreateVectorStore(VectorStoreBody):
    """`POST /v1/vector_stores`."""

    name: str | None = None
    metadata: Metadata | None = None
    file_ids: FileIds | None = None
    walls: Walls | None = None


class UpdateVectorStore(VectorStoreBody):
    """`POST /v1/vector_stores/{id}`."""

    name: str | None = None
    metadata: Metadata | None = None


class CreateVectorStoreFile(VectorStoreBody):
    """`POST /v1/vector_stores/{id}/files`."""

    file_id: str
    attributes: Attributes | None = None
    walls: Walls | None = None


class UpdateVectorStoreFile(VectorStoreBody):
    """`POST /v1/vector_stores/{id}/files/{file_id}`: `null` or an empty object removes all attributes."""

    attributes: Attributes | None


class FileOfBatch(VectorStoreBody):
    """One item of `files` in a batch."""

    file_id: str
    attributes: Attributes | None = None


class CreateFileBatch(VectorStoreBody):
    """`POST /v1/vector_stores/{id}/file_batches`: ids that share attributes, or files with attributes each."""

    file_ids: FileIds | None = None
    files: Annotated[list[FileOfBatch], Field(max_length=MAX_BATCH)] | None = None
    attributes: Attributes | None = None
    walls: Walls | None = None

    @model_validator(mode="after")
    def _check_sources(self) -> CreateFileBatch:
        if self.files is not None and self.attributes is not None:
            raise InvalidRequest("attributes cannot be given with files: each of them has its own", param="attributes")
        if self.files is not None and self.file_ids is not None:
            raise InvalidRequest("a batch has either file_ids or files", param="files")
        if not (self.files or self.file_ids):
            raise InvalidRequest("a batch needs at least one file", param="file_ids")
        return self

    def files_with_attributes(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the id and the attributes of each file; for a repeated id, the last attributes."""
        if self.files is None:
            return [(id_, self.attributes or {}) for id_ in self.file_ids or ()]
        return list({file.file_id: file.attributes or {} for file in self.files}.items())
