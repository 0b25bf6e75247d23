"""The `index` activity: indexes one file into a collection."""

from __future__ import annotations

from typing import Any

from drw.api.rag.v1.documents_pb2 import IndexFileRequest, Indexing
from drw.kernel.errors import InvalidRequest, Unavailable
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext


class IndexArguments(Arguments):
    """The file and the collection."""

    file: str
    collection: str


async def perform(services: Services, step_context: StepContext, arguments: IndexArguments) -> dict[str, Any]:
    """Return the number of pages and chunks, and whether the file was already indexed.

    Raises:
        InvalidRequest: the file cannot be indexed; the message gives the reason.
    """
    request = IndexFileRequest(file=arguments.file, collection=arguments.collection)
    indexing = await services.documents.index_file(request, timeout=step_context.timeout_seconds)
    if indexing.state == Indexing.FAILED:
        raise InvalidRequest(f"the file {arguments.file!r} cannot be indexed: {indexing.error}")
    if indexing.state != Indexing.COMPLETED:
        raise Unavailable(f"the indexing of {arguments.file!r} ended as {Indexing.State.Name(indexing.state).lower()}")
    return {
        "file": arguments.file,
        "collection": indexing.collection or arguments.collection,
        "pages": indexing.pages,
        "chunks": indexing.chunks,
        "unchanged": indexing.unchanged,
    }


ACTIVITY = Activity(IndexArguments, ("documents:write",), perform)
