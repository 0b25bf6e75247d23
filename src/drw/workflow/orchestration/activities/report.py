"""The `documents.report` activity: writes sections as one Markdown document, with quotes and marks of support."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drw.api.rag.v1.documents_pb2 import PutFileRequest
from drw.grounding import quotes
from drw.workflow.orchestration.activities.activity import Activity, Arguments, Services, StepContext
from drw.workflow.orchestration.activities.digest import truncate
from drw.workflow.orchestration.activities.grounded import Sentence, quote_block, render, single_line

MAX_QUOTE_CHARACTERS = 400


class Quote(Arguments):
    """A passage, as `retrieve` returns it."""

    file: str = ""
    title: str = ""
    page: int = 0
    text: str


class Section(Arguments):
    """Heading and text of a section, the passages that it rests on, and what they do not support.

    With `sentences`, as `model` and `serving.summarise` return them, the section shows these and not `text`.
    """

    heading: str
    text: str = ""
    sentences: list[Sentence] = Field(default_factory=list)
    passages: list[Quote] = Field(default_factory=list, max_length=50)
    unsupported_figures: list[str] = Field(default_factory=list)


class ReportArguments(Arguments):
    """Title and sections of the document."""

    title: str
    sections: list[Section] = Field(max_length=500)


async def perform(services: Services, step_context: StepContext, arguments: ReportArguments) -> dict[str, Any]:
    """Return the id, the name and the text of the document.

    The name contains the ids of run and step, so that writing it again gives the same file.
    """
    text = render_markdown(arguments)
    name = f"report-{step_context.idempotency_key.replace('/', '-')}.md"
    request = PutFileRequest(name=name, content=text.encode(), purpose="user_data")
    file = await services.documents.put_file(request, timeout=step_context.timeout_seconds)
    shown = truncate(text)
    return {"file": file.id, "name": file.name or name, "text": shown, "truncated": shown != text}


def render_markdown(arguments: ReportArguments) -> str:
    """Return the Markdown."""
    parts = [f"# {single_line(arguments.title) or 'Report'}"]
    for section in arguments.sections:
        parts.append(f"## {single_line(section.heading)}")
        parts += render(section.sentences) or [section.text.strip() or "_No text._"]
        if not section.passages and not section.sentences:
            parts.append("_Not supported: no passage was found._")
        elif section.unsupported_figures:
            parts.append(f"_Not supported by the passages: {', '.join(section.unsupported_figures)}._")
        if section.sentences and section.passages:
            parts.append("Passages:")
        parts += [
            quote_block(
                _excerpt(passage.text, f"{arguments.title} {section.heading}"),
                passage.title or passage.file,
                passage.page,
            )
            for passage in section.passages
        ]
    return "\n\n".join(parts) + "\n"


def _excerpt(text: str, topic: str) -> str:
    """Return the part of a passage that starts with what is nearest to the topic."""
    start = max(0, text.find(quotes.best(text, topic)))
    line = single_line(text[start:])
    end = " …" if len(line) > MAX_QUOTE_CHARACTERS else ""
    return ("… " if start else "") + line[:MAX_QUOTE_CHARACTERS] + end


ACTIVITY = Activity(ReportArguments, ("documents:write",), perform)
