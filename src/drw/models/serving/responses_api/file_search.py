"""File search of the Responses API: passages of vector stores for the model, and the citations of its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct

from drw.api.rag.v1.embedding_pb2 import EmbedRequest
from drw.api.rag.v1.embedding_rpc import EmbeddingClient
from drw.api.rag.v1.vector_store_pb2 import Passage, VectorSearchRequest
from drw.api.rag.v1.vector_store_rpc import VectorStoreClient
from drw.kernel.attributes import from_values
from drw.kernel.errors import InvalidRequest
from drw.kernel.observability.overhead import waiting
from drw.kernel.rpc.context import caller
from drw.kernel.storage.audit import AuditWriter, digest
from drw.models.serving.errors import NotSupported
from drw.models.serving.responses_api.objects import COMPLETED, Item, new_id
from drw.models.serving.responses_api.tools import DEFAULT_RESULTS, FileSearchTool
from drw.routing.experiments.retrieval_settings import SearchSettings

READ = "documents:read"
MAX_QUERY = 4000
"""Maximum characters of a query: the end of a longer text."""
INSTRUCTIONS = (
    "Answer from the numbered sources below if they have the answer, and put the number of the source in brackets "
    "after each fact, like [1]. If they do not have it, say so."
)
MARKER = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The passages of one search, best first."""

    query: str
    passages: Sequence[Passage]
    shown: int
    """How many of the passages the model receives."""

    def sources(self) -> str:
        """Return the instructions and the numbered passages for the model."""
        shown = self.passages[: self.shown]
        texts = (f"[{number}] {p.title}, page {p.page}\n{p.text}" for number, p in enumerate(shown, 1))
        return "\n\n".join([INSTRUCTIONS, *texts])

    def item(self, *, with_results: bool) -> Item:
        """Return the output item."""
        results = [_result(passage) for passage in self.passages] if with_results else None
        head = {"id": new_id("fs"), "type": "file_search_call", "status": COMPLETED}
        return head | {"queries": [self.query], "results": results}

    def annotations(self, text: str) -> list[dict[str, Any]]:
        """Return a citation for each marker of a passage in a text; `index` is the position of the marker."""
        cited = [(int(n), match.start()) for match in MARKER.finditer(text) for n in match[1].split(",")]
        return [
            {
                "type": "file_citation",
                "index": position,
                "file_id": self.passages[number - 1].document,
                "filename": self.passages[number - 1].title,
            }
            for number, position in cited
            if 1 <= number <= self.shown
        ]


class FileSearch:
    """Searches vector stores for the caller: only collections of its desk, and documents inside its walls."""

    def __init__(
        self, embedding: EmbeddingClient, store: VectorStoreClient | None, audit: AuditWriter, characters: int
    ) -> None:
        self._embedding = embedding
        self._store = store
        self._audit = audit
        self._characters = characters

    async def search(self, tool: FileSearchTool, question: str, arm: SearchSettings) -> SearchResult:
        """Search with the end of a question, with the retrieval settings of an arm.

        Raises:
            Forbidden: the caller cannot read documents.
            NotFound: a vector store does not exist, or the caller cannot see it.
            InvalidRequest: there is no question.
        """
        if self._store is None:
            raise NotSupported("tools", "file_search needs the service vector_store, which does not run")
        caller().require_scope(READ)
        if not (query := question.strip()[-MAX_QUERY:]):
            raise InvalidRequest("file_search needs a text of the user in the input", param="input")
        limit, threshold = arm.limit_of(tool.max_num_results, DEFAULT_RESULTS), arm.threshold_of(tool.threshold)
        with waiting("upstream"):
            embedded = await self._embedding.embed(EmbedRequest(texts=[query], long_text=EmbedRequest.AVERAGE))
            passages: list[Passage] = []
            for collection in dict.fromkeys(tool.vector_store_ids):
                request = VectorSearchRequest(
                    collection=collection,
                    text=query,
                    vector=embedded.vectors[0],
                    limit=limit,
                    filter=_filter(tool),
                    second_filter=arm.filter,
                    no_auto_filters=not arm.auto_filters_of(None),
                )
                found = (await self._store.search(request)).passages
                await self._record(collection, query, found)
                passages += found
        ranked = sorted((p for p in passages if p.score >= threshold), key=lambda p: -p.score)[:limit]
        return SearchResult(query, ranked, self._fitting(ranked))

    def _fitting(self, passages: Sequence[Passage]) -> int:
        """Return how many passages fit into the prompt, at least one."""
        size = 0
        for number, passage in enumerate(passages):
            size += len(passage.text)
            if size > self._characters:
                return max(1, number)
        return len(passages)

    async def _record(self, collection: str, query: str, passages: Sequence[Passage]) -> None:
        found = [{"document": p.document, "chunk": p.chunk, "hash": p.hash} for p in passages]
        details = {"question_sha256": digest(query), "passages": found}
        await self._audit.record("collection.search", collection, details=details)


def _filter(tool: FileSearchTool) -> Struct:
    struct = Struct()
    if tool.filters is not None:
        struct.update(tool.filters)
    return struct


def _result(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.document,
        "filename": passage.title,
        "score": passage.score,
        "text": passage.text,
        "attributes": from_values(passage.attributes),
    }
