"""Validation of requests: limits of names, documents, chunks and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from google.protobuf.struct_pb2 import Value

from drw.api.rag.v1.vector_store_pb2 import Chunk, PutDocumentRequest, VectorSearchRequest
from drw.kernel import attribute_filters
from drw.kernel.attribute_filters import Filter
from drw.kernel.attributes import Scalar, from_values
from drw.kernel.errors import InvalidRequest, TooLarge
from drw.rag.vector_store.ports import Page

DIMENSIONS = 384
MAX_NAME = 128
MAX_TITLE = 512
MAX_PAIRS = 32
MAX_KEY = 64
MAX_VALUE = 512
MAX_CHUNKS = 20_000
MAX_CHUNK_TEXT = 20_000
MAX_CONTEXT = 4_000
MAX_QUESTION = 8_000
MAX_LIMIT = 50
DEFAULT_LIMIT = 10
MAX_PAGE = 1000
DEFAULT_PAGE = 100


def check_name(name: str, param: str = "name") -> None:
    """Raise `InvalidRequest` if a name or id is empty, too long, or has control characters."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        refuse(f"{param} {name[:MAX_NAME]!r} must have 1 to {MAX_NAME} printable characters, no space around", param)


def check_pairs(pairs: Mapping[str, str], param: str) -> None:
    """Raise `InvalidRequest` if there are too many pairs, or one is too long."""
    if len(pairs) > MAX_PAIRS:
        refuse(f"{len(pairs)} {param}; at most {MAX_PAIRS}", param)
    for key, value in pairs.items():
        if not 1 <= len(key) <= MAX_KEY or len(value) > MAX_VALUE or "\0" in key + value:
            refuse(f"{param} {key[:MAX_KEY]!r}: a key has 1 to {MAX_KEY} characters, a value up to {MAX_VALUE}", param)


def check_attributes(attributes: Mapping[str, Value], param: str) -> dict[str, Scalar]:
    """Return attributes; raise `InvalidRequest` if there are too many, or one is too long or not a scalar."""
    scalars = from_values(attributes, param)
    check_pairs({name: str(value) for name, value in scalars.items()}, param)
    return scalars


def search_filter(request: VectorSearchRequest) -> Filter | None:
    """Return the filter of a search: its equal attributes and its filter expression."""
    equality = attribute_filters.equal_to(check_attributes(request.attributes, "attributes"))
    return attribute_filters.all_of(equality, attribute_filters.from_struct(request.filter))


def page(size: int, token: str) -> Page:
    """Return the requested page of a list."""
    if not 0 <= size <= MAX_PAGE:
        refuse(f"page_size is {size}; it can be 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}", "page_size")
    return Page(size or DEFAULT_PAGE, token)


def check_document(request: PutDocumentRequest) -> None:
    """Raise `InvalidRequest` if a document cannot be stored."""
    document = request.document
    chunks = request.chunks
    check_name(document.id, "document.id")
    check_attributes(document.attributes, "document.attributes")
    if len(document.title) > MAX_TITLE or "\0" in document.title + document.content_hash:
        refuse(f"the title {document.title[:80]!r} must have at most {MAX_TITLE} characters, none of them NUL", "title")
    if len(chunks) > MAX_CHUNKS:
        raise TooLarge(f"{len(chunks)} chunks; a document has at most {MAX_CHUNKS}", param="chunks")
    if len({chunk.number for chunk in chunks}) != len(chunks):
        refuse("two chunks have the same number", "chunks")
    for chunk in chunks:
        _check_chunk(chunk)


def check_search(request: VectorSearchRequest) -> int:
    """Check a search; return its number of passages."""
    check_vector(request.vector.values, "vector")
    if len(request.text) > MAX_QUESTION:
        refuse(f"the text has {len(request.text)} characters; at most {MAX_QUESTION}", "text")
    if not 0 <= request.limit <= MAX_LIMIT:
        refuse(f"limit is {request.limit}; it can be 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}", "limit")
    return request.limit or DEFAULT_LIMIT


def check_vector(values: Sequence[float], param: str) -> None:
    """Raise `InvalidRequest` if a vector does not have the dimensions of the store."""
    if values and len(values) != DIMENSIONS:
        refuse(f"a vector of {len(values)} values; this store keeps {DIMENSIONS}", param)
    if any(value != value or abs(value) == float("inf") for value in values):
        refuse("a vector has a value that is not a number", param)


def refuse(message: str, param: str) -> NoReturn:
    """Raise `InvalidRequest` about a field."""
    raise InvalidRequest(message, param=param)


def _check_chunk(chunk: Chunk) -> None:
    where = f"chunk {chunk.number}"
    if not 1 <= len(chunk.text) <= MAX_CHUNK_TEXT or len(chunk.context) > MAX_CONTEXT:
        refuse(
            f"{where} must have 1 to {MAX_CHUNK_TEXT} characters of text and at most {MAX_CONTEXT} of context", "chunks"
        )
    if "\0" in chunk.text or "\0" in chunk.context:
        refuse(f"{where} has a NUL character", "chunks")
    if chunk.number < 0 or chunk.page < 1 or not 0 <= chunk.start <= chunk.end:
        refuse(f"{where}: its number is from 0, its page from 1, and it ends after it starts", "chunks")
    check_vector(chunk.vector.values, "chunks")
