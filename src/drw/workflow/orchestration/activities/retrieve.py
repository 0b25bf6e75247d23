"""The `retrieve` activity: searches a collection for the passages that answer a question."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drw.api.rag.v1.retrieval_pb2 import SearchRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext

MAX_PASSAGE_CHARACTERS = 4000


class RetrieveArguments(Arguments):
    """The collection, the question, the number of passages, and optionally the files to search."""

    collection: str
    question: str
    limit: int = Field(default=5, ge=1, le=20)
    files: list[str] = Field(default_factory=list, max_length=100)


async def perform(services: Services, step_context: StepContext, arguments: RetrieveArguments) -> dict[str, Any]:
    """Return the passages, best first. Without a match the list is empty."""
    limit = 50 if arguments.files else arguments.limit  # other files may have better passages
    request = SearchRequest(collection=arguments.collection, question=arguments.question, limit=limit)
    response = await services.retrieval.search(request, timeout=step_context.timeout_seconds)
    passages = [
        {"file": p.document, "title": p.title, "page": p.page, "text": p.text[:MAX_PASSAGE_CHARACTERS]}
        for p in response.passages
        if not arguments.files or p.document in arguments.files
    ][: arguments.limit]
    return {"passages": passages, "found": len(passages)}


ACTIVITY = Activity(RetrieveArguments, ("documents:read",), perform)
