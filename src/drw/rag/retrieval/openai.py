"""OpenAI's search of a vector store: `POST /v1/vector_stores/{id}/search`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from google.protobuf.struct_pb2 import Struct
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from drw.api.rag.v1.retrieval_pb2 import SearchRequest, SearchResponse
from drw.api.rag.v1.vector_store_pb2 import Passage
from drw.kernel import attribute_filters
from drw.kernel.attributes import from_values
from drw.kernel.rpc import context
from drw.kernel.rpc.http.request_models import StrictModel, read_model
from drw.kernel.rpc.http.server import read_body
from drw.kernel.validation import validate

PATH = "/v1/vector_stores/{vector_store_id}/search"
MAX_BODY_BYTES = 1 << 20
MAX_QUERIES = 8
MAX_QUERY_LENGTH = 4_000

Search = Callable[[SearchRequest], Awaitable[SearchResponse]]


def _check_queries(value: Any) -> Any:
    queries = value if isinstance(value, list) else [value]
    if not 1 <= len(queries) <= MAX_QUERIES or not all(
        isinstance(query, str) and query.strip() and len(query) <= MAX_QUERY_LENGTH for query in queries
    ):
        raise ValueError(
            f"must be a string of 1 to {MAX_QUERY_LENGTH:,} characters, not only white space, or a list of 1 to"
            f" {MAX_QUERIES} such strings"
        )
    return value


_QUERY: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_LENGTH, "pattern": r"\S"}
_QUERIES: dict[str, Any] = {"type": "array", "minItems": 1, "maxItems": MAX_QUERIES, "items": _QUERY}
Queries = Annotated[str | list[str], BeforeValidator(_check_queries), WithJsonSchema({"anyOf": [_QUERY, _QUERIES]})]


class RankingOptions(StrictModel):
    """Ranking options; there is one ranker."""

    ranker: Literal["auto", "none", "default-2024-11-15"] = "auto"
    score_threshold: float = Field(default=0.0, ge=0, le=1)


class SearchBody(StrictModel):
    """The body of the request."""

    query: Queries
    max_num_results: int = Field(default=10, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions = RankingOptions()
    rewrite_query: Literal[False] = False
    auto_filters: bool = True
    """Not part of OpenAI's API: apply automatic filters from the metadata that the query names."""


class SearchRoute:
    """The route of the search."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def route(self) -> Route:
        """Return the route."""
        return Route(PATH, self._serve, methods=["POST"])

    async def _serve(self, request: Request) -> Response:
        context.caller().require_scope("documents:read")
        body = read_model(SearchBody, await read_body(request, MAX_BODY_BYTES))
        queries = [body.query] if isinstance(body.query, str) else body.query
        passages, filters = await self._search_all(request.path_params["vector_store_id"], queries, body)
        page = {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "applied_filters": filters,
            "data": [_result(passage) for passage in passages],
            "has_more": False,
            "next_page": None,
        }
        return JSONResponse(page)

    async def _search_all(
        self, collection: str, queries: list[str], body: SearchBody
    ) -> tuple[list[Passage], list[dict[str, Any]]]:
        """Return the passages of all queries, best first, each once, and the automatic filters of each query."""
        filter_ = _filter(body.filters)
        best: dict[tuple[str, int], Passage] = {}
        filters: list[dict[str, Any]] = []
        for query in queries:
            search = SearchRequest(
                collection=collection,
                question=query,
                limit=body.max_num_results,
                filter=filter_,
                auto_filters=body.auto_filters,
            )
            validate(search)
            answer = await self._search(search)
            filters += [{"type": "in", "key": f.key, "value": list(f.values)} for f in answer.applied_filters]
            for passage in answer.passages:
                first_match = best.setdefault((passage.document, passage.chunk), passage)
                first_match.score = max(first_match.score, passage.score)
        ranked = sorted(best.values(), key=lambda passage: -passage.score)
        passages = [p for p in ranked if p.score >= body.ranking_options.score_threshold][: body.max_num_results]
        return passages, filters


def _filter(filters: dict[str, Any] | None) -> Struct:
    """Return a filter as a message of the contract.

    Raises:
        InvalidRequest: the filter is invalid; the message contains its path.
    """
    struct = Struct()
    if filters is not None:
        attribute_filters.parse(filters, "filters")
        struct.update(filters)
    return struct


def _result(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.document,
        "filename": passage.title,
        "score": passage.score,
        "attributes": from_values(passage.attributes),
        "content": [{"type": "text", "text": passage.text}],
    }
