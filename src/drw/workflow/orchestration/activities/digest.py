"""Writes one Markdown document with the summaries of many files."""

from __future__ import annotations

from typing import Any

from drw.api.rag.v1.documents_pb2 import PutFileRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext

MOST_TEXT = 32_000
"""Bytes of the document that stand in the step's output; the file has all of it."""


class Summary(Arguments):
    """What `summarise` gives for one file."""

    file: str
    name: str
    summary: str
    truncated: bool


class DigestArguments(Arguments):
    """The heading, and what stands under it."""

    title: str
    summaries: list[Summary]


async def perform(services: Services, step_context: StepContext, arguments: DigestArguments) -> dict[str, Any]:
    """Return the id, the name and the text of the document.

    The name has the run's id: the same bytes under the same name are the same file, however often it is written.
    """
    text = written(arguments)
    name = f"digest-{step_context.run}.md"
    request = PutFileRequest(name=name, content=text.encode(), purpose="user_data")
    file = await services.documents.put_file(request, timeout=step_context.seconds)
    shown = shortened(text)
    return {"file": file.id, "name": file.name or name, "text": shown, "truncated": shown != text}


def written(arguments: DigestArguments) -> str:
    """Return the Markdown."""
    parts = [f"# {_line(arguments.title) or 'Digest'}", f"{len(arguments.summaries)} documents."]
    for each in arguments.summaries:
        note = "\n\n_Of the beginning of the document only._" if each.truncated else ""
        parts.append(f"## {_line(each.name)}\n\n{each.summary}{note}")
    return "\n\n".join(parts) + "\n"


def shortened(text: str) -> str:
    """Return as much of the beginning as an output may hold, without a broken last character."""
    return text.encode()[:MOST_TEXT].decode(errors="ignore")


def _line(text: str) -> str:
    return " ".join(text.split())


ACTIVITY = Activity(DigestArguments, ("documents:write",), perform)
