"""The `digest` activity: writes the summaries of many files to one Markdown document."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drw.api.rag.v1.documents_pb2 import PutFileRequest
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext
from drw.workflow.orchestration.activities.grounded import Sentence, render, single_line

MAX_TEXT_BYTES = 32_000
"""Maximum bytes of text in the step's output. The file contains the whole document."""


class Summary(Arguments):
    """The output of `summarise` for one file."""

    file: str
    name: str
    summary: str
    truncated: bool
    sentences: list[Sentence] = Field(default_factory=list)
    """The sentences of the summary. Without them, the document has the summary as it is."""


class DigestArguments(Arguments):
    """Title and summaries of the document."""

    title: str
    summaries: list[Summary]


async def perform(services: Services, step_context: StepContext, arguments: DigestArguments) -> dict[str, Any]:
    """Return the id, the name and the text of the document.

    The name contains the run id, so that writing it again gives the same file.
    """
    text = render_markdown(arguments)
    name = f"digest-{step_context.run}.md"
    request = PutFileRequest(name=name, content=text.encode(), purpose="user_data")
    file = await services.documents.put_file(request, timeout=step_context.timeout_seconds)
    truncated = truncate(text)
    return {"file": file.id, "name": file.name or name, "text": truncated, "truncated": truncated != text}


def render_markdown(arguments: DigestArguments) -> str:
    """Return the Markdown."""
    parts = [f"# {single_line(arguments.title) or 'Digest'}", f"{len(arguments.summaries)} documents."]
    for summary in arguments.summaries:
        note = "\n\n_Of the beginning of the document only._" if summary.truncated else ""
        text = "\n\n".join(render(summary.sentences)) or summary.summary
        parts.append(f"## {single_line(summary.name)}\n\n{text}{note}")
    return "\n\n".join(parts) + "\n"


def truncate(text: str) -> str:
    """Return the beginning of the text that fits in an output, cut between characters."""
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


ACTIVITY = Activity(DigestArguments, ("documents:write",), perform)
