"""The `digest` activity: writes the summaries of many files to one Markdown document."""

from __future__ import annotations

from typing import Any

from drw.api.rag.v1.documents_pb2 import PutFileRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext

MOST_TEXT = 32_000
"""Bytes of the document in the step's output. The file has the whole document."""


class Summary(Arguments):
    """The output of `summarise` for one file."""

    file: str
    name: str
    summary: str
    truncated: bool


class DigestArguments(Arguments):
    """Title and summaries of the document."""

    title: str
    summaries: list[Summary]


async def perform(services: Services, step_context: StepContext, arguments: DigestArguments) -> dict[str, Any]:
    """Return the id, the name and the text of the document.

    The name contains the run id, so that writing it again gives the same file.
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
    """Return the beginning of the text that fits in an output, cut between characters."""
    return text.encode()[:MOST_TEXT].decode(errors="ignore")


def _line(text: str) -> str:
    return " ".join(text.split())


ACTIVITY = Activity(DigestArguments, ("documents:write",), perform)
