"""The `documents.write` activity: writes a text as a file."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drw.api.rag.v1.documents_pb2 import PutFileRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext


class WriteArguments(Arguments):
    """Name and text of the file."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w][\w .-]*$")
    text: str


async def perform(services: Services, step_context: StepContext, arguments: WriteArguments) -> dict[str, Any]:
    """Return the id, the name and the size of the file.

    The name contains the ids of run and step, so that writing it again gives the same file.
    """
    stem, dot, extension = arguments.name.rpartition(".")
    identity = step_context.idempotency_key.replace("/", "-")
    name = f"{stem}-{identity}.{extension}" if dot else f"{arguments.name}-{identity}"
    content = arguments.text.encode()
    request = PutFileRequest(name=name, content=content, purpose="user_data")
    file = await services.documents.put_file(request, timeout=step_context.timeout_seconds)
    return {"file": file.id, "name": file.name or name, "bytes": len(content)}


ACTIVITY = Activity(WriteArguments, ("documents:write",), perform)
